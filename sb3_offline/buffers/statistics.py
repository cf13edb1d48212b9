"""VecNormalize's statistics: taken from data, and as JSON beside a model; SB3's own files of them are pickles."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.mapped import blocks_of
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.encoding import decode, encode
from sb3_offline.files.regular import leads_out, read_regular
from sb3_offline.files.structure import read_json
from sb3_offline.files.trust import is_trusted

STATISTICS, PICKLED_STATISTICS = "vecnormalize.json", "vecnormalize.pkl"

_SETTINGS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")
_MOMENTS = ("obs_rms", "ret_rms")
_MOMENTS_OF_OBS = ("mean", "var", "count")
_CHECKSUM = "sha256"  # of all else


def fill_statistics(normalizer: VecNormalize | None, dataset: OfflineDataset) -> None:
    """An env that is never stepped cannot gather statistics: take them from the data, unless they were loaded."""
    if normalizer is None:
        return
    normalizer.training = False
    present: Any = normalizer.obs_rms
    if normalizer.norm_obs and present.count < 2:  # fresh, or reset once
        statistics: Any = RunningMeanStd(shape=dataset.observations.shape[1:])
        for rows in blocks_of(dataset):
            statistics.update(dataset.observations[rows].astype(np.float64))
        normalizer.obs_rms = statistics


def save_statistics(normalizer: VecNormalize, folder: Path) -> None:
    """Write a normaliser's settings and running moments into a folder, as ``vecnormalize.json``."""
    state = {name: getattr(normalizer, name) for name in (*_SETTINGS, *_MOMENTS) if hasattr(normalizer, name)}
    content = encode(state)
    text = json.dumps(content | {_CHECKSUM: _checksum(content)}).encode()
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


def statistics_of(normalizer: VecNormalize) -> dict[str, Any]:
    """How observations are normalised, as plain numbers: what a model's file keeps."""
    moments: Any = normalizer.obs_rms
    state = {name: np.asarray(getattr(moments, name), dtype=np.float64).tolist() for name in _MOMENTS_OF_OBS}
    return {**state, "epsilon": float(normalizer.epsilon), "clip_obs": float(normalizer.clip_obs)}


def check_statistics(state: Any, shape: tuple[int, ...]) -> None:
    """
    :param state: see :func:`statistics_of`
    :param shape: of an observation
    :raises ValueError: if they are none of such observations
    """
    names = (*_MOMENTS_OF_OBS, "epsilon", "clip_obs")
    try:
        arrays = {name: np.asarray(state[name], dtype=np.float64) for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"observation_statistics lack {', '.join(names)} in numbers.") from error
    fits = all(arrays[name].shape == (shape if name in ("mean", "var") else ()) for name in names)
    if not fits or not all(np.isfinite(array).all() for array in arrays.values()) or (arrays["var"] < 0).any():
        raise ValueError(f"observation_statistics are none of observations of shape {shape}.")


def take_statistics(normalizer: VecNormalize, state: dict[str, Any]) -> None:
    """A normaliser that has seen nothing yet normalises as a model's file says; one with statistics keeps its own."""
    present: Any = normalizer.obs_rms
    if normalizer.norm_obs and present.count < 2:  # fresh, or reset once
        moments: Any = RunningMeanStd(shape=np.shape(state["mean"]))
        moments.mean, moments.var, moments.count = np.array(state["mean"]), np.array(state["var"]), state["count"]
        normalizer.obs_rms, normalizer.epsilon, normalizer.clip_obs = moments, state["epsilon"], state["clip_obs"]
        normalizer.training = False


def normalized_env(venv: VecEnv, state: dict[str, Any]) -> VecNormalize:
    """An env whose observations are normalised as a model's file says; rewards stay raw, statistics as they are."""
    normalizer = VecNormalize(venv, training=False, norm_reward=False)
    take_statistics(normalizer, state)
    return normalizer


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _from_json(path: Path, venv: VecEnv) -> VecNormalize:
    if leads_out(path, path.parent):
        raise FileRefused(f"{path} is a link out of the run's folder: copy the file there.")
    try:
        content = read_json(read_regular(path), str(path))
        if _CHECKSUM in content and content.pop(_CHECKSUM) != _checksum(content):  # earlier versions wrote none
            raise ValueError("its checksum does not fit")
        state: dict[str, Any] = decode(content)
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
