"""The logged data and, behind it, a ring of what the policy meets online."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th

from sb3_offline.buffers.buffers import BUFFER_ARRAYS, TensorReplayBuffer
from sb3_offline.buffers.returns import returns_to_go


class OfflineOnlineBuffer(TensorReplayBuffer):
    """
    Rows of the data, which stay, followed by the newest online transitions; a sample has a fixed share of each.

    Where the data carry returns-to-go, online rows get theirs when their episode ends, and -inf (no reference) until then.

    :param offline: The data; its generator and its rewards' transformation are taken over.
    :param capacity: Online transitions that are kept.
    :param offline_ratio: Share of a sample that is drawn from the data, in [0, 1).
    :param gamma: Discount of the returns-to-go.
    """

    handle_timeout_termination = True

    def __init__(self, offline: TensorReplayBuffer, capacity: int, offline_ratio: float, gamma: float):
        self.n_offline, self.capacity = offline.size(), capacity
        spaces = (offline.observation_space, offline.action_space)
        super().__init__(self.n_offline + capacity, *spaces, offline.device)
        every_row = th.arange(self.n_offline, device=offline.device)
        self.write(**{name: offline._rows(name, every_row) for name in BUFFER_ARRAYS})
        self.flags = offline.flags
        if len(offline.returns) > 0:
            self.returns = th.cat([offline.returns, offline.returns.new_full((capacity,), -th.inf)])
        if len(offline.goes_on) > 0:
            self.goes_on = th.cat([offline.goes_on, offline.goes_on.new_zeros(capacity)])
        self.transform_rewards(offline.reward_scale, offline.reward_shift)
        self.generator, self.offline_ratio, self.gamma = offline.generator, offline_ratio, gamma
        self.n_online = self.episode_start = 0  # online steps taken, and those before the present episode

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """SB3's: one step of one environment, each array with a leading dimension of 1; a time-out is no termination."""
        row = self.n_offline + self.n_online % self.capacity
        terminated = bool(done[0]) and not infos[0].get("TimeLimit.truncated", False)
        values = (obs[0], action[0], next_obs[0], reward[0], float(terminated))
        for name, value in zip(BUFFER_ARRAYS, values, strict=True):
            array = getattr(self, name)
            array[row] = th.as_tensor(np.asarray(value), dtype=array.dtype)
        if len(self.returns) > 0:
            self.returns[row] = -th.inf
        if len(self.goes_on) > 0:
            if self.n_online > self.episode_start:
                self.goes_on[self.n_offline + (self.n_online - 1) % self.capacity] = True
            self.goes_on[row] = False
        self.n_online += 1
        self.full = self.n_online >= self.capacity
        self.pos = self.n_offline + self.n_online % self.capacity
        if done[0]:
            self._end_episode(terminated)

    def _next_rows(self, index: th.Tensor) -> th.Tensor:
        return th.where(index == self.n_offline + self.capacity - 1, self.n_offline, index + 1)

    def online_rows(self) -> dict[str, np.ndarray]:
        """
        What was met online and is still here, oldest first, named as in a dataset: observations raw, actions in the
        environment's units. Where the next row does not follow, the episode counts as cut.
        """
        newest = self.n_offline + th.arange(max(self.n_online - self.capacity, 0), self.n_online) % self.capacity
        rows = self._named_rows(newest.to(self.device))
        return {**rows, "valid_next": np.ones(len(newest), dtype=bool)}  # every step was seen

    def logged_rows(self) -> dict[str, np.ndarray]:
        """The data, then what was met online."""
        data = {**self._named_rows(th.arange(self.n_offline, device=self.device)), **self.flags}
        last = np.arange(self.n_offline) == self.n_offline - 1  # what was met online does not follow it
        data["truncations"] = data["truncations"] | last & ~data["terminations"]
        parts = [data, self.online_rows()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _end_episode(self, terminated: bool) -> None:
        """Fill in the returns-to-go of the episode's rows."""
        first = max(self.episode_start, self.n_online - self.capacity)
        self.episode_start = self.n_online
        if len(self.returns) == 0:
            return
        rows = self.n_offline + th.arange(first, self.n_online, device=self.device) % self.capacity
        rewards = (self.reward_scale * self.rewards[rows] + self.reward_shift).double().cpu().numpy()
        terminations = np.zeros(len(rewards), dtype=bool)
        terminations[-1] = terminated
        returns = returns_to_go(rewards, terminations, np.array([len(rewards) - 1]), self.gamma)
        self.returns[rows] = th.as_tensor(returns, dtype=th.float32, device=self.device)

    def sample_index(self, batch_size: int, generator: th.Generator | None = None) -> th.Tensor:
        """round(offline_ratio n) rows of the data and the rest of the ring; all of the data while the ring is empty."""
        n_ring = self.size() - self.n_offline
        n_data = round(self.offline_ratio * batch_size) if n_ring > 0 else batch_size
        generator = generator or self.generator
        parts = [
            start + th.randint(size, (n,), generator=generator, device=self.device)
            for start, size, n in ((0, self.n_offline, n_data), (self.n_offline, n_ring, batch_size - n_data))
            if n > 0
        ]
        return th.cat(parts)
