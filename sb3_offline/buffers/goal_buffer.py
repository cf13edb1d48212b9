"""Logged data with goals, of which some are replaced where a batch is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_offline.buffers.buffers import OfflineDatasetBuffer
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.goal_relabelling import GoalRelabelling


class GoalDatasetBuffer(OfflineDatasetBuffer):
    """
    Draws the rows that its parent draws, with goals as the data's :class:`~sb3_offline.datasets.goals.GoalRelabelling` says.
    Rewards are computed on the host, by the user's own function.
    """

    def load(self, dataset: OfflineDataset) -> None:
        super().load(dataset)
        if dataset.info.goals is None:
            raise ValueError(f"{dataset.info.dataset_id} says nothing of how goals are replaced.")
        self.goals: GoalRelabelling = dataset.info.goals
        ends, lengths = dataset.episode_ends, dataset.episode_lengths()
        self.last = th.as_tensor(np.repeat(ends, lengths), device=self.device)
        self.first = th.as_tensor(np.repeat(ends - lengths + 1, lengths), device=self.device)

    def _get_samples(self, batch_inds: th.Tensor, env: VecNormalize | None = None) -> ReplayBufferSamples:  # type: ignore[override]
        if len(self.returns):
            raise ValueError("calibrated=True compares Q with the returns of the logged goals, and these goals are replaced.")
        samples = super()._get_samples(batch_inds, env)
        observations: Any = samples.observations
        following: Any = samples.next_observations
        share = self.goals.n_sampled_goal / (self.goals.n_sampled_goal + 1)
        replaced = th.rand(len(batch_inds), generator=self.generator, device=self.device) < share
        achieved: Any = self._rows("next_observations", self._later(batch_inds))["achieved_goal"]
        where = replaced.reshape(-1, *(1 for _ in achieved.shape[1:]))
        desired = th.where(where, achieved, observations["desired_goal"])
        rewards = self._computed(self.goals.compute_reward, following["achieved_goal"], desired)
        rewards = (self.reward_scale * rewards + self.reward_shift).unsqueeze(1)
        dones = samples.dones
        if self.goals.compute_terminated is not None:
            ended = self._computed(self.goals.compute_terminated, following["achieved_goal"], desired).unsqueeze(1)
            dones = th.where(replaced.unsqueeze(1), ended, dones)
        relabelled: Any = {**observations, "desired_goal": desired}, {**following, "desired_goal": desired}
        return samples._replace(
            observations=relabelled[0],
            next_observations=relabelled[1],
            rewards=th.where(replaced.unsqueeze(1), rewards, samples.rewards),
            dones=dones,
        )

    def _later(self, rows: th.Tensor) -> th.Tensor:
        """A row of the same episode for each, whose achieved goal could have been the desired one."""
        first, last = self.first[rows], self.last[rows]
        if self.goals.goal_selection_strategy == "final":
            return last
        start = rows if self.goals.goal_selection_strategy == "future" else first
        part = th.rand(len(rows), generator=self.generator, device=self.device, dtype=th.float64)
        return start + (part * (last - start + 1)).long()

    def _computed(self, function: Any, achieved: th.Tensor, desired: th.Tensor) -> th.Tensor:
        """(b,) float32, by the user's function of NumPy arrays."""
        infos: Any = np.array([{}] * len(achieved))
        values = np.asarray(function(achieved.cpu().numpy(), desired.cpu().numpy(), infos), np.float32)
        if values.shape not in ((len(achieved),), (len(achieved), 1)) or not np.isfinite(values).all():
            raise ValueError(
                f"{getattr(function, '__name__', 'the function')} gave an array of shape {values.shape} for {len(achieved)} "
                "pairs of goals; one finite number for each is needed, as for SB3's HerReplayBuffer."
            )
        return th.as_tensor(values.reshape(-1), device=self.device)
