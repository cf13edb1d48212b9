"""Where the logged data lie during training: on the device, in host memory, or in memory-mapped files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_offline.buffers.buffers import OfflineDatasetBuffer, flags_of, scale_actions
from sb3_offline.buffers.goal_buffer import GoalDatasetBuffer
from sb3_offline.buffers.rows import HostRows
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.mapped import is_mapped
from sb3_offline.datasets.offline_dataset import MASK_NAMES

Storage = Literal["memory", "mmap", "device", "auto"]
"""
"device": tensors on the training device. "memory": in host memory, batches are moved. "mmap": in their files, of which only
the rows of a batch are read. "auto": the device if the data fill at most half of what is free there, else where they are.
"""


def check_storage(storage: Storage) -> Storage:
    """
    :raises ValueError: for an unknown option
    """
    if storage not in get_args(Storage):
        raise ValueError(f"storage must be one of {', '.join(map(repr, get_args(Storage)))}, got {storage!r}.")
    return storage


class HostDatasetBuffer(OfflineDatasetBuffer):
    """The logged data where they lie; a batch is read, scaled and moved when it is drawn. It draws what the parent draws."""

    def load(self, dataset: OfflineDataset) -> None:
        self.buffer_size = len(dataset)
        self.reset()
        self.flags = flags_of(dataset)
        self.observations: Any = HostRows(dataset.observations, self.device)
        self.next_observations: Any = HostRows(dataset.next_observations, self.device)
        self.actions: Any = HostRows(dataset.actions, self.device, read=partial(scale_actions, action_space=self.action_space))
        self.rewards: Any = HostRows(dataset.rewards, self.device)
        self.dones: Any = HostRows(dataset.terminations, self.device, read=_as_float32)
        if dataset.action_masks is not None:
            self.masks = {name: HostRows(getattr(dataset, name), self.device) for name in MASK_NAMES}
        self.full = True

    @property
    def address(self) -> int:
        return 0  # nothing lies on the device

    def _rows(self, name: str, index: th.Tensor) -> Any:
        return getattr(self, name)[index]


def _as_float32(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float32)


def make_dataset_buffer(
    storage: Storage,
    dataset: OfflineDataset,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    device: th.device,
) -> OfflineDatasetBuffer:
    """
    The replay buffer of a data set.

    :raises ValueError: "mmap" for data that are not memory-mapped
    """
    if dataset.info.goals is not None:
        if storage not in ("auto", "device"):
            raise ValueError(f"storage={storage!r} is not for data whose goals are replaced; take 'device'.")
        goal_buffer = GoalDatasetBuffer(len(dataset), observation_space, action_space, device)
        goal_buffer.load(dataset)
        return goal_buffer
    if storage == "auto":
        storage = "device" if _bytes(dataset) <= 0.5 * free_bytes(device) else "mmap" if is_mapped(dataset) else "memory"
    if storage == "mmap" and not is_mapped(dataset):
        raise ValueError(
            f"storage='mmap' needs data that lie in a folder of .npy files, and {dataset.info.dataset_id} do not: write them "
            "with sb3_offline.datasets.save_mapped, or `sb3-offline convert SOURCE NAME.mmap`, and give the folder as dataset."
        )
    if storage == "memory" and device.type == "cpu":
        storage = "device"  # the same thing
    if storage == "memory" and is_mapped(dataset):
        arrays: dict[str, Any] = {name: np.array(getattr(dataset, name)) for name in dataset.array_names}
        dataset = replace(dataset, **arrays)
    buffer_class = OfflineDatasetBuffer if storage == "device" else HostDatasetBuffer
    buffer = buffer_class(len(dataset), observation_space, action_space, device)
    buffer.load(dataset)
    return buffer


def free_bytes(device: th.device) -> int:
    """Memory that is free on the device: of the GPU, or of the machine as far as it says so."""
    if device.type == "cuda":
        return th.cuda.mem_get_info(device)[0]
    facts = Path("/proc/meminfo")
    if not facts.exists():
        return 1 << 62
    lines = dict(line.split(":", 1) for line in facts.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _bytes(dataset: OfflineDataset) -> int:
    return sum(getattr(dataset, name)[:1].nbytes for name in dataset.array_names) * len(dataset)
