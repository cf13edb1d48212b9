"""VecNormalize's statistics: taken from data, and as JSON beside a model; SB3's own files of them are pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.mapped import blocks
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.encoding import decode, encode
from sb3_offline.files.regular import read_regular
from sb3_offline.files.structure import read_json
from sb3_offline.files.trust import is_trusted

STATISTICS, PICKLED_STATISTICS = "vecnormalize.json", "vecnormalize.pkl"

_SETTINGS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")
_MOMENTS = ("obs_rms", "ret_rms")


def fill_statistics(normalizer: VecNormalize | None, dataset: OfflineDataset) -> None:
    """An env that is never stepped cannot gather statistics: take them from the data, unless they were loaded."""
    if normalizer is None:
        return
    normalizer.training = False
    present: Any = normalizer.obs_rms
    if normalizer.norm_obs and present.count < 2:  # fresh, or reset once
        statistics: Any = RunningMeanStd(shape=dataset.observations.shape[1:])
        for rows in blocks(len(dataset)):
            statistics.update(dataset.observations[rows].astype(np.float64))
        normalizer.obs_rms = statistics


def save_statistics(normalizer: VecNormalize, folder: Path) -> None:
    """Write a normaliser's settings and running moments into a folder, as ``vecnormalize.json``."""
    state = {name: getattr(normalizer, name) for name in (*_SETTINGS, *_MOMENTS) if hasattr(normalizer, name)}
    text = json.dumps(encode(state)).encode()
    write_atomically(folder / STATISTICS, lambda file: file.write(text))


def load_statistics(folder: Path, venv: VecEnv, trust: bool = False) -> VecNormalize | None:
    """
    Normalise an env by the statistics in a folder; they are not updated, and rewards stay raw.

    :param trust: also read SB3's ``vecnormalize.pkl``, which can run any code
    :return: the wrapped env, or None if the folder has no statistics
    :raises FileRefused: if they are damaged, or pickled and not trusted
    """
    path, pickled = folder / STATISTICS, folder / PICKLED_STATISTICS
    if path.exists():
        normalizer = _from_json(path, venv)
    elif not pickled.exists():
        return None
    elif is_trusted(trust):
        normalizer = VecNormalize.load(str(pickled), venv)
    else:
        raise FileRefused(
            f"{pickled} is pickled, and reading it can run any code. If you trust who wrote it, say trust=True (--trust)."
        )
    normalizer.training = normalizer.norm_reward = False
    return normalizer


def _from_json(path: Path, venv: VecEnv) -> VecNormalize:
    try:
        state: dict[str, Any] = decode(read_json(read_regular(path), str(path)))
        normalizer = VecNormalize(venv, **{name: state[name] for name in _SETTINGS})
        for name in _MOMENTS:
            if name in state:
                present = vars(normalizer)[name]
                if vars(state[name]).keys() != vars(present).keys() or state[name].mean.shape != present.mean.shape:
                    raise ValueError(f"{name} is of another shape")
                setattr(normalizer, name, state[name])
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError) as error:
        raise FileRefused(f"{path} is damaged, or belongs to another task: {error}") from error
    return normalizer
