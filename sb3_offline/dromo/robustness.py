"""
The sets over which DROMO's critics are robust, each with what it costs, by name in :data:`SETS`; and the estimates that they
take: worst cases of E_a Q(s, a) around pi^f, from samples of its two strata, pi_beta with weight f and pi with 1 - f.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, Interval, check_count, check_number
from sb3_offline.dromo.networks import DROMONetworks
from sb3_offline.dromo.smoothness import SLOPES, squared_slopes, wasserstein_excess
from sb3_offline.networks.networks import Batch, Logs
from sb3_offline.options import option

Penalty = tuple[th.Tensor, Logs]

_BISECTIONS = 40  # halve the bracket of eta to 1e-12 of its width


@dataclass(frozen=True)
class RobustSet:
    """A child says how large it is, and what it costs."""

    counts: ClassVar[bool] = True  # whether n(s) is asked
    draws: ClassVar[bool] = False  # whether actions of pi^f are drawn
    weighed: ClassVar[bool] = True  # whether beta weighs the penalty; else alpha
    obstacle: ClassVar[str | None] = None  # why an update with it can be neither compiled nor captured

    def size(self, model: Any) -> float:
        """0 is COMBO."""
        raise NotImplementedError

    def penalty(self, term: Any, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> Penalty:
        """
        What the critics pay, summed over them, and what to log; as :meth:`~sb3_offline.common.terms.Term.loss`.

        :param term: A :class:`~sb3_offline.dromo.robust_term.RobustTerm`, which has the weights and the samples.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Sampled(RobustSet):
    """
    A set whose cost is estimated from actions of pi^f.

    :param n_states: At so many states of the batch, drawn anew for each update; None takes all.
    :param n_actions: Over so many of pi and as many of pi_beta at each; one leaves the spread within each out.
    """

    n_states: int | None = 64
    n_actions: int = 4
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n_states is not None:
            check_count("robustness['n_states']", self.n_states)
        check_count("robustness['n_actions']", self.n_actions)


