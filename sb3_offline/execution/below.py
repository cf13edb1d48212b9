"""
What happens beneath ``torch.vmap`` while an update runs for several members at once: steps that change tensors in place, and
networks that are evaluated in another way than ``vmap`` would.

Inside, a tensor stands for one member's; beneath, it holds all of them, along its first dimension.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch as th

Optimizers = Mapping[th.optim.Optimizer, th.optim.Optimizer]

_STACKED: ContextVar[Optimizers | None] = ContextVar("stacked", default=None)


class NotStackable(RuntimeError):
    """An update cannot be run for several members at once."""


@contextlib.contextmanager
def stacked(optimizers: Optimizers) -> Iterator[None]:
    """
    Inside, an update runs under ``vmap``.

    :param optimizers: of one member -> of all members' parameters
    """
    token = _STACKED.set(optimizers)
    try:
        yield
    finally:
        _STACKED.reset(token)


def is_stacked() -> bool:
    """Whether an update of several members is running."""
    return _STACKED.get() is not None


def beneath(optimizer: th.optim.Optimizer) -> th.optim.Optimizer:
    """
    The optimiser of all members' parameters in place of one member's; where nothing is stacked, the optimiser itself.

    :raises NotStackable: for one that is not known
    """
    optimizers = _STACKED.get()
    if optimizers is None:
        return optimizer
    if optimizer not in optimizers:
        raise NotStackable("an optimiser steps that was not registered (register_state)")
    return optimizers[optimizer]


def run_beneath(work: Callable[..., None], *tensors: th.Tensor) -> None:
    """
    ``work(*tensors)``, with all members' tensors, (members, ...) each, where several are stacked.

    :raises NotStackable: if one of the tensors is not of each member its own
    """
    if is_stacked():
        _Beneath.apply(work, *tensors)
    else:
        work(*tensors)


class _Beneath(th.autograd.Function):
    """Work on tensors in place, of which ``vmap`` only knows that it happens."""

    @staticmethod
    def forward(*_: Any) -> Any:
        raise NotStackable("a step in place has nothing to do with the members")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, work: Callable[..., None], *tensors: th.Tensor) -> Any:
        if any(dim is None for dim in in_dims[1:]):
            raise NotStackable("members share a tensor that a step changes in place")
        work(*(tensor.movedim(dim, 0) for tensor, dim in zip(tensors, in_dims[1:], strict=True)))
        return tensors[0].new_zeros(info.batch_size), 0


def of_all(work: Callable[..., th.Tensor], *tensors: th.Tensor) -> th.Tensor:
    """
    One member's part of what ``work`` makes of all members' tensors, (members, ...) each; gradients reach them. Only while
    members are stacked.

    :param work: differentiable; all members' tensors -> (members, ...)
    """
    value: th.Tensor = _OfAll.apply(work, *tensors)
    return value


class _OfAll(th.autograd.Function):
    """``vmap``'s rule for work that knows of the members; it is autograd's own beneath."""

    @staticmethod
    def forward(work: Callable[..., th.Tensor], *tensors: th.Tensor) -> th.Tensor:
        return work(*(tensor.unsqueeze(0) for tensor in tensors)).squeeze(0)  # nothing is of one member alone

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, work: Callable[..., th.Tensor], *tensors: th.Tensor) -> Any:
        each = zip(tensors, in_dims[1:], strict=True)
        return work(*(t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0) for t, dim in each)), 0
