"""Data that are in memory already: mappings of arrays, SB3's ReplayBuffer, an OfflineDataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_offline.datasets.bounded import is_bounded
from sb3_offline.datasets.checks import ACTION_TOLERANCE, build_dataset
from sb3_offline.datasets.errors import DatasetError, DatasetWarning
from sb3_offline.datasets.mapped import blocks, check_mapped, is_mapped, row_bytes_of, rows_at_once
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset
from sb3_offline.datasets.sources.episodes import steps_of
from sb3_offline.datasets.sources.raw import Arrays, RawSource, collect_metadata, raw_from_metadata


def open_arrays(arrays: Arrays) -> RawSource:
    """
    A mapping of arrays, which may name its task under ``env_id`` or ``metadata``. Later changes of the arrays do not reach
    what was read, but for ``uint8`` images, of which there is no second copy.
    """

    def build(info: DatasetInfo) -> OfflineDataset:
        dataset = build_dataset(_if_open(arrays), info)
        own: dict[str, Any] = {name: _own(getattr(dataset, name), arrays) for name in dataset.array_names}
        return replace(dataset, **own)

    return raw_from_metadata("arrays", dict, collect_metadata("arrays", _if_open(arrays)), build)


def _if_open(arrays: Arrays) -> Arrays:
    """:raises DatasetError: for an h5py file or group that is closed"""
    if type(arrays).__module__.partition(".")[0] == "h5py" and not arrays:
        raise DatasetError("arrays: this HDF5 file is closed. Give its path, or keep it open until the data are read.")
    return arrays


def _own(array: np.ndarray, arrays: Arrays) -> np.ndarray:
    """A copy of whatever may be the caller's memory. Mapped files stay where they are, and images, being large, are shared."""
    if (
        isinstance(array, np.memmap)
        or array.dtype == np.uint8
        or (array.flags.owndata and not any(array is value for value in arrays.values()))
    ):
        return array
    return array.copy()


def open_offline_dataset(dataset: OfflineDataset) -> RawSource:
    """A data set that is loaded already."""
    info = dataset.info
    return RawSource(
        info.dataset_id,
        lambda: {name: getattr(dataset, name) for name in dataset.array_names},
        info.observation_space,
        info.action_space,
        info.env_spec,
        reference_min_score=info.reference_min_score,
        reference_max_score=info.reference_max_score,
        card=dict(info.card),
        build=partial(check_mapped, dataset) if is_mapped(dataset) else None,
        goals=info.goals,
    )


#: How SB3's plain buffers draw their rows.
_SAMPLING = {
    method: tuple(getattr(cls, method) for cls in (ReplayBuffer, DictReplayBuffer)) for method in ("sample", "_get_samples")
}


def open_replay_buffer(buffer: ReplayBuffer) -> RawSource:
    """A filled SB3 replay buffer, also of dict observations.

    :raises DatasetError: for the memory-saving variant, which overwrites the observation
        after each episode's end and does not tell a time limit from a termination
    """
    name = type(buffer).__name__
    own_rows = getattr(buffer, "logged_rows", None)
    if own_rows is not None:  # of a model of this library
        goals = getattr(buffer, "goals", None)
        return RawSource(name, own_rows, buffer.observation_space, buffer.action_space, card={"source": name}, goals=goals)
    if buffer.optimize_memory_usage:
        raise DatasetError(
            "ReplayBuffer: with optimize_memory_usage=True the observation after each episode's end is lost. "
            "Collect with optimize_memory_usage=False."
        )
    if isinstance(buffer, HerReplayBuffer):
        warnings.warn(
            f"{name}: hindsight relabelling happens where SB3 samples from this buffer, and its rows are taken as they were "
            "logged, with the goals and rewards of that time. Where few of these were reached, give the algorithm "
            "goal_relabel='future', or these data through sb3_offline.datasets.relabel_goals.",
            DatasetWarning,
            stacklevel=4,
        )
    elif any(getattr(type(buffer), method) not in known for method, known in _SAMPLING.items()):
        warnings.warn(
            f"{name}: what this class does where it samples (n-step returns, relabelling, priorities, ...) is not done to its "
            "rows, which are taken as they were logged. If it matters, give a dict of arrays with its outcome.",
            DatasetWarning,
            stacklevel=4,
        )
    if not buffer.handle_timeout_termination and bool(np.any(buffer.dones)):
        warnings.warn(
            f"{name}: with handle_timeout_termination=False it does not tell a time limit from a termination, so every end "
            "counts as one, and the value beyond it as zero. If the task has a time limit, collect with True, or give a dict "
            "of arrays with terminations and truncations.",
            DatasetWarning,
            stacklevel=4,
        )
    return RawSource(
        "ReplayBuffer",
        lambda: _rows_in_time(buffer, _order_of(buffer)),
        buffer.observation_space,
        buffer.action_space,
        card={"source": "Stable-Baselines3 ReplayBuffer", "n_envs": buffer.n_envs, "reading": [_said(buffer)]},
        blocks=lambda *_: _blocks_of_buffer(buffer),
    )


