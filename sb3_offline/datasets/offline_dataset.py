"""The one container that every source of logged data is turned into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_offline.arguments import INSIDE_UNIT, check_number
from sb3_offline.datasets.envs import env_from_spec
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.goal_relabelling import GoalRelabelling
from sb3_offline.datasets.space_facts import facts_of
from sb3_offline.files.encoding import described, register_kind

#: The arrays of a data set, in the order in which they are hashed.
ARRAY_NAMES = (
    "observations",
    "actions",
    "rewards",
    "next_observations",
    "terminations",
    "truncations",
    "valid_next",
)
#: Which actions may be chosen, of data that say so; absent from all others.
MASK_NAMES = ("action_masks", "next_action_masks")
#: What the card says of ``next_observations`` that were not logged.
INFERRED = "taken from the following rows"
_HASHED_ROWS = 65_536


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set without reading its arrays.

    ``dataset_id`` is an id, a file's name, or a word such as ``"arrays"``; ``env_spec`` is the task's own
    (e.g. Hopper-v5) or None; the reference scores are the mean returns that mean 0 and 100; ``card`` is free-form
    and says how the data were made; ``goals`` says how batches are drawn, see :func:`~sb3_offline.datasets.relabel_goals`.
    """

    dataset_id: str
    observation_space: spaces.Space
    action_space: spaces.Space
    env_spec: EnvSpec | None = None
    reference_min_score: float | None = None
    reference_max_score: float | None = None
    card: dict[str, Any] = field(default_factory=dict)
    goals: GoalRelabelling | None = None

    @property
    def successors_inferred(self) -> bool:
        """Whether next observations were taken from the following rows; of several sources, whether all were."""
        parts = self.card.get("parts", [self.card])
        return all(part.get("next_observations") == INFERRED for part in parts)

    def make_env(self, *, trust: bool = False, **kwargs: Any) -> gym.Env:
        """The task's environment, made by ``gymnasium.make``.

        :param trust: also take wrappers and arguments of the data's spec that may write, or read any file
        :param kwargs: passed on to ``gymnasium.make``, e.g. ``render_mode``
        :raises DatasetError: if the data name no environment, or the package that has it is missing
        """
        if self.env_spec is None:
            raise DatasetError(
                f"{self.dataset_id} names no environment. Name its task by env_id=, or make the environment yourself."
            )
        return env_from_spec(self.env_spec, self.dataset_id, trust=trust, **kwargs)

    def normalized_score(self, returns: float) -> float | None:
        """A mean return on the scale where 0 is the random policy and 100 the reference one (Fu et al. 2020).

        :param returns: mean undiscounted return of whole episodes
        :return: the score, or None if the reference returns are not known
        """
        low, high = self.reference_min_score, self.reference_max_score
        if low is None or high is None or low == high:
            return None
        return 100.0 * (float(returns) - low) / (high - low)

    def metadata(self) -> dict[str, Any]:
        """The card, the reference scores, and the task's id or else the spaces, as data files keep them beside the arrays."""
        known: dict[str, Any] = {
            "env_id": None if self.env_spec is None else self.env_spec.id,
            "reference_min_score": self.reference_min_score,
            "reference_max_score": self.reference_max_score,
        }
        if self.env_spec is None:
            known["observation_space"], known["action_space"] = facts_of(self.observation_space), facts_of(self.action_space)
        return {**self.card, **{key: value for key, value in known.items() if value is not None}}


