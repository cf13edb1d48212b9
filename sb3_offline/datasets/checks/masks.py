"""Which actions could be chosen, as data say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.checks.columns import check_rows
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import MASK_NAMES
from sb3_offline.networks.choices import Choices


def masks_of(
    columns: Mapping[str, Any],
    actions: np.ndarray,
    space: spaces.Space,
    terminations: np.ndarray,
    truncations: np.ndarray,
    where: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """
    The masks of data that have them. Without ``next_action_masks`` those of the following row are taken.

    :return: the masks by name, (n, m) bool, none of data without them; and the rows that have no next one, (n,) bool
    :raises DatasetError: for masks that do not fit the space, allow nothing, or forbid the logged action
    """
    current, following = (columns.get(name) for name in MASK_NAMES)
    unknown = np.zeros(len(actions), bool)
    if current is None:
        if following is not None:
            raise DatasetError(f"{where}: there are next_action_masks, but no action_masks: give both, or the latter alone.")
        return {}, unknown
    if isinstance(space, spaces.Box):
        raise DatasetError(f"{where}: action_masks are for actions that are chosen among a few; these live in {space}.")
    choices = Choices(space)
    current = _checked("action_masks", current, choices, ~unknown, where)
    chosen = choices.parts(actions) + choices.offsets
    allowed = np.asarray(np.take_along_axis(current, chosen, axis=1).all(axis=1))
    check_rows(~allowed, f"{where}: action_masks forbid the logged action", "")
    if following is None:
        following = np.concatenate([current[1:], current[-1:]])
        unknown = truncations & ~terminations
        unknown[-1] = not terminations[-1]
    following = _checked("next_action_masks", following, choices, ~terminations, where)
    following = following | terminations[:, None]
    return dict(zip(MASK_NAMES, (current, following), strict=True)), unknown


def _checked(name: str, masks: np.ndarray, choices: Choices, needed: np.ndarray, where: str) -> np.ndarray:
    """
    :param needed: rows in which something must be allowed
    """
    wanted = (len(needed), choices.mask_size)
    if masks.shape != wanted:
        raise DatasetError(
            f"{where}: {name} have shape {masks.shape}, {wanted} is needed: an entry for each action, or for each value of "
            "each part, one after the other."
        )
    if masks.dtype != bool:
        check_rows((masks != 0) & (masks != 1), f"{where}: {name} are neither 0 nor 1", "")
        masks = masks.astype(bool)
    for part in np.split(masks, choices.offsets[1:], axis=1):
        check_rows(needed & ~np.asarray(part.any(axis=1)), f"{where}: {name} allow no action", "")
    return masks
