"""How far a memory-mapped folder is written, for writing to go on after an interruption."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.files.atomic import write_atomically

_FILE, _LAST = "progress.json", "last.npy"


@dataclass(frozen=True)
class Layout:
    """
    One file so far.

    :param shape: empty if nothing is written
    :param descr: NumPy's description of its type
    :param size: bytes, its header included
    """

    shape: tuple[int, ...]
    descr: Any
    size: int


@dataclass(frozen=True)
class Progress:
    """
    :param origin: what the rows are made of
    :param n_rows: how many are written
    :param columns: each file, by name
    :param last: (1, \\*obs_shape) the last row's next observation
    """

    origin: str
    n_rows: int
    columns: dict[str, Layout]
    last: np.ndarray


def write_progress(folder: Path, progress: Progress) -> None:
    """One file is written before the other; the number of rows in both tells whether they belong together."""
    layouts = {name: [layout.shape, layout.descr, layout.size] for name, layout in progress.columns.items()}
    record = {"origin": progress.origin, "n_rows": progress.n_rows, "columns": layouts}
    name = f"{progress.n_rows}.{_LAST}"
    write_atomically(folder / name, lambda file: np.save(file, progress.last, allow_pickle=False))
    write_atomically(folder / _FILE, lambda file: file.write(json.dumps(record).encode()))
    for old in folder.glob(f"*.{_LAST}"):
        if old.name != name:
            old.unlink()


def read_progress(folder: Path, origin: str) -> Progress | None:
    """What is written of the same origin; None if nothing is, or its files are not all there."""
    try:
        record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        columns = {
            name: Layout(tuple(shape), _descr(descr), int(size)) for name, (shape, descr, size) in record["columns"].items()
        }
        last = np.load(folder / f"{record['n_rows']}.{_LAST}", allow_pickle=False)
        whole = all((folder / f"{name}.npy.part").stat().st_size >= layout.size for name, layout in columns.items())
        return Progress(origin, int(record["n_rows"]), columns, last) if whole and record["origin"] == origin else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _descr(descr: Any) -> Any:
    """JSON has lists where NumPy wants tuples."""
    if not isinstance(descr, list):
        return descr
    return [(field[0], field[1], *map(tuple, field[2:])) for field in descr]


def clear_progress(folder: Path) -> None:
    (folder / _FILE).unlink(missing_ok=True)
    for last in folder.glob(f"*.{_LAST}"):
        last.unlink()
