"""
The normalised critic rule: w <- w - lambda sum_j d_j e_j/(1 + d_jᵀd_j)² over a window of M transitions.

It is the gradient of 1/2 sum_j e_j²/(1 + d_jᵀd_j)² with the normaliser held fixed. With the residual gradient
(d = grad e) it has the double-sampling bias in stochastic MDPs; ``semi_gradient`` takes d = grad Q(z) instead.
At most local ultimate boundedness is claimed for it: persistent excitation is impossible when M is below the number
of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ContinuousCritic

from sb3_offline.linearization.q_function import Parameters, QFunction, flatten, unflatten
from sb3_offline.linearization.td_linearization import Transitions, bellman_residuals, data_vectors


@dataclass(frozen=True)
class NormalizedTDStep:
    """
    :param parameters: the weights after the step; ``QFunction.assign`` writes them into the critic
    :param residuals: e before the step, (M,)
    :param squared_norms: d_jᵀd_j, (M,)
    """

    parameters: Parameters
    residuals: th.Tensor
    squared_norms: th.Tensor


def safe_learning_rate(n_transitions: int) -> float:
    """
    8/M, the bound of the linear theory: E = sum_j d_j d_jᵀ/(1 + d_jᵀd_j)² has lam_max <= M/4 at every w, and the linear part
    is non-expansive up to 2/lam_max.

    :param n_transitions: M, of one step's window
    """
    return 8.0 / n_transitions


def normalized_td_step(
    q: QFunction,
    batch: Transitions,
    learning_rate: float,
    *,
    semi_gradient: bool = False,
    chunk_size: int | None = None,
) -> NormalizedTDStep:
    """
    One step on the M transitions of ``batch``, all taken at the present weights. Changes nothing in place.

    The linear part is non-expansive for learning_rate <= 2/lam_max (see ``excitation``), for which 8/M suffices.

    :raises ValueError: for a learning rate that is not positive
    :raises NonFiniteKernelError: naming the parameter whose derivative is infinite or NaN
    """
    if not learning_rate > 0:
        raise ValueError(f"learning_rate={learning_rate} must be positive; 8/M is always safe for the linear part.")
    parameters = q.parameters
    d = data_vectors(q, batch, semi_gradient=semi_gradient, chunk_size=chunk_size)
    with th.no_grad():
        e = bellman_residuals(q, batch)
    squared_norms = d.square().sum(dim=1)
    descent = (e / (squared_norms + 1).square()) @ d
    return NormalizedTDStep(
        parameters=unflatten(flatten(parameters) - learning_rate * descent, parameters),
        residuals=e,
        squared_norms=squared_norms,
    )


def normalized_td_steps(
    critic: ContinuousCritic, batch: Transitions, learning_rate: float, *, semi_gradient: bool = False
) -> dict[str, th.Tensor]:
    """A step of each Q of a critic on its own errors, in place; the mean squared error and normaliser, to be logged."""
    residuals, norms = [], []
    for index in range(critic.n_critics):
        q = QFunction(critic, index)
        step = normalized_td_step(q, batch, learning_rate, semi_gradient=semi_gradient)
        q.assign(step.parameters)
        residuals.append(step.residuals)
        norms.append(step.squared_norms)
    return {"critic_loss": th.stack(residuals).square().mean(), "normalizer": 1.0 + th.stack(norms).mean()}
