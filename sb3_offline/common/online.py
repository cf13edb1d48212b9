"""Online after offline: SB3's own loop on a real environment, from offline weights, with the data kept in the mix."""

from __future__ import annotations

from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_offline.arguments import Interval, check_count, check_number, check_steps
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.buffers.statistics import fill_statistics
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.datasets import SpacesOnlyEnv
from sb3_offline.datasets.checks import pass_gate
from sb3_offline.execution.optimizers import plain_optimizer_state
from sb3_offline.execution.updates import UpdateRunner
from sb3_offline.networks.policies import POLICIES, OfflineSACPolicy

SelfOnline = TypeVar("SelfOnline", bound="OnlineFineTuning")


class OnlineFineTuning(OfflineAlgorithm, SAC):
    """An offline SAC that can go on online: :meth:`learn_online` with its own losses, :meth:`to_sac` with SB3's."""

    qf_learning_rate: float | Schedule
    qf_lr_schedule: Schedule
    _runner: UpdateRunner | None

    def learn_online(
        self: SelfOnline,
        total_timesteps: int,
        env: GymEnv | str | None = None,
        callback: MaybeCallback = None,
        *,
        offline_ratio: float = 0.5,
        learning_rate: float | Schedule | None = None,
        qf_learning_rate: float | Schedule | None = None,
        buffer_size: int | None = None,
        learning_starts: int = 200,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOnline:
        """
        Go on learning on a real environment, with this algorithm's own losses; a later ``learn`` is offline again.

        The policy itself explores from the first step on. Called again, it keeps what was collected. Model-based algorithms
        go on with the dynamics they have. Arguments not listed are SB3's.

        :param total_timesteps: Environment steps.
        :param env: The environment; the model's own if not given.
        :param offline_ratio: Share of the real rows of a batch that is drawn from the data, in [0, 1).
        :param learning_rate: Online rate of actor and temperature; if not given, the value at which its schedule ends.
        :param qf_learning_rate: Online rate of the critics, likewise.
        :param buffer_size: Online transitions that are kept beside the data: 100,000, or what the first call gave.
        :param learning_starts: Environment steps before the first update.
        :param log_interval: Episodes between log lines.
        :return: The model.
        :raises ValueError: if there is no simulator, no data, more than one environment, or a rate that has fallen to 0.
        """
        offline_ratio = check_number("offline_ratio", offline_ratio, Interval(0.0, 1.0, open_high=True))
        total_timesteps = check_steps(total_timesteps)
        buffer_size = None if buffer_size is None else check_count("buffer_size", buffer_size)
        check_count("learning_starts", learning_starts, least=0)
        if log_interval is not None:
            check_count("log_interval", log_interval)
        if isinstance(self.observation_space, spaces.Dict):
            raise ValueError("learn_online keeps no dict observations: go on with SB3's own SAC, to_sac(env).learn(...).")
        if self._continuation is not None:
            raise ValueError("A resumed run must be finished by learn() before it can go on online.")
        if env is not None:
            self._set_online_env(gym.make(env) if isinstance(env, str) else env)
        if self.env is None and self.dataset_info is not None:  # after load(env=None)
            self.set_env(self._env_of(self.dataset_info))
        if self.env is None or isinstance(self.env.get_attr("unwrapped")[0], SpacesOnlyEnv):
            raise ValueError(f"{type(self).__name__} has no simulator to act in: give learn_online(env=...).")
        if self.replay_buffer.size() == 0:  # loaded from a file
            dataset = self.load_dataset()
            if self.check_data:
                pass_gate(dataset)
            self._check_normalization(self._vec_normalize_env)
            fill_statistics(self._vec_normalize_env, dataset)
            self.prepare(dataset, progress_bar)
        self._set_online_rates(learning_rate, qf_learning_rate)
        if isinstance(self.replay_buffer, OfflineOnlineBuffer) and buffer_size not in (None, self.replay_buffer.capacity):
            raise ValueError(f"buffer_size stays {self.replay_buffer.capacity}, as the first learn_online gave it.")
        if not isinstance(self.replay_buffer, OfflineOnlineBuffer):
            self.replay_buffer = OfflineOnlineBuffer(  # type: ignore[assignment]
                self.replay_buffer, buffer_size or 100_000, offline_ratio, self.gamma
            )
        self.replay_buffer.offline_ratio = offline_ratio  # type: ignore[attr-defined]
        self._runner = None  # of the data alone
        self.learning_starts, self.train_freq, self.gradient_steps = learning_starts, train_freq, gradient_steps
        self._convert_train_freq()
        self.replay_buffer.episode_start = self.replay_buffer.n_online  # type: ignore[attr-defined]  # a cut one has no return
        self._last_obs = None  # offline training never stepped the environment: begin with a fresh episode
        if self.seed is not None:
            self.set_random_seed(self.seed + self.num_timesteps)  # SB3 draws actions from torch's global generator
        return OffPolicyAlgorithm.learn(
            self,
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]
            tb_log_name or f"{type(self).__name__}_online",
            reset_num_timesteps,
            progress_bar,
        )

    def _set_online_rates(self, learning_rate: float | Schedule | None, qf_learning_rate: float | Schedule | None) -> None:
        """Schedules count offline steps, and have run out: online, each goes on at its last value."""
        self.learning_rate = float(self.lr_schedule(0.0)) if learning_rate is None else learning_rate
        self.qf_learning_rate = float(self.qf_lr_schedule(0.0)) if qf_learning_rate is None else qf_learning_rate
        if (learning_rate is None and self.learning_rate == 0) or (qf_learning_rate is None and self.qf_learning_rate == 0):
            raise ValueError("A schedule has fallen to 0: give learn_online(learning_rate=..., qf_learning_rate=...).")
        self._setup_lr_schedule()
        self.qf_lr_schedule = FloatSchedule(self.qf_learning_rate)

    def _set_online_env(self, env: GymEnv) -> None:
        before = self._vec_normalize_env
        self.set_env(env)
        after = self._vec_normalize_env
        if before is not None and after is not None and after is not before:
            after.obs_rms, after.training = before.obs_rms, False

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        return super()._sample_action(0, *args, **kwargs)  # a trained policy has no use for SB3's random first steps

    def to_sac(self, env: GymEnv | str | None = None, **sac_options: Any) -> SAC:
        """
        SB3's ``SAC`` with these networks, optimisers and temperature: it predicts the same, and goes on with plain SAC.

        Its file needs this package only if ``layer_norm`` or the like was used. SAC knows no ``reward_scale``, no conservative
        term and no ``qf_learning_rate``: it starts with the actor's rate.

        :param env: The environment; the model's own if not given.
        :param sac_options: Arguments of ``SAC``, in place of this model's (``learning_rate``, ``buffer_size``, ...).
        """
        if getattr(self, "actor_regularizer", "entropy") == "svpg":
            raise ValueError("to_sac() moves one actor; actor_regularizer='svpg' trains several that make one policy.")
        if "learning_rate" not in sac_options and self.lr_schedule(0.0) == 0:
            raise ValueError("The learning rate's schedule has fallen to 0: give to_sac(learning_rate=...).")
        if env is None and self.env is None:
            raise ValueError("This model was loaded without an environment: give to_sac(env=...).")
        uses_own = any(self.policy_kwargs.get(name) for name in OfflineSACPolicy.own)
        aliases = {policy: alias for alias, policy in POLICIES.items()}
        plain = self.policy_class in aliases and not uses_own
        left_out = ("use_sde", *OfflineSACPolicy.own) if plain else ("use_sde",)
        names = ("batch_size", "tau", "gamma", "ent_coef", "target_entropy", "tensorboard_log", "verbose", "seed", "device")
        options: dict[str, Any] = {
            "learning_rate": float(self.lr_schedule(0.0)),
            "policy_kwargs": {name: value for name, value in self.policy_kwargs.items() if name not in left_out},
            **{name: getattr(self, name) for name in names},
        }
        policy: Any = aliases[self.policy_class] if plain else self.policy_class  # type: ignore[index]
        sac = SAC(policy, env or self.env, **(options | sac_options))  # type: ignore[arg-type]
        known = sac.policy.state_dict()  # without a target actor
        sac.policy.load_state_dict({name: value for name, value in self.policy.state_dict().items() if name in known})
        optimizers: list[tuple[Any, Any]] = [
            (sac.actor.optimizer, self.actor.optimizer),
            (sac.critic.optimizer, self.critic.optimizer),
        ]
        if sac.log_ent_coef is not None and self.log_ent_coef is not None:
            sac.log_ent_coef.data.copy_(self.log_ent_coef.data)
            optimizers.append((sac.ent_coef_optimizer, self.ent_coef_optimizer))
        for theirs, ours in optimizers:
            theirs.load_state_dict(plain_optimizer_state(ours.state_dict()))
        return sac
