"""The small data sets that are packaged with the library."""

from __future__ import annotations

from sb3_offline.catalogue import BUILTIN_FOLDER, BUILTIN_TASKS, NAMESPACE
from sb3_offline.datasets.sources.npz import open_npz
from sb3_offline.datasets.sources.raw import RawSource


def builtin_name(dataset_id: str) -> str | None:
    """The packaged data set that an id means, with or without ``sb3_offline/``, or None."""
    name = dataset_id.removeprefix(f"{NAMESPACE}/")
    return name if name in BUILTIN_TASKS else None


def open_builtin(dataset_id: str) -> RawSource:
    """A packaged data set, by an id that :func:`builtin_name` knows; its metadata are the card that says how it was made."""
    name = builtin_name(dataset_id)
    return open_npz(BUILTIN_FOLDER / f"{name}.npz", f"{NAMESPACE}/{name}")
