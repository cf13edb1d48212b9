"""What a run, its checkpoints and its diagnostics ask of the model that is trained."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_offline.files.model_file import FilePath
from sb3_offline.training.log_sums import LogSums
from sb3_offline.training.rng import Streams

SelfTrained = TypeVar("SelfTrained", bound="Trained")


class Trained(Protocol):
    """An offline algorithm, see :class:`sb3_offline.common.offline_algorithm.OfflineAlgorithm`."""

    policy: Any
    device: th.device
    dataset: Any
    num_timesteps: int
    streams: Streams
    log_sums: LogSums
    _total_timesteps: int
    _num_timesteps_at_start: int
    _run: Any
    _continuation: Any

    @property
    def logger(self) -> Logger: ...

    def save(self, path: FilePath) -> None: ...

    @classmethod
    def load(cls: type[SelfTrained], path: FilePath, **options: Any) -> SelfTrained: ...

    def get_vec_normalize_env(self) -> VecNormalize | None: ...

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]: ...
