"""Roll out a policy, and keep what it did as a data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from tqdm import tqdm

from sb3_offline.arguments import Interval, check_count, check_number
from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.images import other_layout
from sb3_offline.shell.models import RandomPolicy, SavedModel

Step = dict[str, Any]


def collect(
    env: gym.Env,
    saved: SavedModel | None,
    steps: int,
    *,
    deterministic: bool = False,
    random_share: float = 0.0,
    seed: int = 0,
    progress_bar: bool = True,
) -> OfflineDataset:
    """
    Log ``steps`` transitions; an episode that is not over by then is cut.

    :param saved: the policy; None acts uniformly at random
    :param deterministic: take the policy's mode instead of sampling from it
    :param random_share: probability that an action is uniformly random instead, in [0, 1]
    :raises ValueError: for a number out of range, or a model of another task
    """
    check_count("--steps", steps)
    check_number("--random-share", random_share, Interval(0.0, 1.0))
    if not isinstance(env.observation_space, (spaces.Box, spaces.Discrete)):
        raise ValueError(f"Observations in {env.observation_space} cannot be kept as one array: flatten them first.")
    seen: Any = None if saved is None else saved.model.observation_space
    if seen is not None and env.observation_space.shape not in (seen.shape, other_layout(seen)):
        raise ValueError(
            f"The model sees {seen}, but the environment shows {env.observation_space}: collect in the task that it was "
            "trained on, or give another --model."
        )
    rows: dict[str, list[Any]] = {}
    rollout = _rollout(env, saved, deterministic, random_share, seed)
    for _ in tqdm(range(steps), unit="step", disable=not progress_bar):
        for name, value in next(rollout).items():
            rows.setdefault(name, []).append(value)
    arrays = {name: np.asarray(values) for name, values in rows.items()}
    arrays["truncations"][-1] |= not arrays["terminations"][-1]
    return load_dataset(
        arrays,
        env_id=None if env.spec is None else env.spec.id,
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


def _rollout(env: gym.Env, saved: SavedModel | None, deterministic: bool, random_share: float, seed: int) -> Iterator[Step]:
    """Endless transitions, one episode after the other, the first from ``seed``."""
    rng = np.random.default_rng(seed)
    uniform = RandomPolicy(env.action_space, seed)
    normalizer = None
    if saved is not None:
        venv = saved.vec_env(env)
        normalizer = venv if isinstance(venv, VecNormalize) else None
    reset_seed: int | None = seed
    while True:
        observation, _ = env.reset(seed=reset_seed)
        reset_seed, over = None, False
        while not over:
            if saved is None or rng.random() < random_share:
                action = uniform.predict(observation[None])[0][0]
            else:
                seen = observation if normalizer is None else normalizer.normalize_obs(observation)
                action, _ = saved.model.predict(seen, deterministic=deterministic)
            next_observation, reward, terminated, truncated, _ = env.step(action)
            yield {
                "observations": observation,
                "actions": action,
                "rewards": float(reward),
                "next_observations": next_observation,
                "terminations": bool(terminated),
                "truncations": bool(truncated) and not terminated,
            }
            observation, over = next_observation, terminated or truncated
