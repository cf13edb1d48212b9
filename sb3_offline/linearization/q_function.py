"""One scalar Q(s, a; psi) as a pure function of its parameters, and its Jacobian in psi."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.dqn.policies import QNetwork
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from sb3_offline.networks.observations import Observations, map_observations, n_rows, take_rows

Parameters: TypeAlias = dict[str, th.Tensor]

JACOBIAN_BYTES = 256 * 2**20  # default size of one float64 block of the Jacobian


class NonFiniteKernelError(ValueError):
    """A derivative of Q is infinite or NaN. ``parameter`` is the first one concerned."""

    def __init__(self, parameter: str, rows: list[int], value_is_finite: bool):
        self.parameter = parameter
        cause = (
            "the parameter itself is finite, so look at the inputs and activations of these rows"
            if value_is_finite
            else "the parameter itself holds infinite or NaN values: the critic has already diverged"
        )
        super().__init__(f"dQ/d{parameter} is not finite in batch rows {rows[:8]}; {cause}.")


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """
    Hold every submodule in eval mode, dropout included, and restore each one's own mode afterwards.

    :raises ValueError: if a BatchNorm layer uses batch statistics: Q of one row would then depend on the other rows,
        and the kernel of a single row is undefined.
    """
    modes = {name: child.training for name, child in module.named_modules()}
    for name, child in module.named_modules():
        if isinstance(child, _BatchNorm) and (child.training or child.running_mean is None):
            raise ValueError(
                f"BatchNorm layer {name or type(child).__name__!r} uses batch statistics, so Q of a row depends on the "
                "whole batch and has no kernel. Put the critic in eval mode first, e.g. "
                "`policy.set_training_mode(False)`, and keep `track_running_stats=True`."
            )
    module.eval()
    try:
        yield
    finally:
        for name, child in module.named_modules():
            child.training = modes[name]


class _SingleQ(nn.Module):
    """Brings a critic's output to shape (batch,)."""

    def __init__(self, critic: nn.Module, index: int):
        super().__init__()
        self.critic = critic
        self.index = index

    def forward(self, observations: Observations, actions: th.Tensor | None) -> th.Tensor:
        out = self.critic(observations) if actions is None else self._with_actions(observations, actions)
        if isinstance(out, tuple | list):
            out = out[self.index]
        if out.ndim > 2 or (out.ndim == 2 and out.shape[1] != 1):
            raise ValueError(
                f"{type(self.critic).__name__} returned shape {tuple(out.shape)}: expected (batch,), (batch, 1) or a "
                "tuple of these. Wrap the critic so that it returns the value of the taken action."
            )
        return out.reshape(-1)

    def _with_actions(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        if isinstance(self.critic, QNetwork):
            return self.critic(observations).gather(1, actions.long().reshape(-1, 1))
        return self.critic(observations, actions)


class QFunction:
    """
    Q-function number ``index`` of a critic, with the parameters its TD loss trains.

    :param critic: SB3's ``ContinuousCritic`` (SAC, TD3, DDPG), DQN's ``QNetwork`` (the value of the taken action), or
        any module mapping ``(observations, actions)``, or ``observations`` when no actions are given, to shape
        (batch,), (batch, 1) or a tuple of these.
    :param index: which Q of a critic that returns several.
    :raises ValueError: if there is no such Q.
    """

    def __init__(self, critic: nn.Module, index: int = 0):
        n_critics = critic.n_critics if isinstance(critic, ContinuousCritic) else None
        if index < 0 or (n_critics is not None and index >= n_critics):
            raise ValueError(f"index={index}, but the critic has {n_critics or 'at least one'} Q-functions.")
        self.critic = critic
        self.index = index
        self._single = _SingleQ(critic, index)

    def _is_trained(self, name: str, parameter: th.Tensor) -> bool:
        if isinstance(self.critic, ContinuousCritic):
            if name.startswith("qf") and not name.startswith(f"qf{self.index}."):
                return False
            if name.startswith("features_extractor.") and self.critic.share_features_extractor:
                return False
        return parameter.requires_grad

    @property
    def parameters(self) -> Parameters:
        """The trained parameters by name, in the module's order, detached but sharing memory."""
        return {name: p.detach() for name, p in self.critic.named_parameters() if self._is_trained(name, p)}

    def __call__(
        self, observations: Observations, actions: th.Tensor | None = None, parameters: Parameters | None = None
    ) -> th.Tensor:
        """
        :param parameters: values to use in place of the module's own
        :return: Q, shape (batch,), differentiable in ``parameters``
        """
        values = self.parameters if parameters is None else parameters
        renamed = {f"critic.{name}": value for name, value in values.items()}
        return functional_call(self._single, renamed, (observations, actions))

    def jacobian_blocks(
        self, observations: Observations, actions: th.Tensor | None = None, chunk_size: int | None = None
    ) -> Iterator[th.Tensor]:
        """
        Yield J = dQ/dpsi for consecutive rows, each block of shape (<= chunk_size, n_parameters).

        :param chunk_size: rows per block; by default what fits into 256 MiB in float64
        :raises NonFiniteKernelError: naming the parameter
        :raises ValueError: for BatchNorm in train mode
        """
        parameters = self.parameters

        def row_value(values: Parameters, observation: Observations, action: th.Tensor | None) -> th.Tensor:
            row = None if action is None else action.unsqueeze(0)
            return self(map_observations(observation, lambda x: x.unsqueeze(0)), row, values).squeeze(0)

        row_gradients = vmap(grad(row_value), in_dims=(None, 0, None if actions is None else 0))
        if _is_one_hot(getattr(self.critic, "observation_space", None)):
            row_gradients = _one_by_one(grad(row_value))  # the encoding looks at values, which vmap cannot
        size = chunk_size or self.default_chunk_size()
        for start in range(0, n_rows(observations), size):
            rows = slice(start, start + size)
            chunk = take_rows(observations, rows)
            with evaluation_mode(self.critic):
                blocks = row_gradients(parameters, chunk, None if actions is None else actions[rows])
            block = th.cat([blocks[name].flatten(start_dim=1) for name in parameters], dim=1)
            # the sum is cheap to look at first; a finite block may still overflow it
            if not th.isfinite(block.sum()) and not th.isfinite(block).all():
                raise _non_finite(blocks, parameters, start)
            yield block

    def assign(self, parameters: Parameters) -> None:
        """Copy values into the critic's own parameters, e.g. those of an accepted step."""
        for name, value in self.parameters.items():
            value.copy_(parameters[name])

    def default_chunk_size(self) -> int:
        """:return: the number of Jacobian rows which take 256 MiB in float64, at least 1"""
        return max(1, JACOBIAN_BYTES // (8 * sum(p.numel() for p in self.parameters.values())))


def _is_one_hot(space: spaces.Space | None) -> bool:
    if isinstance(space, spaces.Dict):
        return any(_is_one_hot(entry) for entry in space.values())
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete)


def _one_by_one(gradient: Callable[..., Parameters]) -> Callable[..., Parameters]:
    """What ``vmap(gradient, (None, 0, 0))`` does, in a loop."""

    def rows(parameters: Parameters, observations: Observations, actions: th.Tensor | None) -> Parameters:
        results = [
            gradient(parameters, take_rows(observations, i), None if actions is None else actions[i])
            for i in range(n_rows(observations))
        ]
        return {name: th.stack([result[name] for result in results]) for name in parameters}

    return rows


def _non_finite(blocks: Parameters, parameters: Parameters, first_row: int) -> NonFiniteKernelError:
    diverged = [name for name, value in parameters.items() if not th.isfinite(value).all()]
    bad_rows = {name: ~th.isfinite(block.flatten(start_dim=1)).all(dim=1) for name, block in blocks.items()}
    # a parameter which is itself NaN spoils the derivatives in the others, not its own: name the culprit
    name = diverged[0] if diverged else next(name for name, bad in bad_rows.items() if bad.any())
    rows = th.stack(list(bad_rows.values())).any(dim=0).nonzero().flatten()
    return NonFiniteKernelError(name, (first_row + rows).tolist(), not diverged)


def flatten(values: Parameters) -> th.Tensor:
    """:return: all values end to end in parameter order, shape (n_parameters,)"""
    return th.cat([value.reshape(-1) for value in values.values()])


def unflatten(vector: th.Tensor, like: Parameters) -> Parameters:
    """:return: the inverse of :func:`flatten`, with the shapes and dtypes of ``like``"""
    pieces = vector.split([value.numel() for value in like.values()])
    return {name: piece.reshape(value.shape).to(value) for (name, value), piece in zip(like.items(), pieces, strict=True)}


def as_float64(x: th.Tensor | ArrayLike) -> th.Tensor:
    """:return: ``x`` detached and in float64, on its own device where that has float64, else on the CPU"""
    if not isinstance(x, th.Tensor):
        return th.as_tensor(np.asarray(x, dtype=np.float64))
    return (x.detach().cpu() if x.device.type == "mps" else x.detach()).to(th.float64)
