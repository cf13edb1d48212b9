"""
One run by several processes, which torchrun starts: each draws from its own share of the rows, and all step by the mean of
their gradients, so that they hold the same weights. Alone, as most runs are, nothing here does anything.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch as th
import torch.distributed as dist

WAIT = datetime.timedelta(hours=2)  # at most, for each other: the first rank evaluates while the others wait

_updating = False  # whether an update runs, whose gradients belong to all


class RankLostError(ConnectionError):
    """Another process of this run has ended, or the ranks are no longer one run."""


def join() -> None:
    """Take one's place among the processes that torchrun has started, once: gloo on CPUs, nccl on GPUs."""
    if not dist.is_available() or dist.is_initialized() or not dist.is_torchelastic_launched():
        return
    has_gpus = th.cuda.is_available()
    if has_gpus:
        th.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo", timeout=WAIT)


def size() -> int:
    """How many processes this run has."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """Whether this one logs, evaluates and saves for all."""
    return rank() == 0


def share_of(n: int) -> tuple[int, int]:
    """The first of ``n`` things that are this rank's own, and the one after its last."""
    return rank() * n // size(), (rank() + 1) * n // size()


@contextlib.contextmanager
def updating() -> Iterator[None]:
    """Inside, gradients and statistics of a batch are those of all ranks' batches; every rank must come here alike."""
    global _updating
    before, _updating = _updating, size() > 1
    try:
        yield
    finally:
        _updating = before


def average(gradients: Sequence[th.Tensor]) -> None:
    """In an update, change each to its mean over the ranks, in place."""
    if not _updating or not gradients:
        return
    joined = th.cat([gradient.reshape(-1) for gradient in gradients])
    _together(dist.all_reduce, joined.div_(size()))
    parts = joined.split([gradient.numel() for gradient in gradients])
    th._foreach_copy_([*gradients], [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])


def batch_mean(values: th.Tensor) -> th.Tensor:
    """The mean, (), over this batch; in an update over the batches of all ranks. It has no gradient."""
    mean = values.detach().mean()
    if _updating:
        mean = mean / size()
        _together(dist.all_reduce, mean)
    return mean


def largest(*values: int) -> list[int]:
    """Each one's largest value over the ranks."""
    if size() == 1:
        return [*values]
    joined = th.tensor(values)
    _together(partial(dist.all_reduce, op=dist.ReduceOp.MAX), joined)
    return joined.tolist()


def common_seed(seed: int | None) -> int | None:
    """The first rank's seed for all of them, which it draws if it has none."""
    if size() == 1:
        return seed
    own = secrets.randbelow(2**31) if seed is None else seed
    return largest(own if is_first() else -1)[0]


@th.no_grad()
def take_from_first(tensors: Sequence[th.Tensor]) -> None:
    """Let these tensors hold on every rank what they hold on the first."""
    if size() > 1:
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            _together(partial(dist.broadcast, src=0), whole)
            tensor.copy_(whole)


@th.no_grad()
def gathered(part: th.Tensor, n: int) -> th.Tensor:
    """
    The rows of all ranks.

    :param part: (own, ...), the rows of :func:`share_of` ``(n)``
    :return: (n, ...)
    """
    if size() == 1:
        return part
    whole = part.new_zeros((n, *part.shape[1:]))
    first, last = share_of(n)
    whole[first:last] = part
    _together(dist.all_reduce, whole)
    return whole


def summed(value: th.Tensor) -> th.Tensor:
    """The sum of all ranks' values."""
    if size() > 1:
        value = value.clone()
        _together(dist.all_reduce, value)
    return value


@th.no_grad()
def check_alike(tensors: Sequence[th.Tensor]) -> None:
    """:raises RankLostError: if these are not the same numbers on all ranks"""
    if size() == 1:
        return
    norms = th.stack([norm.double() for norm in th._foreach_norm([tensor.detach() for tensor in tensors])]).sum().cpu()
    least = -norms
    for extreme in (norms, least):
        _together(partial(dist.all_reduce, op=dist.ReduceOp.MAX), extreme)
    if norms != -least:
        raise RankLostError(
            "The ranks' weights have parted: a step of this update is not one by gradients that are averaged. Train this "
            "configuration in one process."
        )


def _together(collective: Callable[..., Any], tensor: th.Tensor) -> None:
    try:
        collective(tensor)
    except RuntimeError as error:
        raise RankLostError(
            f"Rank {rank()} of {size()} lost the others: one of them ended, and its own output says why. What was saved is "
            f"whole; resume from the last checkpoint, with any number of ranks. ({str(error).splitlines()[0][:120]})"
        ) from error
