"""Online after offline: SB3's own loop on a real environment, from offline weights, with the data kept in the mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_offline.arguments import Interval, check_count, check_number, check_steps
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.buffers.statistics import fill_statistics
from sb3_offline.common.data_backed import check_env, match_normalization, trained_env
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.datasets import SpacesOnlyEnv
from sb3_offline.datasets.bounds import with_bounds
from sb3_offline.datasets.checks import pass_gate
from sb3_offline.execution.optimizers import check_gradients, plain_optimizer_state
from sb3_offline.networks.policies import POLICIES, OfflinePolicy, unfitted_normalizers
from sb3_offline.training.schedules import rate_afterwards


@dataclass
class OnlineOptions:
    """Of ``learn_online``, whose docstring describes them; checked."""

    total_timesteps: int
    offline_ratio: float
    buffer_size: int | None
    learning_starts: int
    train_freq: int | tuple[int, str]
    gradient_steps: int

    def __post_init__(self) -> None:
        self.offline_ratio = check_number("offline_ratio", self.offline_ratio, Interval(0.0, 1.0, open_high=True))
        self.total_timesteps = check_steps(self.total_timesteps)
        self.buffer_size = None if self.buffer_size is None else check_count("buffer_size", self.buffer_size)
        check_count("learning_starts", self.learning_starts, least=0)
        check_count("gradient_steps", self.gradient_steps, least=-1)  # -1: as many as were taken in the environment
        freq = self.train_freq if isinstance(self.train_freq, tuple) else (self.train_freq, "step")
        if len(freq) != 2 or freq[1] not in ("step", "episode"):
            raise ValueError(f'train_freq must be a number of steps, or (1, "episode"); got {self.train_freq!r}.')
        check_count("train_freq", freq[0])


def go_online(
    model: GradientAlgorithm,
    env: GymEnv | str | None,
    options: OnlineOptions,
    rates: Mapping[str, float | Schedule | None],
    progress_bar: bool,
) -> None:
    """
    Make a model ready for SB3's own loop: the environment, the buffer of both kinds of rows, the rates.

    :param rates: those of the model's learning rates that are given
    :raises ValueError: if there is no simulator, no data, more than one environment, or a rate of 0
    """
    check_gradients()
    if isinstance(model.observation_space, spaces.Dict):
        way_on = "collect more (sb3-offline collect), and learn from both: dataset=[old, new]"
        if hasattr(model, "to_sac"):
            way_on = "go on with SB3's own SAC, to_sac(env).learn(...)"
        raise ValueError(f"learn_online keeps no dict observations: {way_on}.")
    if model._continuation is not None:
        raise ValueError("A resumed run must be finished by learn() before it can go on online.")
    if env is not None:
        _set_env(model, gym.make(env) if isinstance(env, str) else env)
    if model.env is None and model.dataset_info is not None:  # after load(env=None)
        model.set_env(trained_env(model, model.dataset_info))
    check_simulator(model, "give learn_online(env=...)")
    if model.replay_buffer.size() == 0:  # loaded from a file
        dataset = model.load_dataset()
        if model.check_data:
            pass_gate(dataset)
        match_normalization(model, model._vec_normalize_env)
        fill_statistics(model._vec_normalize_env, dataset)
        model.prepare(dataset, progress_bar)
    _set_rates(model, rates)
    buffer: Any = model.replay_buffer
    if not isinstance(buffer, OfflineOnlineBuffer):
        buffer = OfflineOnlineBuffer(buffer, options.buffer_size or 100_000, options.offline_ratio, model.gamma)
    elif options.buffer_size not in (None, buffer.capacity):
        raise ValueError(f"buffer_size stays {buffer.capacity}, as the first learn_online gave it.")
    buffer.offline_ratio = options.offline_ratio
    buffer.episode_start = buffer.n_online  # a cut episode has no return
    model.replay_buffer = buffer
    model._runner = None  # of the data alone
    model.learning_starts, model.gradient_steps = options.learning_starts, options.gradient_steps
    model.train_freq = options.train_freq
    model._convert_train_freq()
    model._last_obs = None  # offline training never stepped the environment: begin with a fresh episode
    if model.seed is not None:
        # SB3 draws actions from torch's global generator; the model's own streams go on
        OffPolicyAlgorithm.set_random_seed(model, model.seed + model.num_timesteps)


def check_action_noise(noise: object, space: spaces.Space) -> None:
    """:raises TypeError: for what is no noise of SB3"""
    if not isinstance(noise, ActionNoise):
        example = f"NormalActionNoise(mean=numpy.zeros({space.shape}), sigma=numpy.full({space.shape}, 0.1))"
        raise TypeError(f"action_noise must be one of stable_baselines3.common.noise, such as {example}; got {noise!r:.80}.")


def check_simulator(model: Any, way_on: str) -> None:
    """:raises ValueError: where there is nothing to act in"""
    if model.env is None or isinstance(model.env.get_attr("unwrapped")[0], SpacesOnlyEnv):
        raise ValueError(f"{type(model).__name__} has no simulator to act in: {way_on}.")


def _set_rates(model: GradientAlgorithm, given: Mapping[str, float | Schedule | None]) -> None:
    """Schedules count offline steps, and have run out: online, each goes on at its last value, or its first if that is 0."""
    last = {rate: rate_afterwards(model.schedule(rate)) for rate in model.rates}
    for rate in model.rates:
        if given.get(rate) is None and last[rate] == 0:
            call = ", ".join(f"{name}=..." for name in given)
            raise ValueError(f"A learning rate is 0: give learn_online({call}).")
    for rate in model.rates:
        value = given.get(rate)
        setattr(model, rate, last[rate] if value is None else value)
    model._setup_lr_schedule()
    model._setup_schedules()


def _set_env(model: GradientAlgorithm, env: GymEnv) -> None:
    before = model._vec_normalize_env
    model.set_env(env)
    after = model._vec_normalize_env
    if before is not None and after is not None and after is not before:
        after.obs_rms, after.training = before.obs_rms, False


def _checked_env(model: Any, given: GymEnv | str) -> GymEnv:
    """:raises ValueError: for one of other spaces, or whose observations are not normalised as those of the training"""
    check_env(made := gym.make(given) if isinstance(given, str) else given)
    env = with_bounds(made, model.action_space)
    check_for_correct_spaces(env, model.observation_space, model.action_space)
    match_normalization(model, unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None)
    return env


def to_sac(model: Any, env: GymEnv | str | None, averaged: bool, sac_options: Mapping[str, Any]) -> SAC:
    """See :meth:`sb3_offline.common.offline_sac.OfflineSAC.to_sac`."""
    if sac_options.get("use_sde"):
        raise ValueError("to_sac(use_sde=True): these networks have no noise that depends on the state. Leave it out.")
    if getattr(model, "n_particles", 1) > 1:
        raise ValueError("to_sac() moves one actor; actor_regularizer='svpg' trains several that make one policy.")
    rate = rate_afterwards(model.lr_schedule)
    if "learning_rate" not in sac_options and rate == 0:
        raise ValueError("The learning rate is 0: give to_sac(learning_rate=...).")
    if env is None and model.env is None:
        raise ValueError("This model was loaded without an environment: give to_sac(env=...).")
    if env is not None:
        env = _checked_env(model, env)
    alias = next((alias for alias, policy in model.policy_aliases.items() if policy is model.policy_class), None)
    plain = alias is not None and not any(model.policy_kwargs.get(name) for name in OfflinePolicy.own)
    left_out = ("use_sde", "deterministic", *(OfflinePolicy.own if plain else ()))
    names = ("batch_size", "tau", "gamma", "ent_coef", "target_entropy", "tensorboard_log", "verbose", "seed", "device")
    options: dict[str, Any] = {
        "learning_rate": rate,
        "policy_kwargs": {name: value for name, value in model.policy_kwargs.items() if name not in left_out},
        **{name: getattr(model, name) for name in names if hasattr(model, name)},
    }
    policy: Any = alias if plain else POLICIES.get(str(alias), model.policy_class)
    sac = SAC(policy, model.env if env is None else env, **(options | dict(sac_options)))
    known = sac.policy.state_dict()  # without a target actor, and an average
    known |= {name: value for name, value in model.policy.state_dict().items() if name in known}
    try:
        sac.policy.load_state_dict(known)
    except RuntimeError as error:
        raise ValueError("to_sac(policy_kwargs=...): these are other networks than the model's. Leave it out.") from error
    if averaged:
        sac.actor.load_state_dict(model.policy.deployed_actor.state_dict())
    if not model.has_critic:  # SAC's own begins: it sees what the actor does, and the optimisers knew another loss
        for normalizer in unfitted_normalizers(sac.policy):
            normalizer.load_state_dict(model.actor.features_extractor.state_dict())
        return sac
    optimizers: list[tuple[Any, Any]] = [
        (sac.actor.optimizer, model.actor.optimizer),
        (sac.critic.optimizer, model.critic.optimizer),
    ]
    if sac.log_ent_coef is not None and model.log_ent_coef is not None:
        sac.log_ent_coef.data.copy_(model.log_ent_coef.data)
        optimizers.append((sac.ent_coef_optimizer, model.ent_coef_optimizer))
    for theirs, ours in optimizers:
        theirs.load_state_dict(plain_optimizer_state(ours.state_dict()))
    return sac
