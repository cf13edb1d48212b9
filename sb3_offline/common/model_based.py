"""What model-based algorithms add: fit the dynamics once, roll it out now and then, mix real and imagined rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_offline.arguments import INSIDE_UNIT, check_count, check_flag, check_number
from sb3_offline.buffers.buffers import ModelRolloutBuffer
from sb3_offline.common import dynamics_fit
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import (
    DynamicsConfig,
    EnsembleDynamics,
    Rollout,
    TerminationFn,
    resolve_reward,
    resolve_termination,
    rollout,
)
from sb3_offline.dynamics.actions import encoded_action_dim
from sb3_offline.dynamics.world import build_dynamics, fit_termination
from sb3_offline.networks.networks import Batch

RolloutPolicy = Literal["current", "target", "uniform"]


class ModelBasedAlgorithm(GradientAlgorithm):
    """
    Batches that mix data with rollouts of a learned ensemble (MBPO, Janner et al. 2019). A child says who acts in
    them: :meth:`rollout_actor`.

    :param real_ratio: f, the share of real rows in a batch: d_f = f d + (1 - f) rho; in (0, 1).
    :param rollout_length: Steps of a rollout, from states of the data.
    :param rollout_freq: Gradient steps between rollouts.
    :param rollout_batch_size: Rollouts started at once.
    :param rollout_retain: How many rollout rounds the model buffer keeps.
    :param rollout_policy: Who acts in rollouts: the "current" policy, its Polyak copy ("target"), or "uniform" actions.
    :param dynamics_kwargs: Options of the ensemble and its fit, see :class:`~sb3_offline.dynamics.DynamicsConfig`.
    :param dynamics_cache: Take an equal fit (same data, options, seed, versions) from the user's cache folder, and put new
        ones there.
    """

    left_out: ClassVar[Mapping[str, str]] = {
        "goal_relabel": "a dynamics model learns vectors, and goals are read from dict observations",
        "n_sampled_goal": "a dynamics model learns vectors, and goals are read from dict observations",
    }

    rows_at_once = (*GradientAlgorithm.rows_at_once, ("rollout_batch_size", "rollout_length", "rollout_retain"))

    def __init__(
        self,
        *args: Any,
        real_ratio: float = 0.5,
        rollout_length: int = 5,
        rollout_freq: int = 1000,
        rollout_batch_size: int = 10_000,
        rollout_retain: int = 5,
        rollout_policy: RolloutPolicy = "current",
        dynamics_kwargs: Mapping[str, Any] | None = None,
        dynamics_cache: bool = True,
        **kwargs: Any,
    ):
        self.real_ratio = check_number("real_ratio", real_ratio, INSIDE_UNIT)
        self.rollout_length = check_count("rollout_length", rollout_length)
        self.rollout_freq = check_count("rollout_freq", rollout_freq)
        self.rollout_batch_size = check_count("rollout_batch_size", rollout_batch_size)
        self.rollout_retain = check_count("rollout_retain", rollout_retain)
        if rollout_policy not in get_args(RolloutPolicy):
            raise ValueError(f"rollout_policy must be 'current', 'target' or 'uniform', got {rollout_policy!r}.")
        self.rollout_policy = rollout_policy
        DynamicsConfig.from_kwargs(dynamics_kwargs)  # refuses bad options now
        self.dynamics_kwargs = None if dynamics_kwargs is None else dict(dynamics_kwargs)
        self.dynamics_cache = check_flag("dynamics_cache", dynamics_cache)
        super().__init__(*args, **kwargs)

    dynamics: EnsembleDynamics
    model_buffer: ModelRolloutBuffer
    termination: TerminationFn
    reward_function: Any
    vectors_only = "a dynamics model learns vectors"

    # --- set up ---

    def _setup_model(self) -> None:
        super()._setup_model()
        dynamics = build_dynamics(
            get_flattened_obs_dim(self.observation_space),
            encoded_action_dim(self.action_space),
            DynamicsConfig.from_kwargs(self.dynamics_kwargs),
            self.streams,
            self.device,
        )
        self.register_state("dynamics", dynamics)
        capacity = self.rollout_retain * self.rollout_length * self.rollout_batch_size
        self.register_state("model_buffer", self.make_model_buffer(capacity), saved=False)

    def make_model_buffer(self, capacity: int) -> ModelRolloutBuffer:
        """Where imagined transitions are kept; a child may keep more beside them."""
        return ModelRolloutBuffer(capacity, self.observation_space, self.action_space, self.device)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        config = DynamicsConfig.from_kwargs(self.dynamics_kwargs)
        if not bool(self.dynamics.fitted):
            self.fit_dynamics(dataset, progress_bar)
        fit_termination(self.dynamics, dataset, config, self.streams)  # of dynamics that came without
        self.register_state("termination", self.resolve_termination(dataset), saved=False)
        self.register_state("reward_function", resolve_reward(config.reward), saved=False)
        self.model_buffer.generator = self.streams["sampling"]
        self.model_buffer.transform_rewards(self.reward_factor, self.reward_shift)

    def resolve_termination(self, dataset: OfflineDataset) -> TerminationFn:
        """What ends imagined episodes, see :func:`~sb3_offline.dynamics.resolve_termination`."""
        option = DynamicsConfig.from_kwargs(self.dynamics_kwargs).termination
        has_terminations, head = bool(dataset.terminations.any()), self.dynamics.termination_head
        return resolve_termination(option, dataset.info.env_spec, has_terminations, head)

    fit_dynamics = dynamics_fit.fit_dynamics
    save_dynamics = dynamics_fit.save_dynamics
    load_dynamics = dynamics_fit.load_dynamics
    dynamics_report = dynamics_fit.dynamics_report
    _log_dynamics = dynamics_fit.log_dynamics

    # --- rollouts ---

    @property
    def rollout_is_due(self) -> bool:
        """Every ``rollout_freq`` gradient steps; online, timesteps count the environment's."""
        step = self._n_updates if self._run is None else self.num_timesteps
        return step % self.rollout_freq == 0

    def before_update(self, callback: BaseCallback) -> None:
        if self.rollout_is_due or self.model_buffer.size() == 0:
            callback.on_rollout_start()
            self.rollout_model()
            callback.on_rollout_end()

    @th.no_grad()
    def rollout_model(self) -> None:
        """
        Roll the model out from states of the data, and append what it imagines to ``model_buffer``.

        :raises ValueError: before the first ``learn``, which fits the model.
        """
        if self.replay_buffer.size() == 0:
            raise ValueError("There is no model to roll out yet: call learn() first.")
        generator = self.streams["rollout"]
        start_rows = self.replay_buffer.sample_index(self.rollout_batch_size, generator)
        imagined = rollout(
            self.dynamics,
            self.replay_buffer.observations[start_rows],
            self.rollout_actor(generator),
            self.termination,
            self.rollout_length,
            generator,
            self.precision,
            self.reward_function,
        )
        self.model_buffer.write(
            observations=imagined.observations,
            actions=self.logged_form(imagined.actions),
            next_observations=imagined.next_observations,
            rewards=imagined.rewards,
            dones=imagined.terminations.float(),
            **self.judge_rollout(imagined),
        )
        self.logger.record("model_rollout/reward_mean", float(imagined.rewards.mean()))
        self.logger.record("model_rollout/length_mean", len(imagined.rewards) / self.rollout_batch_size)
        self.logger.record("model_rollout/terminated_fraction", float(imagined.terminations.float().mean()))
        self.logger.record("model_rollout/buffer_size", self.model_buffer.size())

    def rollout_actor(self, generator: th.Generator) -> Callable[[th.Tensor], th.Tensor]:
        """Who acts in rollouts: observations (B, ...) -> actions as the dynamics take them, (B, action_dim)."""
        raise NotImplementedError

    def logged_form(self, actions: th.Tensor) -> th.Tensor:
        """Actions as the dynamics take them -> as the buffers keep them."""
        raise NotImplementedError

    def judge_rollout(self, imagined: Rollout) -> dict[str, th.Tensor]:
        """What a child's model buffer keeps of each imagined transition besides the transition; nothing here."""
        return {}

    @property
    def n_real(self) -> int:
        """Rows of the data in a batch, round(f B), at least one and not all."""
        return min(max(round(self.real_ratio * self.batch_size), 1), self.batch_size - 1)

    def sample_batch(self) -> Batch:
        """d_f: round(f B) rows of the data, the rest from the model."""
        return Batch.of(self.replay_buffer.sample(self.n_real), self.model_buffer.sample(self.batch_size - self.n_real))

    def baked_in(self) -> tuple[Any, ...]:
        return (*super().baked_in(), self.model_buffer.size(), self.model_buffer.address)
