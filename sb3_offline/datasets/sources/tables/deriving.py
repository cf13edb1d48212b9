"""Spaces for a table that brings none: what its columns hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.tables.columns import Names, groups_of
from sb3_offline.datasets.sources.tables.values import Survey, whole_numbers_of

#: Observations may leave the data's range by this part of its span.
_MARGIN = 0.1
#: More whole numbers than this are no choices but a quantity.
_MOST_CHOICES = 256


def derive_observation_space(names: Names | dict[str, Names], surveys: Mapping[str, Survey]) -> spaces.Space:
    """Box spaces of the data's range and a tenth of its span on each side; categories are one-hot; images stay uint8."""
    parts: dict[str, spaces.Space] = {key: _box([surveys[name] for name in part]) for key, part in groups_of(names).items()}
    return parts[""] if "" in parts else spaces.Dict(parts)


def _box(surveys: Sequence[Survey]) -> spaces.Box:
    if is_image(surveys):
        return spaces.Box(0, 255, surveys[0].shape, np.uint8)
    bounds = [_bounds(survey) for survey in surveys]
    low, high = (np.concatenate([each[i].ravel() for each in bounds]) for i in (0, 1))
    shape = surveys[0].shape if len(surveys) == 1 and len(surveys[0].shape) > 1 else low.shape
    return spaces.Box(low.reshape(shape).astype(np.float32), high.reshape(shape).astype(np.float32), dtype=np.float32)


def _bounds(survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    if survey.categories is not None:
        return np.zeros(len(survey.categories)), np.ones(len(survey.categories))
    low, high = survey.low.astype(np.float64), survey.high.astype(np.float64)
    margin = np.where(high > low, _MARGIN * (high - low), 1.0)
    return low - margin, high + margin


def is_image(surveys: Sequence[Survey]) -> bool:
    """Whether columns are one column of bytes (n, h, w, c)."""
    return len(surveys) == 1 and len(surveys[0].shape) == 3 and surveys[0].dtype == np.uint8


def derive_action_space(names: Names, surveys: Mapping[str, Survey], where: str, part: bool = False) -> spaces.Space:
    """
    Categories, bools and a few whole numbers are choices (Discrete, or MultiDiscrete for several columns); anything else is a
    Box of exactly the data's range: a policy cannot leave what was tried.

    :param part: of one of several sources: an action that is always the same may be another in the next one
    :raises DatasetError: for an action that is always the same, or categories that are whole numbers far apart
    """
    chosen = [surveys[name] for name in names]
    if all(_is_choice(survey) for survey in chosen):
        starts, counts = zip(*(_choices(name, survey, where) for name, survey in zip(names, chosen, strict=True)), strict=True)
        if len(chosen) == 1:
            return spaces.Discrete(int(counts[0]), start=int(starts[0]))
        return spaces.MultiDiscrete(np.array(counts), start=np.array(starts))
    for name, survey in zip(names, chosen, strict=True):
        if survey.categories is not None:
            raise DatasetError(f"{where}: column {name!r} among the actions is categorical, but others are continuous.")
        constant = np.ravel(survey.low == survey.high)
        if constant.any() and not part:
            raise DatasetError(
                f"{where}: column {name!r} among the actions is always {np.ravel(survey.low)[constant][0]:g}: no bounds "
                "follow from it. Leave it out, or give action_space=."
            )
    low, high = (np.concatenate([np.ravel(getattr(survey, end)) for survey in chosen]) for end in ("low", "high"))
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _is_choice(survey: Survey) -> bool:
    if survey.categories is not None or survey.dtype == bool:
        return True
    return survey.dtype.kind in "iu" and survey.shape == () and int(survey.high) - int(survey.low) < _MOST_CHOICES


def _choices(name: str, survey: Survey, where: str) -> tuple[int, int]:
    """
    The first choice, and how many there are.

    :raises DatasetError: for categories that are whole numbers far apart
    """
    if survey.categories is not None:
        known = whole_numbers_of(survey.categories)
        if known is None or len(known) == 0:
            return 0, len(survey.categories)
        low, high = int(known.min()), int(known.max())
        if high - low >= _MOST_CHOICES:
            raise DatasetError(
                f"{where}: column {name!r} among the actions has categories from {low} to {high}, and each whole number "
                f"between them would be a choice; {_MOST_CHOICES} are the most. Number them, x.cat.codes."
            )
        return low, high - low + 1
    if survey.dtype == bool:
        return 0, 2
    return int(survey.low), int(survey.high) - int(survey.low) + 1
