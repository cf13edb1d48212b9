"""Replay buffers whose arrays are tensors on the training device, sampled there."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_offline.datasets import DatasetError, OfflineDataset
from sb3_offline.datasets.mapped import blocks_of
from sb3_offline.datasets.offline_dataset import MASK_NAMES
from sb3_offline.execution import ranks
from sb3_offline.networks.choices import Choices
from sb3_offline.networks.observations import map_observations, take_rows, tensors_of, to_tensors

BUFFER_ARRAYS = ("observations", "actions", "next_observations", "rewards", "dones")


class TensorReplayBuffer(ReplayBuffer):
    """
    An SB3 ``ReplayBuffer`` of tensors of shape (buffer_size, ...), allocated when first written.

    Observations are raw, actions scaled to [-1, 1] as in SB3's own buffers, and ``dones`` holds terminations only:
    a time-out does not end the bootstrap.

    :param buffer_size: Capacity in rows.
    :param device: Where the tensors live and are sampled.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
    ):
        if n_envs != 1 or optimize_memory_usage:
            raise ValueError(f"{type(self).__name__} holds one stream of rows: n_envs=1 and no optimize_memory_usage.")
        # Not ReplayBuffer.__init__, which would allocate numpy arrays of buffer_size rows at once
        kept = action_space if isinstance(action_space, spaces.Box) else spaces.Discrete(Choices(action_space).n)
        BaseBuffer.__init__(self, buffer_size, observation_space, kept, device, n_envs)
        self.action_space = action_space
        self.generator: th.Generator | None = None
        self.reward_scale, self.reward_shift = 1.0, 0.0
        self.masks: dict[str, Any] = {}  # which actions may be chosen, of data that say so
        self.flags: dict[str, np.ndarray] = {}  # of rows that were logged, what their numbers do not tell
        self.returns = th.empty(0, device=self.device)  # Monte-Carlo returns-to-go, for the algorithms that set them
        # of each row: does the next one go on from it? For the algorithms that set it
        self.goes_on = th.empty(0, dtype=th.bool, device=self.device)
        self.reset()

    @cached_property
    def choices(self) -> Choices:
        """The numbers of its actions, where these are chosen among finitely many."""
        return Choices(self.action_space)

    def transform_rewards(self, scale: float, shift: float) -> None:
        """From now on ``sample`` returns scale * r + shift; the rows keep r."""
        self.reward_scale, self.reward_shift = scale, shift

    def reset(self) -> None:
        """Forget every row, and give the memory back."""
        super().reset()
        empty = th.empty(0, device=self.device)
        for name in BUFFER_ARRAYS:
            setattr(self, name, empty)

    @property
    def address(self) -> int:
        """Where the rows lie; changes when they are allocated anew."""
        return tensors_of(self.observations)[0].data_ptr()  # type: ignore[arg-type]

    def write(self, **rows: Any) -> None:
        """
        Append rows; when the buffer is full the oldest are overwritten.

        :param rows: ``observations``, ``actions``, ``next_observations`` (n, ...), ``rewards`` and ``dones`` (n,);
            observations of a Dict space are a dict of tensors.
        """
        n = len(rows["rewards"])
        if n > self.buffer_size:  # only the newest rows survive
            rows = {name: take_rows(values, slice(-self.buffer_size, None)) for name, values in rows.items()}
            n = self.buffer_size
        index = (th.arange(n, device=self.device) + self.pos) % self.buffer_size
        for name in BUFFER_ARRAYS:
            values = rows[name]
            if len(getattr(self, name)) == 0:
                setattr(self, name, map_observations(values, self._allocate))
            for column, new in zip(tensors_of(getattr(self, name)), tensors_of(values), strict=True):
                column[index] = new.to(self.device)
        self.full = self.full or self.pos + n >= self.buffer_size
        self.pos = (self.pos + n) % self.buffer_size

    def _allocate(self, values: th.Tensor) -> th.Tensor:
        return values.new_zeros((self.buffer_size, *values.shape[1:]), device=self.device)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw rows uniformly, with replacement, from the buffer's own generator.

        :param env: As in SB3: if given, observations are normalised by its statistics.
        """
        return self._get_samples(self.sample_index(batch_size), env)

    def sample_index(self, batch_size: int, generator: th.Generator | None = None) -> th.Tensor:
        """The rows that :meth:`sample` draws, (batch_size,); by another generator, if given."""
        if self.size() == 0:
            raise ValueError(f"The {type(self).__name__} is empty: nothing to sample.")
        first, last = self.drawn_rows()
        return th.randint(first, last, (batch_size,), generator=generator or self.generator, device=self.device)

    def drawn_rows(self) -> tuple[int, int]:
        """The first row that may be drawn, and the one after the last."""
        return 0, self.size()

    def _get_samples(self, batch_inds: th.Tensor, env: VecNormalize | None = None) -> ReplayBufferSamples:  # type: ignore[override]
        def normalise(observations: Any) -> Any:
            if env is None:
                return observations
            return th.as_tensor(env.normalize_obs(observations.cpu().numpy()), device=self.device)

        return ReplayBufferSamples(
            observations=normalise(self._rows("observations", batch_inds)),
            actions=self._rows("actions", batch_inds),
            next_observations=normalise(self._rows("next_observations", batch_inds)),
            dones=self._rows("dones", batch_inds).unsqueeze(1),
            rewards=(self.reward_scale * self._rows("rewards", batch_inds) + self.reward_shift).unsqueeze(1),
        )

    def next_actions(self, index: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        What was done at the next observations of these rows (B,): actions (B, action_dim), and whether the episode went on
        (B,) bool; where it did not, the actions mean nothing. Needs ``goes_on``.
        """
        known = self.goes_on[index]
        return self._rows("actions", th.where(known, self._next_rows(index), index)), known

    def _next_rows(self, index: th.Tensor) -> th.Tensor:
        return index + 1

    def logged_rows(self) -> dict[str, Any]:
        """
        All rows as the arrays of a dataset, for :func:`~sb3_offline.load_dataset`.

        :raises DatasetError: if there are none
        """
        if self.size() == 0:
            raise DatasetError(
                f"{type(self).__name__}: it holds no rows. A model's file holds none of its data, which learn reads: give "
                "the data that the model was trained on, or what its save_replay_buffer wrote."
            )
        rows = self._named_rows(th.arange(self.size(), device=self.device))
        every = slice(0, self.size())
        return {**rows, **self.flags, **{name: _to_arrays(masks[every].cpu()) for name, masks in self.masks.items()}}

    def _named_rows(self, index: th.Tensor) -> dict[str, Any]:
        """
        Arrays of these rows: observations raw, actions in the environment's units. Where the next row does not follow, the
        episode counts as cut; a terminal row that leads to itself is one whose next observation was not logged.
        """
        columns: dict[str, Any] = {
            name: map_observations(self._rows(name, index), lambda column: column.cpu()) for name in BUFFER_ARRAYS
        }
        if isinstance(self.action_space, spaces.Box):
            low, high = th.as_tensor(self.action_space.low), th.as_tensor(self.action_space.high)
            columns["actions"] = unscale_actions(columns["actions"], low, high)
        else:
            columns["actions"] = th.as_tensor(self.choices.table())[columns["actions"].squeeze(1)]
        observations, following = columns["observations"], columns["next_observations"]
        terminations = columns.pop("dones").numpy().astype(bool)
        follows = np.append(_equal_rows(take_rows(observations, slice(1, None)), take_rows(following, slice(None, -1))), False)
        rows = {name: _to_arrays(column) for name, column in columns.items()}
        unlogged = terminations & _equal_rows(observations, following)
        return {**rows, "terminations": terminations, "truncations": ~terminations & ~follows, "valid_next": ~unlogged}

    def _rows(self, name: str, index: th.Tensor) -> Any:
        """A tensor, or of a Dict space's observations one for each key."""
        return map_observations(getattr(self, name), lambda column: column.index_select(0, index))


