"""Play a saved model in its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_offline.arguments import check_count
from sb3_offline.datasets import DatasetError, DatasetInfo, open_dataset
from sb3_offline.evaluation.masking import masked_by
from sb3_offline.shell.models import SavedModel
from sb3_offline.zoo.envs import register_minari_envs, resolve_env_id


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of episodes, (n,); the score is of the mean return, None without references."""

    env_id: str
    returns: np.ndarray
    lengths: np.ndarray
    score: float | None


def find_task(saved: SavedModel, env_id: str | None, **kwargs: Any) -> tuple[gym.Env, DatasetInfo | None]:
    """
    The env to play in, and the data whose reference scores apply.

    :param env_id: a gymnasium id or a data set's id; if None, the task of the data that the model learned from
    :raises ValueError: if neither names a task
    """
    info = getattr(saved.model, "dataset_info", None)
    if env_id is None:
        if info is None or info.env_spec is None:
            raise ValueError("The model does not say which task it is for: name it by --env.")
        return info.make_env(trust=saved.trust, **kwargs), info
    register_minari_envs()
    name = resolve_env_id(env_id)
    env = gym.make(name, **kwargs)
    try:
        return env, open_dataset(env_id).info
    except DatasetError:  # a plain task
        same = info is not None and info.env_spec is not None and info.env_spec.id == name
        return env, info if same else None


def evaluate(
    saved: SavedModel, env: gym.Env, info: DatasetInfo | None, episodes: int, seed: int, deterministic: bool
) -> Evaluation:
    """
    Play whole episodes from a fixed seed.

    :raises ValueError: if the model is for another task
    """
    check_count("--episodes", episodes)
    if saved.model.observation_space.shape != env.observation_space.shape:
        raise ValueError(f"The model sees {saved.model.observation_space}, but {env} shows {env.observation_space}.")
    venv = saved.vec_env(Monitor(env))
    venv.seed(seed)
    with masked_by(saved.model, venv):
        returns, lengths = evaluate_policy(
            saved.model, venv, n_eval_episodes=episodes, deterministic=deterministic, return_episode_rewards=True
        )
    mean = float(np.mean(returns))
    return Evaluation(
        env.spec.id if env.spec is not None else str(env),
        np.asarray(returns),
        np.asarray(lengths),
        None if info is None else info.normalized_score(mean),
    )
