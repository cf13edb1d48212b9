"""PreQN: Q-learning with a preconditioned critic step (Achiam, Knight and Abbeel 2019, arXiv 1903.08894)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, ReplayBufferSamples

from sb3_offline.arguments import INSIDE_UNIT, Interval, check_number
from sb3_offline.common.idle import keep_online_options
from sb3_offline.common.loop import check_call
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.common.online import OnlineOptions, check_simulator
from sb3_offline.execution.optimizers import check_gradients, minimize
from sb3_offline.linearization.q_function import QFunction
from sb3_offline.linearization.td_linearization import Transitions
from sb3_offline.preqn.update import AlignTo, LineSearch, preqn_step


class CollectedBuffer(ReplayBuffer):
    """What PreQN meets online, which a later ``learn`` leaves behind."""


class PreQN(OfflineAlgorithm, TD3):
    """
    DDPG without target networks, whose critic step moves Q along the TD errors themselves: K Z = Delta,
    theta' = theta + a J^T Z, with a shrunk until cos(Q' - Q, Delta) reaches ``cosine``. Offline by :meth:`learn`, online by
    :meth:`learn_online`.

    :param policy: "MlpPolicy" or an SB3 TD3 policy class; one critic, ``policy_kwargs["activation_fn"]`` selects relu, tanh...
    :param learning_rate: Of the actor (Adam).
    :param batch_size: B; the kernel is B x B, and its Jacobian B x parameters in float64.
    :param step_size: a, tried first.
    :param step_decay: Factor on a for each trial that fails.
    :param max_backtracks: Trials after the first; then the critic's update is skipped, and logged.
    :param cosine: eta, the least alignment that is accepted.
    :param align_to: "delta", or "projected" for what the network can do on this batch (its projection of Delta).
    :param rcond: Eigenvalues of K below this share of the largest are dropped.
    """

    bootstraps_itself = True  # without target networks
    vectors_only = "a Jacobian row for each transition is affordable for vectors"
    recipe: ClassVar = {"learning_rate": 1e-3, "batch_size": 128}
    default_policy_kwargs: ClassVar = {"n_critics": 1}

    def __init__(
        self,
        *args: Any,
        step_size: float = 0.05,
        step_decay: float = 0.5,
        max_backtracks: int = 10,
        cosine: float = 0.97,
        align_to: AlignTo = "delta",
        rcond: float = 1e-6,
        **kwargs: Any,
    ):
        self.step_size, self.max_backtracks = step_size, max_backtracks
        self.step_decay = check_number("step_decay", step_decay, INSIDE_UNIT)
        self.cosine, self.align_to = cosine, align_to
        self.rcond = check_number("rcond", rcond, Interval(0.0, 1.0, open_high=True))
        self._line_search()  # refuses bad values now
        super().__init__(*args, **kwargs)

    def _line_search(self) -> LineSearch:
        return LineSearch(self.step_size, self.step_decay, self.max_backtracks, self.cosine, self.align_to)

    def update(self) -> None:
        """The critic's preconditioned step, then a deterministic policy gradient step of the actor."""
        self._update_learning_rate(self.actor.optimizer)
        data = self.replay_buffer.sample(self.batch_size, env=self._vec_normalize_env)
        q = QFunction(self.critic)
        batch = self.transitions(data)
        step = preqn_step(q, batch, self._line_search(), rcond=self.rcond)
        if step.status == "accepted":
            q.assign(step.parameters)
        actor_loss = -self.critic.q1_forward(data.observations, self.actor(data.observations)).mean()
        minimize(actor_loss, self.actor.optimizer)
        self._n_updates += 1
        self.log_sums.add(
            {
                "actor_loss": actor_loss,
                "q_data": q(data.observations, data.actions).mean(),
                **{
                    name: th.tensor(float(value), device=self.device)
                    for name, value in (
                        ("step_size", step.step_size),
                        ("backtracks", step.backtracks),
                        ("kernel_rank", step.rank),
                        ("skipped_fraction", step.status == "skipped"),
                    )
                },
            }
        )

    def transitions(self, samples: ReplayBufferSamples) -> Transitions:
        """The batch with the actor's next actions."""
        with th.no_grad():
            next_actions = self.actor(samples.next_observations)
        discounts = self.gamma * (1.0 - samples.dones.flatten())
        rewards = samples.rewards.flatten()
        return Transitions(samples.observations, samples.actions, rewards, discounts, samples.next_observations, next_actions)

    @th.no_grad()
    def bootstrap(self, samples: ReplayBufferSamples, seed: int = 0, index: int = 0) -> tuple[th.Tensor, th.Tensor]:
        """The actor's next actions, and y of the critic's own Q there; nothing in it is random."""
        batch, next_actions = self.transitions(samples), self.actor(samples.next_observations)
        value = self.critic(batch.next_observations, next_actions)[index].flatten()
        return next_actions, batch.rewards + batch.discounts * value

    def learn_online(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        *,
        action_noise: ActionNoise | None = None,
        buffer_size: int = 100_000,
        learning_starts: int = 1000,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        log_interval: int = 4,
        tb_log_name: str = "PreQN_online",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> PreQN:
        """
        Learn from the environment with SB3's own loop; the arguments are SB3's, ``log_interval`` in episodes.

        :param total_timesteps: Environment steps.
        :raises ValueError: for arguments out of range, without a simulator, or if rewards are to be transformed, which
            SB3's own buffer does not do.
        """
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0):
            raise ValueError("reward_scale and reward_shift belong to learn(): online, wrap env in TransformReward.")
        options = OnlineOptions(total_timesteps, 0.0, buffer_size, learning_starts, train_freq, gradient_steps)
        check_call(callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        check_gradients()
        check_simulator(self, "model.set_env(...) gives it one")
        self.replay_buffer = CollectedBuffer(  # type: ignore[assignment]
            buffer_size, self.observation_space, self.action_space, self.device, n_envs=self.n_envs
        )
        self.action_noise, self.learning_starts = action_noise, learning_starts
        self.train_freq, self.gradient_steps = train_freq, gradient_steps
        self._convert_train_freq()
        keep_online_options(self)
        return OffPolicyAlgorithm.learn(
            self,
            options.total_timesteps,
            callback,
            log_interval,
            tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )
