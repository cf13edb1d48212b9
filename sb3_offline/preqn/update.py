"""
PreQN's critic step (Achiam, Knight and Abbeel 2019), as pure functions.

The change of Q on the batch is made to follow the TD error: Z solves K Z = Delta, and theta' = theta + a Jᵀ Z moves Q
by a Delta to first order (a sum over the batch, not a mean). The step a shrinks until cos(Q' - Q, Delta) reaches a
threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch as th

from sb3_offline.arguments import INSIDE_UNIT, POSITIVE, Interval, check_count, check_number
from sb3_offline.linearization.q_function import (
    Parameters,
    QFunction,
    as_float64,
    evaluation_mode,
    flatten,
    unflatten,
)
from sb3_offline.linearization.td_linearization import Transitions, bellman_residuals

AlignTo = Literal["delta", "projected"]


@dataclass(frozen=True)
class LineSearch:
    """
    :param step_size: first step a tried
    :param decay: factor between trials
    :param max_backtracks: trials after the first; then the update is skipped
    :param cosine: least cosine between the change of Q and what it should follow
    :param align_to: ``"delta"``, the TD errors; or ``"projected"``, their projection onto what the network can do on
        this batch. Where it cannot follow Delta (the same pair twice with two targets), no step size may satisfy the
        first.
    """

    step_size: float = 0.05
    decay: float = 0.5
    max_backtracks: int = 10
    cosine: float = 0.97
    align_to: AlignTo = "delta"

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, POSITIVE)
        check_number("decay", self.decay, INSIDE_UNIT)
        check_count("max_backtracks", self.max_backtracks, least=0)
        check_number("cosine", self.cosine, Interval(-1.0, 1.0))
        if self.align_to not in ("delta", "projected"):
            raise ValueError(f'align_to={self.align_to!r}: choose "delta" or "projected".')


@dataclass(frozen=True)
class PreQNStep:
    """
    :param status: ``"accepted"``; ``"skipped"``, no trial passed the cosine test; ``"zero"``, Delta is 0 or out
        of the network's reach
    :param parameters: the weights after the step, the old ones unless accepted; ``QFunction.assign`` writes them
    :param step_size: a of the accepted trial, else 0
    :param cosine: of the last trial; NaN for ``"zero"``
    :param backtracks: trials after the first
    :param rank: eigenvalues of K kept by the pseudo-inverse
    """

    status: Literal["accepted", "skipped", "zero"]
    parameters: Parameters
    step_size: float
    cosine: float
    backtracks: int
    rank: int


def td_errors(q: QFunction, batch: Transitions) -> th.Tensor:
    """:return: Delta = r + gamma (1 - done) Q(s', mu(s')) - Q(s, a), detached, (B,)"""
    with th.no_grad():
        return -bellman_residuals(q, batch)


def solve_kernel(kernel: th.Tensor, delta: th.Tensor, rcond: float) -> tuple[th.Tensor, int]:
    """
    Least-squares, minimum-norm solution of K Z = Delta by the eigenvalues of K above rcond lambda_max.

    :return: Z, (B,), and the number of eigenvalues kept
    """
    values, vectors = th.linalg.eigh(kernel)
    keep = values > max(rcond * float(values[-1]), 0.0)
    kept = vectors[:, keep]
    return kept @ ((kept.T @ delta) / values[keep]), int(keep.sum())


def preqn_step(
    q: QFunction,
    batch: Transitions,
    search: LineSearch | None = None,
    *,
    rcond: float = 1e-6,
    chunk_size: int | None = None,
) -> PreQNStep:
    """
    One preconditioned update of the critic. Changes nothing in place; the algebra is in float64.

    :raises NonFiniteKernelError: naming the parameter whose derivative is infinite or NaN
    :raises ValueError: for BatchNorm in train mode, or TD errors that are not finite
    """
    search = search or LineSearch()
    old = q.parameters
    delta = as_float64(td_errors(q, batch))
    if not th.isfinite(delta).all():
        raise ValueError(f"TD errors are not finite in rows {(~th.isfinite(delta)).nonzero().flatten().tolist()[:8]}.")
    jacobian = as_float64(th.cat(list(q.jacobian_blocks(batch.observations, batch.actions, chunk_size))))
    kernel = jacobian @ jacobian.T
    z, rank = solve_kernel(kernel, delta, rcond)
    projected = kernel @ z  # Pi Delta
    goal = delta if search.align_to == "delta" else projected
    if projected.norm() <= 1e-12 * delta.norm():
        return PreQNStep("zero", old, 0.0, math.nan, 0, rank)
    direction = jacobian.T @ z

    start = as_float64(flatten(old))
    with evaluation_mode(q.critic), th.no_grad():
        before = as_float64(q(batch.observations, batch.actions))
        cosine = math.nan
        for backtracks in range(search.max_backtracks + 1):
            step_size = search.step_size * search.decay**backtracks
            new = unflatten(start + step_size * direction, old)
            change = as_float64(q(batch.observations, batch.actions, new)) - before
            cosine = float(change @ goal / (change.norm() * goal.norm()))
            if cosine >= search.cosine:
                return PreQNStep("accepted", new, step_size, cosine, backtracks, rank)
    return PreQNStep("skipped", old, 0.0, cosine, search.max_backtracks, rank)
