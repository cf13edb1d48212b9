"""OGBench's npz: no next observations and no rewards; ``terminals`` end trajectories, which keep their final observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES
from sb3_offline.datasets.sources.episodes import derive_space
from sb3_offline.datasets.sources.npz import npz_keys, read_npz
from sb3_offline.datasets.sources.raw import RawSource, raw_from_metadata
from sb3_offline.datasets.sources.tables.columns import mapping_of
from sb3_offline.datasets.sources.task import Task

_ROLES = ("rewards", "terminations")


def is_ogbench(path: Path) -> bool:
    """Whether an npz file has OGBench's keys: what D4RL's layout has, without rewards, or with ``masks`` or ``valids``."""
    keys = npz_keys(path)
    return {"observations", "actions", "terminals"} <= keys and ("rewards" not in keys or bool(keys & {"masks", "valids"}))


def open_ogbench(path: Path, task: Task) -> RawSource:
    """
    The files as they are published (each trajectory's last row holds only its final observation), the compact form that
    ``ogbench.load_dataset`` gives (``valids`` is 0 there) and the full one (with ``next_observations``).

    ``terminals`` say that a trajectory ends, not that the task does: these are cuts. Where ``masks`` are given, 0 is a
    termination.

    :param task: its ``columns`` may give ``rewards`` and ``terminations``, as functions of the transitions' arrays by name
    :raises DatasetError: if nothing says what the rewards are
    """
    functions = {} if task.columns is None else mapping_of(task.columns, str(path))
    for role, function in functions.items():
        if role not in _ROLES or not callable(function):
            raise DatasetError(
                f"{path}: of OGBench's files columns= gives functions for rewards and terminations, not {role!r}."
            )
    if "rewards" not in npz_keys(path) and "rewards" not in functions:
        raise DatasetError(
            f'{path}: OGBench\'s files hold no rewards. Give a function of the transitions: columns={{"rewards": lambda rows: '
            'rows["next_observations"][:, 0]}, or save what ogbench.make_env_and_datasets gives for a singletask id.'
        )
    kept: dict[str, Any] = {}

    def rows() -> dict[str, Any]:
        return _transitions(read_npz(path), functions, str(path))

    def read() -> dict[str, Any]:
        found = dict(kept or rows())
        kept.clear()
        return {name: values for name, values in found.items() if name in ARRAY_NAMES}

    def derive(kind: str) -> Any:
        if not kept:
            kept.update(rows())
        return derive_space(kind, kept, str(path))

    return raw_from_metadata(
        path.name, read, {"source": "OGBench", "reading": _said(npz_keys(path), functions)}, derive=derive
    )


def _said(keys: set[str], functions: Mapping[str, Any]) -> list[str]:
    form = "next observations given" if "next_observations" in keys else "each trajectory's last row is its final observation"
    ends = "terminals are cuts" + (", masks of 0 terminations" if "masks" in keys else "")
    return [form, ends, *(f"{role} by a function" for role in functions)]


def _transitions(arrays: Mapping[str, Any], functions: Mapping[str, Callable[[Any], Any]], where: str) -> dict[str, Any]:
    found = {name: values for name, values in arrays.items() if name != "metadata"}
    lengths = {name: values.shape[:1] for name, values in found.items()}
    if len(set(lengths.values())) > 1 or lengths["actions"] in ((), (0,)):
        raise DatasetError(f"{where}: the arrays differ in length, or are empty: {lengths}.")
    ends = found.pop("terminals") != 0
    if "next_observations" not in found:
        kept = found["valids"] != 0 if "valids" in found else ~ends
        kept[-1] = False  # nothing follows it
        found["next_observations"] = np.roll(found["observations"], -1, axis=0)
        ends = np.append(~kept[1:], True)  # the row before a final observation is the last transition
        found, ends = {name: values[kept] for name, values in found.items()}, ends[kept]
    given = {role: np.asarray(function(found)) for role, function in functions.items()}
    terminations = found["masks"] == 0 if "masks" in found else np.zeros(len(ends), bool)
    found |= {"terminations": terminations, **given}
    found["truncations"] = ends & ~(np.asarray(found["terminations"]) != 0)
    return found
