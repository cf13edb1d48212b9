"""Worst cases of E_a Q(s, a) around pi^f, from samples of its two strata: pi_beta with weight f and pi with 1 - f."""

from __future__ import annotations

from typing import Literal

import torch as th

from sb3_offline.networks.networks import Logs

Robustness = Literal["std", "chi2", "wasserstein"]

_BISECTIONS = 40  # halve the bracket of eta to 1e-12 of its width


def strata(q_behavior: th.Tensor, q_policy: th.Tensor, f: float, n_particles: int = 1) -> list[tuple[float, th.Tensor]]:
    """
    The parts of pi^f that are sampled apart, each with its weight: pi_beta, and pi, or where pi is the equal mixture of n
    particles each of these, to which the i-th action belongs if i = k mod n.
    """
    parts = [((1 - f) / n_particles, q_policy[..., k::n_particles]) for k in range(n_particles)]
    return [(f, q_behavior), *parts]


def stratified_variance(q_behavior: th.Tensor, q_policy: th.Tensor, f: float, n_particles: int = 1) -> th.Tensor:
    """
    Var_{pi^f}(Q) from samples of each stratum; unbiased for sum_k w_k (v_k + (m_k - m)^2), which for two strata is
    f v_b + (1-f) v_p + f (1-f) (m_b - m_p)^2; never negative.

    :param q_behavior: Q at N_b actions of pi_beta, (..., N_b); N_b = 1 leaves its within-variance out.
    :param q_policy: Q at N_p actions of pi, (..., N_p).
    :param f: Weight of pi_beta.
    :param n_particles: Of pi's mixture, at most N_p, see :func:`strata`.
    :return: (...)
    """
    parts = strata(q_behavior, q_policy, f, n_particles)
    mean = sum(weight * q.mean(-1, keepdim=True) for weight, q in parts)
    variance = sum((weight * (q - mean).square().mean(-1) for weight, q in parts), start=q_policy.new_zeros(()))
    for weight, q in parts:  # + w^2 v / N, Bessel-corrected
        n = q.shape[-1]
        if n > 1:
            variance = variance + weight**2 * q.var(dim=-1) / n
    return variance


def drawn_states(n_states: int, n_drawn: int, generator: th.Generator) -> th.Tensor:
    """
    Which states of a batch a term is estimated at: ``n_drawn`` of them, uniformly and without replacement.

    The mean over these of anything that is computed state by state has the batch's mean as its expectation, and the variance
    (1 / n_drawn - 1 / n_states) times the batch's. (Fewer actions a state would not do: a root of a variance estimated from
    fewer samples is smaller on average, by Jensen.)

    :return: (n_drawn,) int64, rising, on the generator's device
    :raises ValueError: if there are not so many states
    """
    if not 1 <= n_drawn <= n_states:
        raise ValueError(f"{n_drawn} states cannot be drawn from {n_states}.")
    keys = th.rand(n_states, generator=generator, device=generator.device)  # as randperm, but a CUDA graph can hold it
    return keys.argsort()[:n_drawn].sort().values


def stratified_weights(q_behavior: th.Tensor, q_policy: th.Tensor, f: float, n_particles: int = 1) -> th.Tensor:
    """p, the weights of the joined samples in pi^f, f / N_b each, then (1 - f) / N_p (each particle alike): (N_b + N_p,)."""
    (_, behavior), *policies = strata(q_behavior, q_policy, f, n_particles)
    weights = q_policy.new_empty(q_policy.shape[-1])
    for k, (weight, q) in enumerate(policies):
        weights[k::n_particles] = weight / q.shape[-1]
    return th.cat([behavior.new_full((behavior.shape[-1],), f / behavior.shape[-1]), weights])


@th.no_grad()
def chi2_worst_weights(values: th.Tensor, p: th.Tensor, radius: th.Tensor) -> th.Tensor:
    """
    The q that reaches sup E_q Z over sum_i (q_i - p_i)^2 / p_i <= radius (twice the radius of Duchi and Namkoong 2016).

    q_i ~ p_i (Z_i - eta)_+, with eta by bisection on E_p[(Z - eta)_+^2] / E_p[(Z - eta)_+]^2 = 1 + radius; from radius
    1 / P(Z = max) - 1 on, all weight is on the maximum. The gradient of the sup is that of sum_i q_i Z_i with q held fixed.

    :param values: Z, (..., N).
    :param p: Base weights, positive, sum 1: (N,).
    :param radius: Not negative, broadcasts with (...).
    :return: q, (..., N).
    """
    z = values - values.amax(dim=-1, keepdim=True)
    radius = th.as_tensor(radius).to(z).expand(z.shape[:-1]).unsqueeze(-1)
    at_top = p * (z == 0)
    top_mass = at_top.sum(dim=-1, keepdim=True)
    # Unclipped, eta = E - sigma / sqrt(radius); clipping only lowers the ratio, so the root lies above
    mean = (p * z).sum(dim=-1, keepdim=True)
    std = (p * (z - mean).square()).sum(dim=-1, keepdim=True).sqrt()
    low, high = mean - std * radius.clamp(min=1e-12).rsqrt(), th.zeros_like(mean)
    for _ in range(_BISECTIONS):
        eta = 0.5 * (low + high)
        part = (z - eta).clamp(min=0)
        ratio = (p * part.square()).sum(dim=-1, keepdim=True) / (p * part).sum(dim=-1, keepdim=True).square()
        above = ratio > 1.0 + radius
        low, high = th.where(above, low, eta), th.where(above, eta, high)
    tilted = p * (z - low).clamp(min=0)
    tilted = tilted / tilted.sum(dim=-1, keepdim=True)
    at_its_top = (radius >= 1.0 / top_mass - 1.0) | (std == 0)  # p may sum to a little less than 1
    q = th.where(at_its_top, at_top / top_mass, tilted)
    return th.where(radius == 0, p.expand_as(q), q)


def smoothing(q: th.Tensor) -> th.Tensor:
    """eps, which keeps the root smooth where all actions have the same Q: a thousandth of the spread of Q."""
    return 1e-3 * q.detach().std().clamp(min=1e-3)


def spread_logs(spread: th.Tensor, q: th.Tensor, active: th.Tensor) -> Logs:
    """Signs of collapse: the spread of Q across actions, alone and relative to Q, and how often the term is ``active``."""
    relative = (spread / (q.detach().abs() + smoothing(q))).mean()
    return {"q_spread": spread.mean(), "q_relative_spread": relative, "robust_active_fraction": active.float().mean()}
