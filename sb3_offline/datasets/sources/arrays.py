"""Data that are in memory already: mappings of arrays, SB3's ReplayBuffer, an OfflineDataset."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_offline.datasets.checks import ACTION_TOLERANCE
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import check_mapped, is_mapped
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES, OfflineDataset
from sb3_offline.datasets.sources.raw import Arrays, RawSource, collect_metadata, raw_from_metadata


def open_arrays(arrays: Arrays) -> RawSource:
    """A mapping of arrays, which may name its task under ``env_id`` or ``metadata``."""
    return raw_from_metadata("arrays", lambda: arrays, collect_metadata("arrays", arrays))


def open_offline_dataset(dataset: OfflineDataset) -> RawSource:
    """A data set that is loaded already."""
    info = dataset.info
    return RawSource(
        info.dataset_id,
        lambda: {name: getattr(dataset, name) for name in ARRAY_NAMES},
        info.observation_space,
        info.action_space,
        info.env_spec,
        reference_min_score=info.reference_min_score,
        reference_max_score=info.reference_max_score,
        card=dict(info.card),
        build=partial(check_mapped, dataset) if is_mapped(dataset) else None,
    )


def open_replay_buffer(buffer: ReplayBuffer) -> RawSource:
    """A filled SB3 replay buffer, also of dict observations.

    :raises DatasetError: for the memory-saving variant, which overwrites the observation
        after each episode's end and does not tell a time limit from a termination
    """
    if buffer.optimize_memory_usage:
        raise DatasetError(
            "ReplayBuffer: with optimize_memory_usage=True the observation after each episode's end is lost. "
            "Collect with optimize_memory_usage=False."
        )
    return RawSource(
        "ReplayBuffer",
        lambda: _replay_arrays(buffer),
        buffer.observation_space,
        buffer.action_space,
        card={"source": "Stable-Baselines3 ReplayBuffer", "n_envs": buffer.n_envs},
    )


def _replay_arrays(buffer: ReplayBuffer) -> dict[str, Any]:
    """The buffer's rows in the order of time, one environment's stream after the other."""
    # A full ring's oldest row is the one that would be overwritten next.
    order = np.roll(np.arange(buffer.buffer_size), -buffer.pos) if buffer.full else np.arange(buffer.pos)

    def streams(values: Any) -> Any:  # (size, n_envs, ...) -> (n_envs * rows, ...)
        if isinstance(values, dict):
            return {key: streams(part) for key, part in values.items()}
        return np.concatenate([values[order, index] for index in range(buffer.n_envs)])

    dones, timeouts = streams(buffer.dones) > 0.5, streams(buffer.timeouts) > 0.5
    terminations, truncations = dones & ~timeouts, dones & timeouts
    if len(order) > 0:
        last = np.arange(1, buffer.n_envs + 1) * len(order) - 1  # where one stream ends and the next begins
        truncations[last] |= ~terminations[last]
    return {
        "observations": streams(buffer.observations),
        "actions": _unscale_actions(streams(buffer.actions), buffer.action_space),
        "rewards": streams(buffer.rewards),
        "next_observations": streams(buffer.next_observations),
        "terminations": terminations,
        "truncations": truncations,
    }


def _unscale_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """From SB3's [-1, 1] to the environment's units; the inverse of ``BasePolicy.scale_action``."""
    if not isinstance(space, spaces.Box):
        return actions.reshape(-1, *(space.shape or ()))
    if not space.is_bounded():
        raise DatasetError(f"ReplayBuffer: its actions are scaled by the bounds of {space}, which are not finite.")
    largest = float(np.abs(actions).max(initial=0.0))
    if largest > 1.0 + ACTION_TOLERANCE:
        raise DatasetError(
            f"ReplayBuffer: actions reach {largest:.4g}, but SB3 stores them scaled to [-1, 1]. If you filled it by "
            "hand, scale them with model.policy.scale_action, or give a dict of arrays."
        )
    actions = actions.reshape(-1, *space.shape)
    unscaled: Any = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
    return unscaled.astype(np.float32, copy=False)