def _said(buffer: ReplayBuffer) -> str:
    oldest = ", the oldest ones overwritten" if buffer.full else ""
    return f"{buffer.size():,} steps of {buffer.n_envs} environments{oldest}; cut where the next row does not follow"


def _order_of(buffer: ReplayBuffer) -> np.ndarray:
    """(steps,) int64: the ring's places in the order of time; of a full one the oldest would be overwritten next."""
    return np.roll(np.arange(buffer.buffer_size), -buffer.pos) if buffer.full else np.arange(buffer.pos)


def _rows_in_time(buffer: ReplayBuffer, order: np.ndarray, rows: slice = slice(None)) -> dict[str, Any]:
    """The buffer's rows in the order of time, one environment's stream after the other: all of them, or some."""
    total = buffer.n_envs * len(order)
    start, stop, _ = rows.indices(total)
    envs, steps = np.divmod(np.arange(start, min(stop + 1, total)), max(len(order), 1))
    followed = _picked(buffer.observations, order[steps], envs)  # by the row after these, where there is one
    n = stop - start
    at = order[steps[:n]], envs[:n]
    next_observations = _picked(buffer.next_observations, *at)
    dones, timeouts = buffer.dones[at] > 0.5, buffer.timeouts[at] > 0.5
    terminations, truncations = dones & ~timeouts, dones & timeouts
    if n > 0:
        last = steps[:n] == len(order) - 1  # where one stream ends and the next begins
        # Every call of learn resets the environment, without a trace in the buffer but that the next row does not follow.
        follow = _follow(followed, next_observations)
        last[: len(follow)] |= ~follow
        truncations |= last & ~terminations
    return {
        "observations": steps_of(followed, slice(n)),
        "actions": _unscale_actions(buffer.actions[at], buffer.action_space),
        "rewards": buffer.rewards[at],
        "next_observations": next_observations,
        "terminations": terminations,
        "truncations": truncations,
    }


def _picked(values: Any, places: np.ndarray, envs: np.ndarray) -> Any:
    """(size, n_envs, ...) -> (rows, ...), of a mapping of arrays too."""
    if isinstance(values, dict):
        return {key: part[places, envs] for key, part in values.items()}
    return values[places, envs]


def _blocks_of_buffer(buffer: ReplayBuffer) -> Iterator[dict[str, Any]]:
    order = _order_of(buffer)
    row_bytes = 2 * row_bytes_of([_rows_in_time(buffer, order, slice(1))["observations"]])
    for rows in blocks(buffer.n_envs * len(order), rows_at_once(row_bytes)):
        yield _rows_in_time(buffer, order, rows)


def _follow(observations: Any, next_observations: Any) -> np.ndarray:
    """(n - 1,) whether a row's next observation is the following row's observation, to the bit."""
    if isinstance(observations, dict):
        parts = [_follow(part, next_observations[key]) for key, part in observations.items()]
        return np.logical_and.reduce(parts)
    follow = np.empty(len(observations) - 1, dtype=bool)
    for rows in blocks(len(follow), 4096):  # of images, comparing all at once would take their memory again
        after = observations[rows.start + 1 : rows.stop + 1]
        follow[rows] = (next_observations[rows] == after).reshape(len(after), -1).all(axis=1)
    return follow


def _unscale_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """From SB3's [-1, 1] to the environment's units; the inverse of ``BasePolicy.scale_action``."""
    if not isinstance(space, spaces.Box):
        return actions.reshape(-1, *(space.shape or ()))
    if not is_bounded(space):
        raise DatasetError(
            f"ReplayBuffer: its actions are scaled by the bounds of {space}, which are not finite, or too wide for float32."
        )
    largest = float(np.abs(actions).max(initial=0.0))
    if largest > 1.0 + ACTION_TOLERANCE:
        raise DatasetError(
            f"ReplayBuffer: actions reach {largest:.4g}, but SB3 stores them scaled to [-1, 1]. If you filled it by "
            "hand, scale them with model.policy.scale_action, or give a dict of arrays."
        )
    actions = actions.reshape(-1, *space.shape)
    unscaled: Any = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
    return unscaled.astype(np.float32, copy=False)
