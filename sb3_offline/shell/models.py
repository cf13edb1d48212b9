"""Saved models of whatever algorithm: which it is, and what normalises its observations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_offline.buffers.statistics import PICKLED_STATISTICS, STATISTICS, load_statistics, normalized_env
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.model_file import ModelFile
from sb3_offline.registry import algorithms, class_names, find_algorithm, names, unknown

_SB3: dict[str, type[BaseAlgorithm]] = {
    "a2c": sb3.A2C,
    "ddpg": sb3.DDPG,
    "dqn": sb3.DQN,
    "ppo": sb3.PPO,
    "sac": sb3.SAC,
    "td3": sb3.TD3,
}


@dataclass
class SavedModel:
    """A loaded model, and the folder of its VecNormalize statistics, if it was trained with any."""

    model: BaseAlgorithm
    statistics: Path | None
    trust: bool = False

    def vec_env(self, env: gym.Env) -> VecEnv:
        """The env as the model saw it in training, its rewards raw."""
        venv: VecEnv = DummyVecEnv([lambda: env])
        if self.statistics is not None:
            return load_statistics(self.statistics, venv, self.trust) or venv
        kept = getattr(self.model, "observation_statistics", None)
        return venv if kept is None else normalized_env(venv, kept)


def load_model(path: Path, algo: str | None = None, trust: bool = False) -> SavedModel:
    """
    Load a model without being told of which class it is.

    :param path: what ``model.save`` wrote; RL-Zoo's VecNormalize statistics beside it are found
    :param algo: the algorithm's name, if it cannot be told from the file
    :param trust: read SB3's own models and other pickles, too, which can run any code
    :raises ValueError: if the file is no model, not of a known algorithm, or pickled and not trusted
    :raises OSError: if there is no such file
    """
    if not path.exists() and path.with_name(f"{path.name}.zip").exists():
        path = path.with_name(f"{path.name}.zip")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such model (looked in {path.absolute().parent}).")
    known = sorted([*_SB3, *names()])
    name = detect_algorithm(path) if algo is None else algo
    if name not in known:
        raise ValueError(f"{unknown(name, known)} Known are {', '.join(known)}.")
    cls: type[BaseAlgorithm] = find_algorithm(name) if name in names() else _SB3[name]
    if issubclass(cls, OfflineAlgorithm):
        model: BaseAlgorithm = cls.load(path, trust=trust)
    elif trust:
        model = cls.load(path)
    else:
        raise FileRefused(
            f"{path} is SB3's, whose files are pickled, and loading one can run any code. If you trust who wrote it, say "
            "--trust."
        )
    folders = {file.parent for name in (STATISTICS, PICKLED_STATISTICS) for file in path.parent.glob(f"*/{name}")}
    return SavedModel(model, folders.pop() if len(folders) == 1 else None, trust)


def detect_algorithm(path: Path) -> str:
    """
    The algorithm of a saved model, from the names of what it holds; nothing is unpickled.

    :raises ValueError: if the file is no model, or could be of several algorithms
    """
    file = ModelFile(path)
    header = file.header()
    if header is not None:
        held, known = str(header.get("class")), class_names()
        if held not in known:
            raise ValueError(
                f"{path} holds a {held}, which is not registered: load it by {held}.load, or name the module or file that "
                "calls sb3_offline.register_algorithm by --import."
            )
        return known[held]
    data = file.data()
    if "dataset_info" in data:  # ours: the class whose arguments fit best
        fits = {name: _fit(data, set(inspect.signature(cls).parameters)) for name, cls in algorithms().items()}
        return max(fits, key=lambda name: fits[name])
    policy = data.get("policy_class")
    module = str(policy.get("__module__", "")) if isinstance(policy, dict) else ""
    family = module.removeprefix("stable_baselines3.").partition(".")[0]
    if family == "common":
        return "ppo" if "clip_range" in data else "a2c"
    if family in _SB3:
        return family
    raise ValueError(f"{path} does not tell its algorithm: name it by --algo.")


def _fit(data: Mapping[str, Any], arguments: set[str]) -> int:
    return len(arguments & data.keys()) - len(arguments - data.keys())


class RandomPolicy:
    """Uniform actions of a space, from a seed."""

    def __init__(self, action_space: gym.Space, seed: int):
        self.action_space = action_space
        action_space.seed(seed)

    def predict(self, observation: np.ndarray, deterministic: bool = False, **kwargs: Any) -> tuple[np.ndarray, None]:
        """One action for each observation: (n, ...)."""
        return np.stack([self.action_space.sample() for _ in observation]), None