@option
@dataclass(frozen=True)
class Std(Sampled):
    """alpha E_{s ~ d_f} sqrt(Var_{pi^f}(Q(s, .)) / n(s)) (Eq 13), or with ``strict`` alpha sqrt(Var_{d_f}(Q) / n) (Eq 17)."""

    weighed: ClassVar[bool] = False

    def size(self, model: Any) -> float:
        return model.robust_weight

    def penalty(self, term: Any, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> Penalty:
        model, eps = term.model, smoothing(q)
        if model.strict:
            variance, observations = q.var(dim=1, keepdim=True), batch.observations  # (n_critics, 1)
        else:
            behavior, policy = term.mixture_values(nets, batch, noise)
            variance = stratified_variance(behavior, policy, model.real_ratio, model.n_particles)  # (n_critics, S)
            observations, q = term.own_rows(batch, noise, q)
        return spread_penalty(model.robust_weight, variance, nets.visits(observations), eps, q)


@dataclass(frozen=True)
class WorstCase(Sampled):
    """beta E_{s ~ d_f} (sup_q E_q Q - E_{pi^f} Q), over sampled actions; a child says which q of its set reaches the sup."""

    def worst_weights(self, values: th.Tensor, p: th.Tensor, nets: DROMONetworks, observations: th.Tensor) -> th.Tensor:
        """q, (n_critics, S, N), of Q at the actions ``values``, shaped alike, and their weights ``p`` in pi^f (N,)."""
        raise NotImplementedError

    def penalty(self, term: Any, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> Penalty:
        f, n_particles = term.model.real_ratio, term.model.n_particles
        behavior, policy = term.mixture_values(nets, batch, noise)
        values, p = th.cat([behavior, policy], dim=-1), stratified_weights(behavior, policy, f, n_particles)
        observations, q = term.own_rows(batch, noise, q)
        worst = self.worst_weights(values.detach(), p, nets, observations)
        excess = ((worst - p) * values).sum(dim=-1)  # (n_critics, S)
        spread = stratified_variance(behavior, policy, f, n_particles).detach().sqrt()
        logs = spread_logs(spread, q, (worst == 0).any(dim=-1))  # where the worst case leaves some action out
        return (term.beta() * excess.mean(dim=1)).sum(), logs


@option
@dataclass(frozen=True)
class ChiSquare(WorstCase):
    """
    beta E_{s ~ d_f} (sup_{chi^2(q || pi^f) <= radius / n(s)} E_q Q - E_{pi^f} Q), which Eq 13 approximates with
    alpha = beta sqrt(radius).

    :param radius: Twice Duchi and Namkoong's; 0 is COMBO.
    """

    radius: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("robustness['radius']", self.radius, NOT_NEGATIVE)

    def size(self, model: Any) -> float:
        return self.radius

    def worst_weights(self, values: th.Tensor, p: th.Tensor, nets: DROMONetworks, observations: th.Tensor) -> th.Tensor:
        return chi2_worst_weights(values, p, self.radius / nets.visits(observations))


@option
@dataclass(frozen=True)
class CVaR(WorstCase):
    """
    beta E_{s ~ d_f} (sup_{q <= pi^f / share} E_q Q - E_{pi^f} Q): Q's mean over the share of pi^f's mass where it is largest,
    a chance constraint (the paper's section 6). It is at most Eq 13 with alpha / sqrt(n) = beta sqrt(1 / share - 1).

    :param share: In (0, 1]; 1 is COMBO.
    """

    share: float
    counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("robustness['share']", self.share, Interval(0.0, 1.0, open_low=True))

    def size(self, model: Any) -> float:
        return 1.0 - self.share

    def worst_weights(self, values: th.Tensor, p: th.Tensor, nets: DROMONetworks, observations: th.Tensor) -> th.Tensor:
        return cvar_worst_weights(values, p, self.share)


@option
@dataclass(frozen=True)
class Wasserstein(RobustSet):
    """
    beta eps sqrt(E_rho \\|grad_{(s, a)} Q\\|^2), to first order the worst rho within W2 <= eps.

    :param radius: eps, in standard deviations of the observations and units of [-1, 1] of the actions; 0 is COMBO.
    """

    radius: float
    counts: ClassVar[bool] = False
    obstacle: ClassVar[str | None] = SLOPES

    def __post_init__(self) -> None:
        check_number("robustness['radius']", self.radius, NOT_NEGATIVE)

    def size(self, model: Any) -> float:
        return self.radius

    def penalty(self, term: Any, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> Penalty:
        conservative = term.conservative
        observations = batch.observations[conservative.rows(batch)]
        actions, _ = nets.sample(observations, noise.terms[conservative.name].policy[:, :1])
        slope = wasserstein_excess(squared_slopes(nets, observations, actions, nets.observation_scale))  # (n_critics,)
        return (term.beta() * self.radius * slope).sum(), {"q_slope": slope.mean()}


#: By the kind that a user gives as ``robustness``.
SETS: Mapping[str, type[RobustSet]] = {"std": Std, "chi2": ChiSquare, "wasserstein": Wasserstein, "cvar": CVaR}
Robustness: TypeAlias = str | RobustSet | Mapping[str, Any]


# --- estimates ---


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


@th.no_grad()
def cvar_worst_weights(values: th.Tensor, p: th.Tensor, share: float) -> th.Tensor:
    """
    The q that reaches sup E_q Z over q <= p / share (Rockafellar and Uryasev 2000), exact by sorting: from the largest Z on
    each takes p / share, or what is left of 1.

    :param values: Z, (..., N).
    :param p: Base weights, positive, sum 1: (N,).
    :param share: In (0, 1].
    :return: q, (..., N).
    """
    order = values.argsort(dim=-1, descending=True, stable=True)
    taken = (p[order].cumsum(dim=-1) / share).clamp(max=1.0)
    in_order = taken.diff(dim=-1, prepend=th.zeros_like(taken[..., :1])) / taken[..., -1:]  # p may sum to a little less than 1
    return th.zeros_like(in_order).scatter(-1, order, in_order)


def smoothing(q: th.Tensor) -> th.Tensor:
    """eps, which keeps the root smooth where all actions have the same Q: a thousandth of the spread of Q."""
    return 1e-3 * q.detach().std().clamp(min=1e-3)


def spread_penalty(
    weight: float, variance: th.Tensor, visits: th.Tensor, eps: th.Tensor, q: th.Tensor
) -> tuple[th.Tensor, Logs]:
    """
    alpha E_s sqrt(Var / n(s)), summed over the critics, and its logs.

    :param variance: Of Q across actions (Eq 13), (n_critics, S), or over d_f (Eq 17), (n_critics, 1).
    :param visits: n(s), (S,).
    :param eps: See :func:`smoothing`.
    :param q: Of the states' own actions, (n_critics, S).
    """
    spread = (variance + eps.square()).sqrt()  # sigma
    radius = weight * visits.rsqrt()  # alpha / sqrt(n(s)): (S,)
    active = radius >= spread  # where the term flattens Q across actions
    return (radius * spread).mean(dim=1).sum(), spread_logs(spread, q, active)


def spread_logs(spread: th.Tensor, q: th.Tensor, active: th.Tensor) -> Logs:
    """Signs of collapse: the spread of Q across actions, alone and relative to Q, and how often the term is ``active``."""
    relative = (spread / (q.detach().abs() + smoothing(q))).mean()
    return {"q_spread": spread.mean(), "q_relative_spread": relative, "robust_active_fraction": active.float().mean()}
