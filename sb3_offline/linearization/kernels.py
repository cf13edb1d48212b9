"""The neural tangent kernel of a critic, K = J Jᵀ with J = dQ/dpsi, computed chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator

import torch as th
from torch import nn

from sb3_offline.linearization.q_function import QFunction, as_float64
from sb3_offline.linearization.td_linearization import Transitions
from sb3_offline.networks.observations import Observations, take_rows


def jacobian(
    critic: nn.Module,
    observations: Observations,
    actions: th.Tensor | None = None,
    *,
    index: int = 0,
    chunk_size: int | None = None,
) -> th.Tensor:
    """
    J = dQ/dpsi, shape (batch, n_parameters), flattened in parameter order, in the critic's own dtype.

    :param critic: SB3's ``ContinuousCritic`` or DQN's ``QNetwork``, or any module (see :class:`QFunction`)
    :param actions: taken actions, (batch, action_dim), or (batch, 1) for DQN
    :param index: which Q of a critic that has several
    :param chunk_size: rows differentiated at a time; by default what fits into 256 MiB
    :raises ValueError: for BatchNorm in train mode
    :raises NonFiniteKernelError: naming the parameter whose derivative is infinite or NaN
    """
    return th.cat(list(QFunction(critic, index).jacobian_blocks(observations, actions, chunk_size)))


def kernel(
    critic: nn.Module,
    observations: Observations,
    actions: th.Tensor | None = None,
    *,
    index: int = 0,
    chunk_size: int | None = None,
) -> th.Tensor:
    """
    K = J Jᵀ, shape (batch, batch), float64. At most two chunks of J are in memory; blocks are recomputed beyond that.

    Parameters and errors are those of :func:`jacobian`.
    """
    q = QFunction(critic, index)
    size = chunk_size or q.default_chunk_size()
    rows: list[th.Tensor] = []
    for chunk, block in enumerate(q.jacobian_blocks(observations, actions, size)):
        left, before = as_float64(block), slice(0, chunk * size)
        # K is symmetric: only the blocks left of the diagonal are rebuilt
        earlier = q.jacobian_blocks(take_rows(observations, before), None if actions is None else actions[before], size)
        rows.append(th.cat([*(left @ as_float64(other).T for other in earlier), left @ left.T], dim=1))
    n = rows[-1].shape[1]
    lower = th.cat([nn.functional.pad(row, (0, n - row.shape[1])) for row in rows])
    return lower.tril() + lower.tril(-1).T


def transition_kernels(
    critic: nn.Module, batch: Transitions, *, index: int = 0, chunk_size: int | None = None
) -> tuple[th.Tensor, th.Tensor]:
    """:return: K = J(z) J(z)ᵀ and K' = J(z+) J(z)ᵀ, row i belonging to transition i, each (M, M), float64"""
    q = QFunction(critic, index)
    size = chunk_size or q.default_chunk_size()

    def now() -> Iterator[th.Tensor]:
        return map(as_float64, q.jacobian_blocks(batch.observations, batch.actions, size))

    successors = map(as_float64, q.jacobian_blocks(batch.next_observations, batch.next_actions, size))
    if len(batch.rewards) <= size:
        (block,) = now()
        return block @ block.T, th.cat([left @ block.T for left in successors])
    own = kernel(critic, batch.observations, batch.actions, index=index, chunk_size=size)
    return own, th.cat([th.cat([left @ right.T for right in now()], dim=1) for left in successors])
