"""What every algorithm for discrete actions asks of its task: choices, numbered from 0, and which of them are allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.offline_dataset import MASK_NAMES
from sb3_offline.datasets.sources import Source
from sb3_offline.networks.choice_policies import predict_masked
from sb3_offline.networks.choices import CHOICE_SPACES, Choices
from sb3_offline.networks.networks import Batch
from sb3_offline.networks.observations import check_numbers


class DiscreteActions(GradientAlgorithm):
    """
    Actions are Discrete, or every combination of a MultiDiscrete or MultiBinary one; networks and buffers number them from 0,
    ``predict`` speaks the environment's language. Data may say which are allowed (``action_masks``).
    """

    supported_spaces: ClassVar = {**GradientAlgorithm.supported_spaces, "action": CHOICE_SPACES}
    policy: Any
    mask_source: Callable[[], np.ndarray] | None = None  # asked by predict where nobody gives masks, while an env is played
    uses_action_masks: bool = False  # whether the data say which actions may be chosen; kept by save()

    def _resolve_env(self, env: GymEnv | str | None, dataset: Source | None, loading: bool) -> GymEnv:
        env = super()._resolve_env(env, dataset, loading)
        if env is not None:  # there is none while loading
            Choices(env.action_space)  # refuses too many
        return env

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        self.uses_action_masks = dataset.action_masks is not None
        super().prepare(dataset, progress_bar)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        As in SB3.

        :param action_masks: as sb3-contrib's ``MaskablePPO`` takes them, such as ``env.action_masks()``
        """
        if action_masks is None and self.mask_source is not None:
            action_masks = self.mask_source()
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        check_numbers(observation)
        return predict_masked(self.policy, observation, action_masks, deterministic), state

    def batch_of(self, rows: th.Tensor) -> Batch:
        batch = super().batch_of(rows)
        return self.with_masks(batch, *self.allowed(rows)) if self.replay_buffer.masks else batch

    def allowed(self, rows: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """What the masks of these rows of the data allow, here and next, (B, n_actions) bool each."""
        buffer = self.replay_buffer
        here, following = (buffer.choices.combined(buffer.masks[name][rows]) for name in MASK_NAMES)
        return here, following

    @staticmethod
    def with_masks(batch: Batch, masks: th.Tensor, next_masks: th.Tensor) -> Batch:
        """The batch, which says what is allowed."""
        return batch._replace(masks=masks, next_masks=next_masks)
