"""The conservative term of CQL and its descendants, and the weight that it carries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, check_number
from sb3_offline.common.offline_dqn import DQNNetworks, choose
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.common.terms import Term
from sb3_offline.execution.optimizers import minimize
from sb3_offline.networks.choices import masked
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.networks.observations import Observations, take_rows

Conservatism = Literal["logsumexp", "rho", "expectation"]
TargetGap = float | Literal["auto"] | None

LEARNED_FROM = 2.5  # where a learned weight starts
AUTO_GAP = 0.1  # in standard deviations of Q over the data
#: What OfflineSAC takes and a critic with a conservative term does not.
LEFT_OUT = {
    "critic_update": "the normalised rule has no conservative term, OfflineSAC has it",
    "semi_gradient": "it belongs to OfflineSAC's critic_update='normalized_td'",
}
WITHOUT_EFFECT = {"critic_update": "adam", "semi_gradient": False}
#: The weight is not given beside a gap: it is where the learned one began.
SUPERSEDED = {"conservative_weight": "target_gap"}


class Conservative(Term):
    """
    alpha (out-of-data value - E_D Q) for each critic, beside a TD loss with its 1/2; alpha is fixed, or learned by dual
    descent so that the gap stays below ``target_gap`` (CQL, Eq 30). "auto" depends neither on Q's units nor on how random the
    policy is, which shifts a soft maximum: E_pi Q - E_D Q stays below ``AUTO_GAP`` standard deviations of Q over the batch's
    rows of the data, whatever is pushed down. A child says what the out-of-data value is.

    It goes by the model's ``conservative_weight``, ``target_gap`` and ``conservative``, see :func:`check_conservatism`.
    """

    name = "conservative"
    regularizers: ClassVar[tuple[str, ...]] = ("logsumexp", "rho", "expectation")
    weight_bounds: ClassVar[tuple[float, float]] = (1e-6, 1e6)  # of a learned weight

    def setup(self) -> None:
        model = self.model
        log_weight, optimizer = None, None
        if model.target_gap is not None:
            initial = math.log(max(model.conservative_weight, 1e-6))
            log_weight = th.full((1,), initial, device=model.device, requires_grad=True)
            optimizer = th.optim.Adam([log_weight], lr=model.schedule(model.critic_rate)(1))
        model.register_state("log_conservative_weight", log_weight, saved=log_weight is not None)
        model.register_state("conservative_optimizer", optimizer, saved=optimizer is not None)

    def rows(self, batch: Batch) -> slice:
        """The batch's rows whose states are pushed down: all of them, they are data."""
        return slice(0, len(batch.rewards))

    def out_of_data_value(self, nets: Any, batch: Batch, noise: Any) -> th.Tensor:
        """What is pushed down at the states of :meth:`rows`, such as log sum_a exp Q(s, a): (n_critics, S)."""
        raise NotImplementedError

    def policy_value(self, nets: Any, batch: Batch, noise: Any) -> th.Tensor:
        """E_{a ~ pi} Q(s, a) at the states of :meth:`rows`: (n_critics, S)."""
        raise NotImplementedError

    def loss(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        q_policy = self.out_of_data_value(nets, batch, noise).mean(dim=1)  # (n_critics,)
        q_data = q[:, : batch.n_real]
        gap, weight = q_policy - q_data.mean(dim=1), self.weight()
        logs = {"q_policy": q_policy.mean(), "conservative_gap": gap.mean(), "conservative_weight": weight.mean()}
        if self.model.target_gap == "auto":
            with th.no_grad():
                better = self.policy_value(nets, batch, noise).mean(dim=1) - q_data.mean(dim=1)
                logs["policy_gap"] = (better / q_data.std(dim=1, correction=0).clamp(min=1e-6)).mean()
        return (weight * gap).sum(), logs

    # --- the weight by dual descent ---

    def weight(self) -> th.Tensor:
        """alpha: fixed, or exp(l) within ``weight_bounds``, detached; (1,)."""
        learned = self.model.log_conservative_weight
        if learned is None:
            return th.full((1,), float(self.model.conservative_weight), device=self.model.device)
        return learned.detach().exp().clamp(*self.weight_bounds)

    def after_critic_step(self, logs: Logs) -> None:
        log_weight, optimizer = self.model.log_conservative_weight, self.model.conservative_optimizer
        if log_weight is None:
            return
        # minimise -alpha (gap - tau) over l: a gap above tau raises alpha
        target_gap = self.model.target_gap
        gap, target = ("policy_gap", AUTO_GAP) if target_gap == "auto" else ("conservative_gap", target_gap)
        minimize(-(log_weight.exp() * (logs[gap].detach() - target)).mean(), optimizer)
        low, high = self.weight_bounds
        with th.no_grad():  # l stays within reach: beyond the bounds it could not come back for long
            log_weight.copy_(log_weight.clamp(math.log(low), math.log(high)))


@dataclass(frozen=True)
class ConservativeNoise:
    """
    At the term's S states: ``policy`` normals (S, N, action_dim), and for the log-sum-exp also ``next_policy`` normals and
    ``uniform`` actions in [-1, 1], shaped alike.
    """

    policy: th.Tensor
    next_policy: th.Tensor
    uniform: th.Tensor


class SampledConservative(Conservative):
    """For continuous actions: over ``n_action_samples`` actions of the policy, and for the log-sum-exp three times as many."""

    def _shapes(self, batch: Batch) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Of the policy's actions, and of those that only the log-sum-exp takes."""
        n_states = len(range(*self.rows(batch).indices(len(batch.rewards))))
        n_actions = 1 if self.model.conservative == "expectation" else self.model.n_action_samples
        n_others = n_actions if self.model.conservative == "logsumexp" else 0
        dim = batch.actions.shape[1]
        return (n_states, n_actions, dim), (n_states, n_others, dim)

    def draw_ahead(self, batch: Batch) -> th.Tensor:
        """Uniform actions in [-1, 1]."""
        generator = self.model.streams["policy"]
        return 2.0 * th.rand(self._shapes(batch)[1], generator=generator, device=self.model.device) - 1.0

    def draw_noise(self, batch: Batch, ahead: th.Tensor) -> ConservativeNoise:
        policy, others = self._shapes(batch)
        return ConservativeNoise(self.model.normals(*policy), self.model.normals(*others), uniform=ahead)

    def policy_value(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        observations = take_rows(batch.observations, self.rows(batch))
        return nets.q(observations, nets.sample(observations, noise.terms[self.name].policy)[0]).mean(dim=-1)

    def out_of_data_value(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        """
        max_mu E_mu Q + R(mu), (n_critics, S): log of the integral of exp Q, by importance sampling over 3N actions, for
        R = H(mu); log E_{a ~ pi} exp Q for R = -KL(mu, pi), whose mu is pi exp(Q)/Z; or E_{a ~ pi} Q.
        """
        rows, drawn, kind = self.rows(batch), noise.terms[self.name], self.model.conservative
        observations = take_rows(batch.observations, rows)
        with th.no_grad():
            actions, log_prob = nets.sample(observations, drawn.policy)
            if kind == "logsumexp":  # actions of pi(s') count at s; the uniform density on [-1, 1]^m is .5^m
                next_actions, next_log_prob = nets.sample(take_rows(batch.next_observations, rows), drawn.next_policy)
                actions = th.cat([drawn.uniform, next_actions, actions], dim=1)
                uniform_log_prob = log_prob.new_full(drawn.uniform.shape[:2], -math.log(2.0) * drawn.uniform.shape[2])
                log_prob = th.cat([uniform_log_prob, next_log_prob, log_prob], dim=1)
        q = nets.q(observations, actions)
        if batch.returns is not None:  # Cal-QL, Eq 5.1: max(Q, V) at the policy's actions, not at uniform ones
            uniform, policy = q.tensor_split([drawn.uniform.shape[1]], dim=-1)
            q = th.cat([uniform, policy.maximum(batch.returns[rows].unsqueeze(-1))], dim=-1)
        if kind == "expectation":
            return q.mean(dim=-1)
        return log_mean_exp(q - log_prob if kind == "logsumexp" else q)


class ExactConservative(Conservative):
    """For discrete actions: the sums over them, or over those that the data allow, are exact."""

    regularizers = ("logsumexp", "expectation")  # the greedy pi leaves CQL(rho) nothing to weigh: it is the expectation

    def out_of_data_value(self, nets: DQNNetworks, batch: Batch, noise: None) -> th.Tensor:
        """log sum_a exp Q(s, a), or E_{a ~ pi} Q(s, a): (n_critics, S)."""
        if self.model.conservative == "expectation":
            return self.policy_value(nets, batch, noise)
        observations, masks = self._states(batch)
        return th.logsumexp(masked(nets.q(observations), masks), dim=-1)

    def policy_value(self, nets: DQNNetworks, batch: Batch, noise: None) -> th.Tensor:
        observations, masks = self._states(batch)
        return (choose(nets, observations, masks) * nets.q(observations)).sum(dim=-1)

    def _states(self, batch: Batch) -> tuple[Observations, th.Tensor | None]:
        rows = self.rows(batch)
        return take_rows(batch.observations, rows), None if batch.masks is None else batch.masks[rows]


def check_conservatism(
    model: Any,
    term: type[Conservative],
    conservative_weight: float | None,
    target_gap: TargetGap,
    conservative: str,
    default: float,
) -> None:
    """
    Set the three options of a conservative term.

    :param default: the weight if neither it nor ``target_gap`` is given, and where it begins if that is "auto"
    :raises ValueError: for both, an unknown regulariser, or a weight out of range
    """
    if conservative_weight is not None and target_gap is not None:
        raise ValueError("Give conservative_weight (fixed) or target_gap (the weight is learned), not both.")
    if conservative not in term.regularizers:
        raise ValueError(f"conservative must be one of {', '.join(term.regularizers)}, got {conservative!r}.")
    if conservative_weight is None:
        conservative_weight = default if target_gap in (None, "auto") else LEARNED_FROM
    model.conservative_weight = check_number("conservative_weight", conservative_weight, NOT_NEGATIVE)
    model.target_gap = target_gap if target_gap in (None, "auto") else check_number("target_gap", target_gap)
    model.conservative = conservative


def log_mean_exp(values: th.Tensor) -> th.Tensor:
    """log of the mean of exp over the last dimension."""
    return th.logsumexp(values, dim=-1) - math.log(values.shape[-1])