class OfflineDatasetBuffer(TensorReplayBuffer):
    """The logged data as an SB3 replay buffer. It is filled once, from an :class:`OfflineDataset`."""

    def load(self, dataset: OfflineDataset) -> None:
        """Hold all rows of ``dataset``: observations raw, actions scaled to [-1, 1]."""
        self.buffer_size = len(dataset)
        self.reset()
        self.flags = flags_of(dataset)
        for rows in blocks_of(dataset):
            self.write(
                observations=to_tensors(np.array(dataset.observations[rows])),
                actions=th.from_numpy(scale_actions(np.array(dataset.actions[rows]), self.action_space)),
                next_observations=to_tensors(np.array(dataset.next_observations[rows])),
                rewards=th.from_numpy(np.array(dataset.rewards[rows])),
                dones=th.from_numpy(dataset.terminations[rows].astype(np.float32)),
            )
        if dataset.action_masks is not None:
            self.masks = {name: th.as_tensor(getattr(dataset, name), device=self.device) for name in MASK_NAMES}

    def drawn_rows(self) -> tuple[int, int]:
        """This rank's own share of the data, where several processes train one model."""
        return ranks.share_of(self.size())

    def add(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("The logged data is fixed: an OfflineDatasetBuffer takes no new transitions.")


class ModelRolloutBuffer(TensorReplayBuffer):
    """A ring of transitions imagined by the dynamics model; the newest overwrite the oldest."""

    def logged_rows(self) -> dict[str, Any]:
        """:raises DatasetError: always"""
        raise DatasetError(
            "ModelRolloutBuffer: a dynamics model imagined these transitions; they were not logged and are no data."
        )


def flags_of(dataset: OfflineDataset) -> dict[str, np.ndarray]:
    """Where episodes were cut, though the process may have gone on, and which terminal rows lead nowhere that was logged."""
    return {"truncations": dataset.truncations, "valid_next": dataset.valid_next}


def _to_arrays(column: Any) -> Any:
    return {key: part.numpy() for key, part in column.items()} if isinstance(column, dict) else column.numpy()


def _equal_rows(one: Any, other: Any) -> np.ndarray:
    """(n,) bool"""
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return np.logical_and.reduce([(a == b).reshape(len(a), a.shape[1:].numel()).all(dim=1).cpu().numpy() for a, b in pairs])


def scale_actions(actions: np.ndarray, action_space: spaces.Space) -> np.ndarray:
    """
    Map actions (n, action_dim) from the space's bounds to [-1, 1], clipped, float32 (``policy.scale_action``). Of choices the
    number of each, counted from 0, as a column (n, 1), as in SB3's buffers.
    """
    if not isinstance(action_space, spaces.Box):
        return Choices(action_space).numbers(actions).reshape(len(actions), 1)
    low, high = action_space.low, action_space.high
    return np.clip(2.0 * (actions - low) / (high - low) - 1.0, -1.0, 1.0).astype(np.float32)


def unscale_actions(actions: th.Tensor, low: th.Tensor, high: th.Tensor) -> th.Tensor:
    """The inverse of :func:`scale_actions`, on the device."""
    return low + 0.5 * (actions + 1.0) * (high - low)
