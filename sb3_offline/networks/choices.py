"""Actions that are chosen among finitely many, numbered from 0: a Q-network has one output for each."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces

Masks = TypeVar("Masks", np.ndarray, th.Tensor)

MOST_CHOICES = 4096
CHOICE_SPACES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class Choices:
    """
    Every combination of a Discrete, MultiDiscrete or MultiBinary action, in the order of ``numpy.ravel_multi_index``.

    :param space: of the actions
    :raises ValueError: for more combinations than a Q-network should have outputs
    """

    def __init__(self, space: spaces.Space):
        sizes, starts = _sizes_and_starts(space)
        self.shape: tuple[int, ...] = tuple(space.shape or ())
        self.sizes: tuple[int, ...] = tuple(int(size) for size in sizes.flat)
        self.starts = starts.reshape(-1)
        self.n = math.prod(self.sizes)
        if self.n > MOST_CHOICES:
            raise ValueError(
                f"{space} has {self.n:,} combinations, each of which would be an output of the Q-network; at most "
                f"{MOST_CHOICES:,} are taken. Leave out what hardly changes, make finely divided parts coarser, or put "
                "quantities into a Box, for the algorithms with continuous actions."
            )

    @property
    def plain(self) -> bool:
        """Whether actions are their own numbers."""
        return self.shape == () and not self.starts.any()

    @property
    def mask_size(self) -> int:
        """Entries of an action mask: one for each value of each part, as in sb3-contrib."""
        return sum(self.sizes)

    @property
    def offsets(self) -> np.ndarray:
        """(number of parts,) where each part's entries begin in a mask."""
        return np.cumsum((0, *self.sizes[:-1]))

    def parts(self, actions: np.ndarray) -> np.ndarray:
        """Actions (n, \\*shape) -> the value of each part, counted from 0: (n, number of parts) int64."""
        return (np.asarray(actions).reshape(len(actions), -1) - self.starts).astype(np.int64)

    def numbers(self, actions: np.ndarray) -> np.ndarray:
        """Actions (n, \\*shape) -> their numbers, (n,) int64."""
        return np.ravel_multi_index(tuple(self.parts(actions).T), self.sizes)

    def table(self) -> np.ndarray:
        """Each number's action, (n, \\*shape) int64."""
        parts = np.stack(np.unravel_index(np.arange(self.n), self.sizes), axis=1) + self.starts
        return parts.reshape(self.n, *self.shape).astype(np.int64)

    def allowed(self, masks: Any, rows: int | None = None) -> np.ndarray:
        """
        Which combinations are allowed: those of which every part is.

        :param masks: (n, :attr:`mask_size`), or of one row without its axis: 1 or True where a part's value may be chosen
        :param rows: how many there must be
        :return: (n, number of combinations) bool
        :raises ValueError: for masks of another shape, or a row that allows nothing
        """
        flat = np.asarray(masks)
        flat = flat.reshape(-1, self.mask_size) if flat.size and flat.shape[-1] == self.mask_size else flat
        if flat.ndim != 2 or flat.shape[1] != self.mask_size or rows not in (None, len(flat)):
            wanted = f"({'n' if rows is None else rows}, {self.mask_size})"
            raise ValueError(f"action_masks have shape {np.shape(masks)}; {wanted} is needed, one entry a value of each part.")
        allowed = self.combined(flat.astype(bool))
        nothing = np.flatnonzero(~allowed.any(axis=1))
        if len(nothing):
            raise ValueError(f"action_masks allow no action in row {nothing[0]}: one at least must be.")
        return allowed

    def combined(self, masks: Masks) -> Masks:
        """Masks (n, :attr:`mask_size`) bool -> combinations of allowed parts, (n, number of combinations) bool."""
        allowed = masks[:, : self.sizes[0]]
        for start, size in zip(self.offsets[1:], self.sizes[1:], strict=True):
            part = masks[:, start : start + size]
            allowed = (allowed[:, :, None] & part[:, None, :]).reshape(len(masks), -1)
        return allowed


def masked(scores: th.Tensor, masks: th.Tensor | None) -> th.Tensor:
    """Q or log-probabilities (..., B, n_actions), -inf where ``masks`` (B, n_actions) forbid; without masks as they are."""
    return scores if masks is None else scores.masked_fill(~masks, -th.inf)


def renormalized(log_probs: th.Tensor, masks: th.Tensor | None) -> th.Tensor:
    """log pi(.|s), (B, n_actions), of the actions that ``masks`` (likewise) allow alone."""
    return log_probs if masks is None else th.log_softmax(masked(log_probs, masks), dim=1)


def _sizes_and_starts(space: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(space, spaces.Discrete):
        return np.array([space.n]), np.array([space.start])
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec, space.start
    return np.full(space.shape, 2), np.zeros(space.shape, np.int64)
