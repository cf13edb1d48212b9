"""An actor and its critics on logged data: the base of every algorithm for continuous actions, with entropy or without."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_offline.arguments import UPDATE_RATE, Interval, check_number
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.common.idle import keep_online_options
from sb3_offline.common.loop import check_call
from sb3_offline.common.online import OnlineOptions, check_action_noise, go_online
from sb3_offline.common.parts import frozen_copy
from sb3_offline.common.validation import HeldOutValues, Validation
from sb3_offline.execution.optimizers import minimize, polyak
from sb3_offline.execution.updates import Call, call_plainly
from sb3_offline.networks.networks import ActorCriticNetworks, Batch, GaussianNetworks, Logs
from sb3_offline.networks.policies import GAUSSIAN_POLICIES, OfflinePolicy
from sb3_offline.training.schedules import HoldThenDecay

SelfActorCritic = TypeVar("SelfActorCritic", bound="OfflineActorCritic")


#: What the recipes of TD3BC, ReBRAC, IQL, AWAC, FQL and CQL share, found on hopper and halfcheetah medium-replay: targets that
#: follow four times as fast as published, rates that fall to 0 in the second half of ``learn``, the actor's weights averaged.
MODEL_FREE_RECIPE: Mapping[str, Any] = {
    "learning_rate": HoldThenDecay(3e-4),
    "qf_learning_rate": HoldThenDecay(3e-4),
    "tau": 0.02,
    "gamma": 0.995,
    "averaging_rate": 0.001,
}


class OfflineActorCritic(GradientAlgorithm):
    """
    Critics towards a target, an actor by them, targets that follow. What it shares with all algorithms is in
    :class:`~sb3_offline.common.offline_algorithm.OfflineAlgorithm`.

    A child of it alone has a Gaussian actor without entropy (:class:`~sb3_offline.networks.policies.GaussianPolicy`);
    :class:`~sb3_offline.common.offline_sac.OfflineSAC` and :class:`~sb3_offline.common.offline_td3.OfflineTD3` add those of
    SAC and TD3. It says what its target (:meth:`td_target`) and its actor's loss (:meth:`actor_loss`) are, declares further
    networks by :meth:`register_state` in ``_setup_model``, and draws what they need in :meth:`draw_noise`.

    :param learning_rate: Of the actor; a number or a schedule.
    :param qf_learning_rate: Of the critics.
    :param tau: Polyak coefficient of the target networks.
    :param averaging_rate: ``predict``, evaluation and ``export_onnx`` act by an exponential average of the actor's weights,
        which moves towards them by this share at every step of the actor (and by more among the first steps, so that it spans
        their last tenth). The losses, the rollouts and what goes on online see the actor itself. 0 keeps no average.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = GAUSSIAN_POLICIES
    rates = ("learning_rate", "qf_learning_rate")
    critic_rate = "qf_learning_rate"
    policy_delay: int = 1  # the actor, and the targets, step once in so many updates
    td_weight: ClassVar[float] = 0.5  # of (Q - y)^2; every penalty's weight is relative to it
    actor: Any
    critic: Any
    critic_target: Any
    qf_learning_rate: float | Schedule
    qf_lr_schedule: Schedule
    _action_bounds: tuple[th.Tensor, th.Tensor]  # low and high, in the environment's units

    def __init__(
        self,
        *args: Any,
        learning_rate: float | Schedule = 3e-4,
        qf_learning_rate: float | Schedule = 3e-4,
        tau: float = 0.005,
        averaging_rate: float = 0.0,
        **kwargs: Any,
    ):
        self.averaging_rate = check_number("averaging_rate", averaging_rate, Interval(0.0, 1.0))
        kwargs |= {"learning_rate": learning_rate, "qf_learning_rate": qf_learning_rate}
        super().__init__(*args, tau=check_number("tau", tau, UPDATE_RATE), **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        policy: Any = self.policy  # holds the networks, and is saved with them
        for name, rate in (("critic", "qf_learning_rate"), ("actor", "learning_rate")):
            network, target = getattr(policy, name), getattr(policy, f"{name}_target", False)
            self.register_state(name, network, optimizer=network.optimizer, rate=rate, target=target, saved=False)
        if self.averaging_rate > 0 and isinstance(policy, OfflinePolicy):
            policy.averaged_actor = frozen_copy(policy.actor)
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        bounds = [th.as_tensor(bound, dtype=th.float32, device=self.device) for bound in (low, high)]
        self.register_state("_action_bounds", bounds, saved=False)

    def networks(self) -> ActorCriticNetworks:
        """The view of the networks that the losses get."""
        return GaussianNetworks(self.policy, self.normalizer)

    # --- the losses: pure functions of (networks, batch, noise) ---

    def critic_loss(self, nets: Any, batch: Batch, noise: Any) -> tuple[th.Tensor, Logs]:
        """``td_weight`` E_{d_f}(Q - y)^2, summed over the critics, plus the :attr:`terms` (:meth:`critic_penalty`)."""
        y = self.td_target(nets, batch, noise)  # (B,)
        q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)  # (n_critics, B)
        td_loss = self.td_weight * (q - y).square().mean(dim=1).sum()
        penalty, logs = self.critic_penalty(nets, batch, noise, q)
        loss = td_loss + penalty
        return loss, {"critic_loss": loss, "td_loss": td_loss, "q_data": q[:, : batch.n_real].mean(), **logs}

    def actor_loss(self, nets: Any, batch: Batch, noise: Any) -> Any:
        """What the actor descends: a scalar, and what to log. A child that overrides :meth:`actor_step` may return more."""
        raise NotImplementedError

    # --- one update ---

    @property
    def actor_is_due(self) -> bool:
        """Whether this update is one of the actor and the targets, too."""
        return (self._n_updates + 1) % self.policy_delay == 0

    @property
    def phase(self) -> Hashable:
        return self.actor_is_due

    def gradient_step(self, nets: Any, batch: Batch, noise: Any, call: Call = call_plainly) -> Logs:
        """Critics; every ``policy_delay``-th update also the actor and the targets."""
        logs = self.critic_step(nets, batch, noise, call)
        policy: Any = self.policy
        if getattr(policy, "spectral_norm", None) is not None:  # SB3's own policies have no such option
            policy.bound_slopes(self.critic)
        if self.actor_is_due:
            logs = {**logs, **self.actor_step(nets, batch, noise, call)}
            self.update_targets()
        return {name: value.detach() for name, value in logs.items()}

    def critic_step(self, nets: Any, batch: Batch, noise: Any, call: Call) -> Logs:
        """One step of the critics, and of what is learned beside them."""
        loss, logs = call(self.critic_loss, nets, batch, noise)
        minimize(loss, self.critic.optimizer)
        self.after_critic_step(logs)
        return logs

    def actor_step(self, nets: Any, batch: Batch, noise: Any, call: Call) -> Logs:
        """One step of the actor."""
        loss, logs = call(self.actor_loss, nets, batch, noise)
        minimize(loss, self.actor.optimizer)
        return logs

    def update(self) -> None:
        due = self.actor_is_due
        super().update()
        if due:
            self._average_actor()

    def _average_actor(self) -> None:
        """theta~ <- theta~ + rate (theta - theta~), rate = max(averaging_rate, 10 / t) at the actor's t-th step."""
        average = getattr(self.policy, "averaged_actor", None)
        if average is None:
            return
        n_steps = self._n_updates // self.policy_delay
        online = isinstance(self.replay_buffer, OfflineOnlineBuffer)  # acts as it learns
        polyak(self.actor, average, 1.0 if online else min(1.0, max(self.averaging_rate, 10.0 / max(n_steps, 1))))

    # --- what diagnostics ask ---

    def next_actions(self, nets: Any, batch: Batch, noise: Any) -> th.Tensor:
        """The policy's, without noise: (B, action_dim)."""
        shape = (len(batch.rewards), 1, batch.actions.shape[1])
        return nets.act(batch.next_observations, batch.actions.new_zeros(shape)).squeeze(1)

    @th.no_grad()
    def watched_values(self, observations: Any, actions: th.Tensor, generator: th.Generator) -> tuple[th.Tensor, th.Tensor]:
        nets: Any = self.networks()
        shape, where = (len(actions), 1, actions.shape[1]), {"generator": generator, "device": self.device}
        normals, uniform = th.randn(shape, **where), 2.0 * th.rand(shape, **where) - 1.0  # type: ignore[call-overload]
        drawn = th.cat([nets.act(observations, normals), uniform], dim=1)
        return nets.q(observations, actions.unsqueeze(1)).squeeze(-1), nets.q(observations, drawn)

    # --- what held-out rows say ---

    def held_out_values(self, rows: Validation) -> HeldOutValues:
        """Of actions by the same noise each time, from no stream of the training."""
        nets: Any = self.networks()
        logged = rows.actions.unsqueeze(1)
        generator = th.Generator(device=self.device).manual_seed(0)
        noise, next_noise = th.randn((2, *logged.shape), generator=generator, device=self.device)
        return HeldOutValues(
            nets.q(rows.observations, logged).mean(dim=0).squeeze(1),
            nets.q(rows.observations, nets.act(rows.observations, noise)).mean(dim=0).squeeze(1),
            self.value_of_next(nets, rows.next_observations, next_noise),
            self.likelihood(nets, rows),
        )

    def value_of_next(self, nets: Any, observations: Any, noise: th.Tensor) -> th.Tensor:
        """What the target makes of what follows, (B,): min_j Q'_j of the policy's action."""
        return nets.q_target(observations, nets.act(observations, noise)).amin(dim=0).squeeze(1)

    def likelihood(self, nets: Any, rows: Validation) -> th.Tensor:
        """log pi(a|s) of held-out actions, (B,), or of an actor without a density minus its action's mean squared distance."""
        logged = rows.actions.unsqueeze(1)
        if hasattr(nets, "log_prob"):
            return nets.log_prob(rows.observations, logged).squeeze(1)
        return -(nets.act(rows.observations, th.zeros_like(logged)) - logged).square().mean(dim=(1, 2))

    # --- online ---

    def exploration_noise(self) -> ActionNoise | None:
        """What :meth:`learn_online` adds to actions if nothing is given: nothing, where the policy itself is random."""
        return None

    def learn_online(
        self: SelfActorCritic,
        total_timesteps: int,
        env: GymEnv | str | None = None,
        callback: MaybeCallback = None,
        *,
        offline_ratio: float = 0.5,
        learning_rate: float | Schedule | None = None,
        qf_learning_rate: float | Schedule | None = None,
        averaged: bool = False,
        action_noise: ActionNoise | None = None,
        buffer_size: int | None = None,
        learning_starts: int = 200,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfActorCritic:
        """
        Go on learning on a real environment, with this algorithm's own losses; a later ``learn`` is offline again.

        The policy itself explores from the first step on: the actor, not its average (``averaging_rate``), which is then kept
        equal to it. Called again, it keeps what was collected. Model-based algorithms go on with the dynamics they have.
        Arguments not listed are SB3's.

        :param total_timesteps: Environment steps.
        :param env: The environment; the model's own if not given.
        :param offline_ratio: Share of the real rows of a batch that is drawn from the data, in [0, 1).
        :param learning_rate: Online rate of actor and temperature; if not given, the value at which its schedule ends, or
            where that is 0 begins.
        :param qf_learning_rate: Online rate of the critics, likewise.
        :param averaged: Begin with the averaged actor in place of the actor itself.
        :param action_noise: Added to the actions that are tried; if not given, :meth:`exploration_noise`.
        :param buffer_size: Online transitions that are kept beside the data: 100,000, or what the first call gave.
        :param learning_starts: Environment steps before the first update.
        :param log_interval: Episodes between log lines.
        :return: The model.
        :raises ValueError: if there is no simulator, no data, more than one environment, or a rate of 0.
        """
        options = OnlineOptions(total_timesteps, offline_ratio, buffer_size, learning_starts, train_freq, gradient_steps)
        rates = {"learning_rate": learning_rate, "qf_learning_rate": qf_learning_rate}
        if action_noise is not None:
            check_action_noise(action_noise, self.action_space)
        check_call(callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        go_online(self, env, options, rates, progress_bar)
        if averaged:
            policy: Any = self.policy
            self.actor.load_state_dict(policy.deployed_actor.state_dict())
        self._average_actor()
        self.action_noise = self.exploration_noise() if action_noise is None else action_noise
        keep_online_options(self)
        return OffPolicyAlgorithm.learn(
            self,
            options.total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]
            tb_log_name or f"{type(self).__name__}_online",
            reset_num_timesteps,
            progress_bar,
        )

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        sampled = super()._sample_action(0, *args, **kwargs)  # a trained policy has no use for SB3's random first steps
        if sampled[0].shape[1:] != self.action_space.shape:
            raise ValueError(f"action_noise does not fit actions of shape {self.action_space.shape}: {self.action_noise}.")
        return sampled
