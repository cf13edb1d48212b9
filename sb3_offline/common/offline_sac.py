"""SAC's update on logged data: critic, actor, temperature, targets. Every continuous algorithm starts here."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_offline.arguments import UPDATE_RATE, check_entropy, check_flag, check_number
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.buffers.storage import HostDatasetBuffer
from sb3_offline.common.online import OnlineFineTuning
from sb3_offline.datasets import OfflineDataset
from sb3_offline.execution.optimizers import minimize, plain_optimizer_state, polyak, set_learning_rate
from sb3_offline.execution.precision import Precision
from sb3_offline.execution.updates import Call, Execution, UpdateRunner, call_plainly, check_execution
from sb3_offline.linearization.normalized_td import normalized_td_steps
from sb3_offline.linearization.td_linearization import Transitions
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.networks.policies import POLICIES, OfflineSACPolicy
from sb3_offline.training.schedules import check_rate

CriticUpdate = Literal["adam", "normalized_td"]


@dataclass(frozen=True)
class SACNoise:
    """Standard normals for the actions at the next states and at the states, each (B, 1, action_dim)."""

    next_action: th.Tensor
    action: th.Tensor


class OfflineSAC(OnlineFineTuning):
    """
    Soft Actor-Critic (Haarnoja et al. 2018) on a fixed dataset, the parent of the conservative algorithms. What
    it shares with all algorithms is in :class:`~sb3_offline.common.offline_algorithm.OfflineAlgorithm`; its policy is
    :class:`~sb3_offline.networks.policies.OfflineSACPolicy`, with ``policy_kwargs`` of its own.

    :param learning_rate: Of the actor and the temperature; a number or a schedule.
    :param qf_learning_rate: Of the critics.
    :param tau: Polyak coefficient of the target critics.
    :param ent_coef: Entropy temperature, "auto" to learn it.
    :param target_entropy: Target of the learned temperature; "auto" is minus the number of action dimensions.
    :param entropy_backup: Subtract the entropy term from the critics' target too (SAC's form).
    :param critic_update: "adam", or "normalized_td": w <- w - lambda sum_j d_j e_j / (1 + d_j^T d_j)^2 over the batch, with
        lambda = ``qf_learning_rate`` and the critic's own bootstrap (see :mod:`sb3_offline.linearization.normalized_td`).
    :param semi_gradient: In "normalized_td", d = grad Q(s, a) instead of the gradient of the whole TD residual.
    :param execution: How an update is run: "eager", "compile" (torch.compile), "cuda_graph" (captured once, then replayed), or
        "auto": cuda_graph on a GPU, else eager. The numbers agree to rounding (see :mod:`sb3_offline.execution.updates`).
    :param precision: Of the networks' matrix products: "float32", "tf32" (GPUs) or "bf16"; weights stay float32.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**SAC.policy_aliases, **POLICIES}

    def __init__(
        self,
        *args: Any,
        learning_rate: float | Schedule = 1e-4,
        qf_learning_rate: float | Schedule = 3e-4,
        tau: float = 0.005,
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
        entropy_backup: bool = False,
        critic_update: CriticUpdate = "adam",
        semi_gradient: bool = False,
        execution: Execution = "auto",
        precision: Precision = "float32",
        **kwargs: Any,
    ):
        if critic_update not in ("adam", "normalized_td"):
            raise ValueError(f"critic_update must be 'adam' or 'normalized_td', got {critic_update!r}.")
        if semi_gradient and critic_update == "adam":
            raise ValueError("semi_gradient belongs to critic_update='normalized_td'; Adam's TD step is one already.")
        if precision != "float32" and critic_update == "normalized_td":
            raise ValueError(f"precision={precision!r} belongs to critic_update='adam'.")
        self.qf_learning_rate = check_rate("qf_learning_rate", qf_learning_rate)
        self.entropy_backup = check_flag("entropy_backup", entropy_backup)
        self.critic_update = critic_update
        self.semi_gradient = check_flag("semi_gradient", semi_gradient)
        self.execution: Execution = execution
        self.precision: Precision = precision
        check_entropy(ent_coef, target_entropy)
        kwargs |= {"learning_rate": learning_rate, "ent_coef": ent_coef, "target_entropy": target_entropy}
        kwargs["tau"] = check_number("tau", tau, UPDATE_RATE)
        super().__init__(*args, **kwargs)
        check_execution(execution, precision, self.device, self.capture_obstacle())

    def _setup_model(self) -> None:
        if self.target_entropy == "auto":
            self.target_entropy = -float(np.prod(self.action_space.shape))  # type: ignore[arg-type]
        super()._setup_model()
        normalizer = self._vec_normalize_env
        if normalizer is not None and normalizer.norm_obs and getattr(self.policy, "normalize_observations", False):
            raise ValueError("VecNormalize(norm_obs=True) and normalize_observations normalise twice: drop one of them.")
        self.qf_lr_schedule = FloatSchedule(self.qf_learning_rate)
        self._runner: UpdateRunner | None = None
        self._action_bounds = tuple(
            th.as_tensor(bound, dtype=th.float32, device=self.device)
            for bound in (self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]
        )

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        self._runner = None  # of other data, or other statistics
        if isinstance(self.policy, OfflineSACPolicy):
            observations: Any = self.replay_buffer.observations
            self.policy.fit_normalizers(observations)

    # --- the losses: pure functions of (networks, batch, noise) ---

    def critic_loss(self, nets: SACNetworks, batch: Batch, noise: Any) -> tuple[th.Tensor, Logs]:
        """
        1/2 E_{d_f}(Q - y)^2, summed over the critics, plus what children add (:meth:`critic_penalty`).

        The 1/2 stays: without it every penalty's weight would count half.
        """
        y = self.td_target(nets, batch, noise)  # (B,)
        q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)  # (n_critics, B)
        td_loss = 0.5 * (q - y).square().mean(dim=1).sum()
        penalty, logs = self.critic_penalty(nets, batch, noise, q)
        loss = td_loss + penalty
        return loss, {"critic_loss": loss, "td_loss": td_loss, "q_data": q[:, : batch.n_real].mean(), **logs}

    @th.no_grad()
    def td_target(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        """y = r + gamma (1 - done) min_j Q'_j(s', a'), a' sampled from the current actor: (B,)."""
        actions, log_prob = nets.sample(batch.next_observations, noise.next_action)
        value = nets.q_target(batch.next_observations, actions).amin(dim=0).squeeze(-1)
        if self.entropy_backup:
            value = value - self._ent_coef() * log_prob.squeeze(-1)
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def critic_penalty(self, nets: SACNetworks, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        """
        What an algorithm adds to the TD loss, already weighted and summed over the critics; nothing here.

        :param q: Q of the batch's own actions, (n_critics, B).
        """
        return q.new_zeros(()), {}

    def actor_loss(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> tuple[th.Tensor, th.Tensor, Logs]:
        """E[alpha log pi - min_j Q_j] over the batch's states; also returns log pi (B,) for the temperature."""
        actions, log_prob = nets.sample(batch.observations, noise.action)
        q = nets.q_frozen(batch.observations, actions).amin(dim=0)
        loss = (self._ent_coef() * log_prob - q).mean()
        return loss, log_prob.squeeze(-1), {"actor_loss": loss, "entropy": -log_prob.mean()}

    def _ent_coef(self) -> th.Tensor:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    # --- one update ---

    def sample_batch(self) -> Batch:
        """A batch of d_f; without a model, of the data."""
        return Batch.of(self.replay_buffer.sample(self.batch_size))

    def normals(self, *shape: int, stream: str = "policy") -> th.Tensor:
        """Standard normals from a named stream, on the device."""
        return th.randn(*shape, generator=self.streams[stream], device=self.device)

    def draw_noise(self, batch: Batch) -> Any:
        """All the randomness of one update, so that the losses have none of their own."""
        shape = (len(batch.rewards), 1, batch.actions.shape[1])
        return SACNoise(next_action=self.normals(*shape), action=self.normals(*shape))

    def update(self) -> None:
        """One gradient step, by eager execution, torch.compile or a CUDA graph."""
        if self._runner is None:
            self._runner = UpdateRunner(self)
        self._update_learning_rates()
        self.log_sums.add(self._runner())
        self._n_updates += 1

    def gradient_step(self, nets: SACNetworks, batch: Batch, noise: Any, call: Call = call_plainly) -> Logs:
        """
        Critics, actor, temperature, targets: tensors in, tensors out, nothing that waits for the device.

        :param call: How a loss is called; here is where torch.compile comes in.
        """
        if self.critic_update == "normalized_td":
            logs = self.normalized_td(nets, batch, noise)
        else:
            critic_loss, logs = call(self.critic_loss, nets, batch, noise)
            minimize(critic_loss, self.critic.optimizer)
        self.after_critic_step(logs)
        actor_loss, log_prob, actor_logs = call(self.actor_loss, nets, batch, noise)
        actor_logs |= self.actor_step(actor_loss, nets, batch)
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            target = float(self.target_entropy)
            minimize(-(self.log_ent_coef * (log_prob.detach() + target)).mean(), self.ent_coef_optimizer)
        self.update_targets()
        return {name: value.detach() for name, value in {**logs, **actor_logs, "ent_coef": self._ent_coef()}.items()}

    @property
    def bootstraps_itself(self) -> bool:
        """Whether a critic's target is made of its own present Q, not of the target critics'."""
        return self.critic_update == "normalized_td"

    def capture_obstacle(self) -> str | None:
        """Why this update can be neither compiled nor captured, if so."""
        if self.critic_update == "normalized_td":
            return "critic_update='normalized_td' looks at its Jacobian's values"
        if isinstance(self.replay_buffer, HostDatasetBuffer):
            return "the batches are read from host memory or files (storage)"
        if isinstance(self.replay_buffer, OfflineOnlineBuffer):
            return "rows keep arriving from the environment"
        return None

    def baked_in(self) -> tuple[Any, ...]:
        """What a captured update holds as constants: when it changes, the update is captured again."""
        values = (getattr(self, name, None) for name in inspect.signature(type(self)).parameters)
        options = (value for value in values if isinstance(value, int | float | str))
        return (self.replay_buffer.size(), self.replay_buffer.address, *options)

    def optimizers(self) -> list[th.optim.Optimizer]:
        """All that step in an update."""
        return [o for o in (self.critic.optimizer, self.actor.optimizer, self.ent_coef_optimizer) if o is not None]

    def normalized_td(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> Logs:
        """One step of the normalised rule for each critic, on e = Q(s, a) - r - gamma (1 - done) Q(s', a'), a' ~ pi."""
        discounts, rewards = self.gamma * (1.0 - batch.dones), batch.rewards
        with th.no_grad():
            next_actions, log_prob = nets.sample(batch.next_observations, noise.next_action)
            if self.entropy_backup:
                rewards = rewards - discounts * self._ent_coef() * log_prob.squeeze(-1)
        transitions = Transitions(
            nets.normalize(batch.observations),
            batch.actions,
            rewards,
            discounts,
            nets.normalize(batch.next_observations),
            next_actions.squeeze(1),
        )
        rate = self.qf_lr_schedule(self._current_progress_remaining)
        return normalized_td_steps(self.critic, transitions, rate, semi_gradient=self.semi_gradient)

    def after_critic_step(self, logs: Logs) -> None:
        """Called with the critics' logs; a learned conservative weight takes its step here."""

    def actor_step(self, loss: th.Tensor, nets: SACNetworks, batch: Batch) -> Logs:
        """One step of the actor down its loss; a child may follow another metric than its optimiser's."""
        minimize(loss, self.actor.optimizer)
        return {}

    def networks(self) -> SACNetworks:
        """The view of the networks that the losses get."""
        return SACNetworks(self.policy, self.normalizer)

    def update_targets(self) -> None:
        """Polyak step of the target critics: theta' <- tau theta + (1 - tau) theta'."""
        polyak(self.critic, self.critic_target, self.tau)

    def _update_learning_rates(self) -> None:
        progress = self._current_progress_remaining
        rate, qf_rate = self.lr_schedule(progress), self.qf_lr_schedule(progress)
        for optimizer, value in (
            (self.actor.optimizer, rate),
            (self.critic.optimizer, qf_rate),
            (self.ent_coef_optimizer, rate),
        ):
            if optimizer is not None:
                set_learning_rate(optimizer, value)

    def dump_logs(self) -> None:
        progress = self._current_progress_remaining
        self.logger.record("train/learning_rate", self.lr_schedule(progress))
        self.logger.record("train/qf_learning_rate", self.qf_lr_schedule(progress))
        super().dump_logs()

    # --- save and load ---

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As in SB3; the optimisers' states say nothing of how they were run, so any device can take them over."""
        return {name: plain_optimizer_state(state) for name, state in super().get_parameters().items()}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "qf_lr_schedule", "_action_bounds", "_runner"]
