"""OGBench's npz: no next observations and no rewards; ``terminals`` end trajectories, which keep their final observation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.episodes import joined, source_of_blocks
from sb3_offline.datasets.sources.npz import npz_blocks, npz_keys, npz_shapes, read_npz
from sb3_offline.datasets.sources.raw import RawSource
from sb3_offline.datasets.sources.tables.columns import mapping_of
from sb3_offline.datasets.sources.tables.functions import call_function
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
    given: dict[str, np.ndarray] = {}

    def blocks() -> Iterator[dict[str, Any]]:
        kept, ends = _kept_rows(path)
        if functions and not given:
            rows = _Transitions(path, kept)
            shape = (int(kept.sum()),)
            given.update({role: call_function(each, role, rows, str(path), shape) for role, each in functions.items()})
        return _transitions(path, kept, ends, given)

    said = {"source": "OGBench", "reading": _said(npz_keys(path), functions)}
    return source_of_blocks(path.name, str(path), blocks, said)


def _said(keys: set[str], functions: Mapping[str, Any]) -> list[str]:
    form = "next observations given" if "next_observations" in keys else "each trajectory's last row is its final observation"
    ends = "terminals are cuts" + (", masks of 0 terminations" if "masks" in keys else "")
    return [form, ends, *(f"{role} by a function" for role in functions)]


class _Transitions(Mapping[str, np.ndarray]):
    """All transitions' arrays by name, each read when a function asks for it."""

    def __init__(self, path: Path, kept: np.ndarray):
        """:param kept: (n,) bool, the rows that are transitions"""
        self._path, self._kept = path, kept
        self._names = sorted(npz_keys(path) - {"terminals", "metadata"} | {"next_observations"})
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(f"{name!r} is no array; there are {', '.join(self)}")
        if name not in self._read:
            if name in npz_keys(self._path):
                self._read[name] = read_npz(self._path, [name])[name][self._kept]
            else:  # no final observation is kept, and the last row is one
                self._read[name] = read_npz(self._path, ["observations"])["observations"][1:][self._kept[:-1]]
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _kept_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    (n,) bool each: the rows that are transitions, not a final observation, and those after which an episode ends.

    :raises DatasetError: if the arrays differ in length, or are empty
    """
    shapes = npz_shapes(path)
    lengths = {name: shape[:1] for name, shape in shapes.items() if name != "metadata"}
    if len(set(lengths.values())) > 1 or lengths["actions"] in ((), (0,)):
        raise DatasetError(f"{path}: the arrays differ in length, or are empty: {lengths}.")
    flags = {name: values != 0 for name, values in read_npz(path, {"terminals", "valids"} & shapes.keys()).items()}
    ends = flags["terminals"].reshape(*lengths["actions"], -1).any(axis=1)
    if "next_observations" in shapes:
        return np.ones_like(ends), ends
    kept = flags["valids"].reshape(*lengths["actions"], -1).all(axis=1) if "valids" in flags else ~ends
    kept[-1] = False  # nothing follows it
    return kept, np.append(~kept[1:], True)  # the row before a final observation is the last transition


def _transitions(path: Path, kept: np.ndarray, ends: np.ndarray, given: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """
    Block by block, of which the last row waits for the next block if it does not say where it led.

    :param kept: the rows that are transitions
    :param ends: those after which an episode ends
    :param given: what functions gave, one value a transition
    """
    keys = npz_keys(path) & {"observations", "actions", "rewards", "masks", "next_observations"} - given.keys()
    ahead = 0 if "next_observations" in keys else 1
    waiting: dict[str, Any] | None = None
    start = n_found = 0
    for _, block in npz_blocks(path, sorted(keys)):
        rows = block if waiting is None else joined([waiting, block], str(path))
        n = len(rows["actions"]) - ahead
        waiting = {name: values[n:] for name, values in rows.items()} if ahead else None
        chosen = kept[start : start + n]
        found = {name: values[:n][chosen] for name, values in rows.items()}
        if ahead:
            found["next_observations"] = rows["observations"][1:][chosen]
        masks = found.pop("masks", None)
        of_block = slice(n_found, n_found + int(chosen.sum()))
        found["terminations"] = np.zeros(int(chosen.sum()), bool) if masks is None else masks == 0
        found |= {role: values[of_block] for role, values in given.items()}
        found["truncations"] = ends[start : start + n][chosen] & ~(np.asarray(found["terminations"]) != 0)
        start, n_found = start + n, of_block.stop
        if chosen.any():
            yield found