register_kind("DatasetInfo", DatasetInfo, lambda info: {**vars(info), "card": described(info.card)}, DatasetInfo)


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """Checked transitions in the order in which they were logged.

    Box observations and actions are float32 (uint8 images stay uint8), actions are in the environment's own units,
    Discrete ones are int64 of shape (n,). A row that ends an episode is either a termination (the task ended: no
    value beyond it) or a truncation (it was cut: there is more beyond ``next_observations``), never both.

    Observations of a Dict space are one structured array (n,) whose fields are the keys: ``observations["image"]`` is
    (n, \\*image_shape), and ``observations[rows]`` takes rows of all keys.

    :param info: spaces, task, reference scores and provenance
    :param observations: (n, \\*obs_shape)
    :param actions: (n, action_dim), or (n,) for Discrete
    :param rewards: (n,)
    :param next_observations: (n, \\*obs_shape); a copy of ``observations`` where ``valid_next`` is False
    :param terminations: (n,) bool
    :param truncations: (n,) bool
    :param valid_next: (n,) bool, False on a terminal row whose next observation was not logged: harmless for a
        Bellman target, which does not look beyond a termination, but not to be learned from by a dynamics model
    :param action_masks: (n, m) bool, which actions could be chosen, in sb3-contrib's form: an entry for each action, of
        several parts one after the other; None of data that do not say
    :param next_action_masks: (n, m) bool, likewise at the next observation; all True beyond a termination
    """

    info: DatasetInfo
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    valid_next: np.ndarray
    action_masks: np.ndarray | None = None
    next_action_masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def array_names(self) -> tuple[str, ...]:
        """The arrays that these data have: :data:`ARRAY_NAMES`, and the masks of data that have them."""
        return ARRAY_NAMES if self.action_masks is None else (*ARRAY_NAMES, *MASK_NAMES)

    def arrays(self, rows: Any = slice(None)) -> dict[str, Any]:
        """All of them by name.

        :param rows: which of their rows
        """
        return {name: getattr(self, name)[rows] for name in self.array_names}

    @property
    def observation_space(self) -> spaces.Space:
        return self.info.observation_space

    @property
    def action_space(self) -> spaces.Space:
        return self.info.action_space

    @property
    def env_spec(self) -> EnvSpec | None:
        return self.info.env_spec

    @property
    def episode_ends(self) -> np.ndarray:
        """(n_episodes,) index of each episode's last row; the last row of all ends an episode in any case."""
        ends = self.terminations | self.truncations
        ends[-1] = True
        return np.flatnonzero(ends)

    @property
    def n_episodes(self) -> int:
        return len(self.episode_ends)

    def episode_lengths(self) -> np.ndarray:
        """(n_episodes,) number of rows of each episode."""
        return np.diff(self.episode_ends, prepend=-1)

    def episode_returns(self) -> np.ndarray:
        """(n_episodes,) sum of each episode's rewards, float64."""
        starts = self.episode_ends - self.episode_lengths() + 1
        return np.add.reduceat(self.rewards.astype(np.float64), starts)

    def sample_episodes(self, fraction: float, seed: int) -> OfflineDataset:
        """Whole episodes drawn at random without replacement, in logged order, until they hold a share of the rows; the data
        themselves, if these are all.

        With one seed a smaller share is contained in a larger one.

        :param fraction: share of the rows, in (0, 1]; the last episode drawn goes beyond it
        :param seed: of the draw
        :raises ValueError: if ``fraction`` is not in (0, 1]
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
        order, lengths = np.random.default_rng(seed).permutation(self.n_episodes), self.episode_lengths()
        n_drawn = 1 + np.searchsorted(lengths[order].cumsum(), fraction * len(self))
        return self if n_drawn >= self.n_episodes else self.take_episodes(order[:n_drawn])

    def take_episodes(self, episodes: np.ndarray) -> OfflineDataset:
        """A copy of some whole episodes, in logged order.

        :param episodes: (k,) their numbers, from 0; one that is named twice is there once
        :raises ValueError: for none, or a number that is no episode's
        """
        chosen = np.asarray(episodes)
        if chosen.size == 0 or chosen.min() < 0 or chosen.max() >= self.n_episodes:
            raise ValueError(
                f"episodes are numbered from 0 to {self.n_episodes - 1}, and one at least is needed; got {chosen}."
            )
        rows = np.repeat(np.isin(np.arange(self.n_episodes), chosen), self.episode_lengths())
        ended = np.zeros(len(self), dtype=bool)
        ended[self.episode_ends] = True  # the log's last row, which need not say so, may have others behind it now
        truncations = (self.truncations | (ended & ~self.terminations))[rows]
        return replace(self, **(self.arrays(rows) | {"truncations": truncations}))

    def split(self, fraction: float = 0.1, seed: int = 0) -> tuple[OfflineDataset, OfflineDataset]:
        """Keep whole episodes apart, good and bad ones in proportion: sorted by return, one of each run of 1/fraction
        neighbours is held out, drawn at random.

        :param fraction: share of the episodes that is held out, in (0, 1); one at least is, and one is left
        :param seed: of the draw
        :return: what to train on, and what is held out; both in logged order
        :raises ValueError: for a fraction out of range, or fewer than two episodes
        """
        check_number("fraction", fraction, INSIDE_UNIT)
        n = self.n_episodes
        if n < 2:
            raise ValueError(f"split keeps whole episodes apart, and {self.info.dataset_id} holds {n}: bring more.")
        n_out = min(max(round(fraction * n), 1), n - 1)
        rng, by_return = np.random.default_rng(seed), np.argsort(self.episode_returns(), kind="stable")
        held_out = np.array([rng.choice(neighbours) for neighbours in np.array_split(by_return, n_out)])
        return self.take_episodes(np.setdiff1d(np.arange(n), held_out)), self.take_episodes(held_out)

    def __getitem__(self, rows: slice) -> OfflineDataset:
        """Rows that follow each other, without a copy where there need be none: ``dataset[:10_000]``. An episode that is cut
        at the last row counts as truncated there.

        :raises TypeError: for what is no slice
        :raises ValueError: for a slice that holds no row, or leaves out rows in between
        """
        if not isinstance(rows, slice):
            raise TypeError(
                f"a data set is indexed by a slice of rows, dataset[100:200], got {rows!r}; take_episodes takes episodes."
            )
        start, stop, step = rows.indices(len(self))
        if step != 1 or start >= stop:
            raise ValueError(f"the slice must hold rows that follow each other, at least one of {len(self)}; got {rows}.")
        columns = self.arrays(slice(start, stop))
        if not columns["terminations"][-1]:
            columns["truncations"] = columns["truncations"].copy()
            columns["truncations"][-1] = True
        return replace(self, **columns)

    def make_env(self, **kwargs: Any) -> gym.Env:
        """The task's environment; see :meth:`DatasetInfo.make_env`."""
        return self.info.make_env(**kwargs)

    def normalized_score(self, returns: float) -> float | None:
        """A mean return on the 0..100 scale; see :meth:`DatasetInfo.normalized_score`."""
        return self.info.normalized_score(returns)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the arrays' names, types, shapes and bytes: equal data have equal fingerprints."""
        digest = hashlib.sha256()
        for name in self.array_names:
            array = getattr(self, name)
            kind = array.dtype.str if array.dtype.names is None else array.dtype.descr
            digest.update(f"{name} {kind} {array.shape};".encode())
            for start in range(0, len(array), _HASHED_ROWS):  # arrays may be larger than memory
                digest.update(np.ascontiguousarray(array[start : start + _HASHED_ROWS]).data)
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Figures for display, all plain Python values of six digits. The score is None without reference returns."""
        returns, lengths = self.episode_returns(), self.episode_lengths()
        score = self.normalized_score(float(returns.mean()))
        return {
            "dataset": self.info.dataset_id,
            "env": None if self.env_spec is None else self.env_spec.id,
            "observation_space": str(self.observation_space),
            "action_space": str(self.action_space),
            "transitions": len(self),
            "episodes": self.n_episodes,
            "terminated_episodes": int(self.terminations.sum()),
            "truncated_episodes": int(self.truncations.sum()),
            "mean_length": _six_digits(lengths.mean()),
            "mean_return": _six_digits(returns.mean()),
            "min_return": _six_digits(returns.min()),
            "max_return": _six_digits(returns.max()),
            "mean_normalized_score": None if score is None else _six_digits(score),
            "fingerprint": self.fingerprint(),
        }


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
