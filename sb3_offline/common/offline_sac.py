"""SAC's update on logged data: the actor-critic's, and what entropy adds: log pi in target and actor, and a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_offline.arguments import check_count, check_entropy, check_flag
from sb3_offline.common.actor_critic import OfflineActorCritic
from sb3_offline.common.online import to_sac
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call
from sb3_offline.linearization.normalized_td import normalized_td_steps, safe_learning_rate
from sb3_offline.linearization.td_linearization import Transitions
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.networks.policies import POLICIES

CriticUpdate = Literal["adam", "normalized_td"]


@dataclass(frozen=True)
class SACNoise:
    """
    Standard normals for the actions at the next states and at the states, each (B, 1, action_dim), and what the terms of the
    critics' loss draw, by their names.
    """

    next_action: th.Tensor
    action: th.Tensor
    terms: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


class OfflineSAC(OfflineActorCritic, SAC):
    """
    Soft Actor-Critic (Haarnoja et al. 2018) on a fixed dataset, the parent of the conservative algorithms. What
    it shares with all algorithms is in :class:`~sb3_offline.common.offline_algorithm.OfflineAlgorithm`; its policy is
    :class:`~sb3_offline.networks.policies.OfflineSACPolicy`, with ``policy_kwargs`` of its own.

    :param learning_rate: Of the actor and the temperature; a number or a schedule.
    :param ent_coef: Entropy temperature, "auto" to learn it.
    :param target_entropy: Target of the learned temperature; "auto" is minus the number of action dimensions.
    :param entropy_backup: Subtract the entropy term from the critics' target too (SAC's form).
    :param critic_update: "adam", or "normalized_td": w <- w - lambda sum_j d_j e_j / (1 + d_j^T d_j)^2 over the batch, with
        lambda = ``qf_learning_rate``, 8 / ``batch_size`` if it is not given, and the critic's own bootstrap (see
        :mod:`sb3_offline.linearization.normalized_td`).
    :param semi_gradient: In "normalized_td", d = grad Q(s, a) instead of the gradient of the whole TD residual.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**SAC.policy_aliases, **POLICIES}

    def __init__(
        self,
        *args: Any,
        learning_rate: float | Schedule = 1e-4,
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
        entropy_backup: bool = False,
        critic_update: CriticUpdate = "adam",
        semi_gradient: bool = False,
        **kwargs: Any,
    ):
        if critic_update not in ("adam", "normalized_td"):
            raise ValueError(f"critic_update must be 'adam' or 'normalized_td', got {critic_update!r}.")
        if critic_update == "normalized_td":  # Adam's rates are no measure for it
            batch_size = check_count("batch_size", kwargs.get("batch_size", 256), least=2)
            kwargs.setdefault("qf_learning_rate", safe_learning_rate(batch_size))
        if semi_gradient and critic_update == "adam":
            raise ValueError("semi_gradient belongs to critic_update='normalized_td'; Adam's TD step is one already.")
        precision = kwargs.get("precision", "float32")
        if precision != "float32" and critic_update == "normalized_td":
            raise ValueError(f"precision={precision!r} belongs to critic_update='adam'.")
        self.entropy_backup = check_flag("entropy_backup", entropy_backup)
        self.critic_update = critic_update
        self.semi_gradient = check_flag("semi_gradient", semi_gradient)
        check_entropy(ent_coef, target_entropy)
        kwargs |= {"learning_rate": learning_rate, "ent_coef": ent_coef, "target_entropy": target_entropy}
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if self.target_entropy == "auto":
            self.target_entropy = -float(np.prod(self.action_space.shape))  # type: ignore[arg-type]
        super()._setup_model()
        if self.ent_coef_optimizer is not None:
            self.register_state("ent_coef_optimizer", self.ent_coef_optimizer, rate="learning_rate")

    def networks(self) -> SACNetworks:
        """The view of the networks that the losses get."""
        return SACNetworks(self.policy, self.normalizer)

    # --- the losses: pure functions of (networks, batch, noise) ---

    @th.no_grad()
    def td_target(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        """y = r + gamma (1 - done) min_j Q'_j(s', a'), a' of :meth:`next_sample`: (B,)."""
        actions, log_prob = self.next_sample(nets, batch, noise)
        value = nets.q_target(batch.next_observations, actions).amin(dim=0).squeeze(-1)
        if self.entropy_backup:
            value = value - self._ent_coef() * log_prob.squeeze(-1)
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def next_sample(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> tuple[th.Tensor, th.Tensor]:
        """a' (B, 1, action_dim), that the target bootstraps from, by the current actor, and log pi(a'|s') (B, 1)."""
        return nets.sample(batch.next_observations, noise.next_action)

    def actor_loss(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> tuple[th.Tensor, th.Tensor, Logs]:
        """E[alpha log pi - min_j Q_j] over the batch's states; also returns log pi (B,) for the temperature."""
        actions, log_prob = nets.sample(batch.observations, noise.action)
        q = nets.q_frozen(batch.observations, actions).amin(dim=0)
        loss = (self._ent_coef() * log_prob - q).mean()
        return loss, log_prob.squeeze(-1), {"actor_loss": loss, "entropy": -log_prob.mean()}

    def _ent_coef(self) -> th.Tensor:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    # --- one update ---

    def draw_noise(self, batch: Batch) -> Any:
        shape, terms = (len(batch.rewards), 1, batch.actions.shape[1]), [term for term in self.terms if term.active]
        ahead = [term.draw_ahead(batch) for term in terms]
        next_action, action = self.normals(*shape), self.normals(*shape)
        drawn = {term.name: term.draw_noise(batch, first) for term, first in zip(terms, ahead, strict=True)}
        return SACNoise(next_action, action, terms=drawn)

    def critic_step(self, nets: SACNetworks, batch: Batch, noise: Any, call: Call) -> Logs:
        if self.critic_update == "adam":
            return super().critic_step(nets, batch, noise, call)
        logs = self.normalized_td(nets, batch, noise)
        self.after_critic_step(logs)
        return logs

    def actor_step(self, nets: SACNetworks, batch: Batch, noise: Any, call: Call) -> Logs:
        """One step of the actor, and one of the temperature."""
        loss, log_prob, logs = call(self.actor_loss, nets, batch, noise)
        logs = {**logs, **self.descend(loss, nets, batch)}
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            target = float(self.target_entropy)
            minimize(-(self.log_ent_coef * (log_prob.detach() + target)).mean(), self.ent_coef_optimizer)
        return {**logs, "ent_coef": self._ent_coef()}

    def descend(self, loss: th.Tensor, nets: SACNetworks, batch: Batch) -> Logs:
        """One step of the actor down its loss; a child may follow another metric than its optimiser's."""
        minimize(loss, self.actor.optimizer)
        return {}

    @property
    def bootstraps_itself(self) -> bool:  # type: ignore[override]
        """Whether a critic's target is made of its own present Q, not of the target critics'."""
        return self.critic_update == "normalized_td"

    def capture_obstacle(self) -> str | None:
        if self.critic_update == "normalized_td":
            return "critic_update='normalized_td' looks at its Jacobian's values"
        return super().capture_obstacle()

    # --- the normalised rule, on e = Q(s, a) - r - gamma (1 - done) Q(s', a'), a' ~ pi ---

    def normalized_td(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> Logs:
        """One step of the rule for each critic."""
        rate = self.schedule(self.critic_rate)(self._current_progress_remaining)
        line = self.transitions(nets, batch, noise)
        return normalized_td_steps(self.critic, line, rate, semi_gradient=self.semi_gradient)

    def transitions(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> Transitions:
        """The batch with its next actions, whose rewards hold the entropy term of ``entropy_backup``."""
        discounts, rewards = self.gamma * (1.0 - batch.dones), batch.rewards
        with th.no_grad():
            next_actions, log_prob = self.next_sample(nets, batch, noise)
            if self.entropy_backup:
                rewards = rewards - discounts * self._ent_coef() * log_prob.squeeze(-1)
        return Transitions(
            nets.normalize(batch.observations),
            batch.actions,
            rewards,
            discounts,
            nets.normalize(batch.next_observations),
            next_actions.squeeze(1),
        )

    # --- what diagnostics ask ---

    def next_actions(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        return self.next_sample(nets, batch, noise)[0].squeeze(1)

    def own_target(self, nets: SACNetworks, batch: Batch, noise: SACNoise, index: int) -> th.Tensor:
        line, next_actions = self.transitions(nets, batch, noise), self.next_actions(nets, batch, noise)
        value = nets.q(batch.next_observations, next_actions.unsqueeze(1))[index].squeeze(-1)
        return line.rewards + line.discounts * value

    # --- online ---

    def to_sac(self, env: GymEnv | str | None = None, *, averaged: bool = False, **sac_options: Any) -> SAC:
        """
        SB3's ``SAC`` with these networks, optimisers and temperature, which goes on with plain SAC. It acts by the actor
        itself, and so predicts the same unless an ``averaging_rate`` was used.

        Its file needs this package only if ``layer_norm`` or the like was used. SAC knows no ``reward_scale``, no conservative
        term and no ``qf_learning_rate``: it starts with the actor's rate.

        :param env: The environment; the model's own if not given.
        :param averaged: Take the averaged actor, by which this model predicts, in place of the actor itself.
        :param sac_options: Arguments of ``SAC``, in place of this model's (``learning_rate``, ``buffer_size``, ...).
        """
        return to_sac(self, env, averaged, sac_options)
