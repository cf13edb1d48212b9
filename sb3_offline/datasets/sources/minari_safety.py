"""The files of an installed Minari data set, looked at before Minari opens them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.hdf5_safety import check_sizes, check_stored, refuse_links_out
from sb3_offline.datasets.sources.tables.frames import readable, sound
from sb3_offline.datasets.sources.tables.sizes import check_table_size
from sb3_offline.files.refusal import FileRefused
from sb3_offline.files.regular import is_regular, leads_out, read_regular
from sb3_offline.files.structure import read_json


def check_minari_files(dataset_id: str) -> None:
    """
    :param dataset_id: of a data set in the local store
    :raises DatasetError: if one of its files is no file of its own (a link out, a pipe), or its spaces ask for memory
    """
    from minari.storage.datasets_root_dir import get_dataset_path

    folder = Path(get_dataset_path(dataset_id)) / "data"
    for path in _files(folder):
        if not is_regular(path) or leads_out(path, folder):
            raise DatasetError(f"{path} is a link, a pipe or a device: a data set must hold its own files. Copy them into it.")
    _check_spaces(folder / "metadata.json")


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def check_minari_arrays(folder: Path) -> None:
    """
    :param folder: with the data of a set
    :raises DatasetError: if a file would make HDF5 open another file, load a plugin, or take far more memory than it has bytes
    """
    for path in _files(folder):
        if path.suffix in (".hdf5", ".h5"):
            _check_hdf5(path)
        elif path.suffix in (".arrow", ".parquet"):
            _check_arrow(path)


def _check_arrow(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds  # Minari reads these by it, too

    form = path.suffix.removeprefix(".")
    with readable(str(path)):
        dataset = ds.dataset(str(path), format=form)
        check_table_size(str(path), [path], dataset)
        if form == "arrow":
            for batch in dataset.to_batches():
                sound(pa.Table.from_batches([batch]))


def _check_hdf5(path: Path) -> None:
    with h5py.File(path, "r") as file:
        refuse_links_out(path, file)
        arrays: dict[str, h5py.Dataset] = {}
        file.visititems(lambda key, item: arrays.update({key: item}) if isinstance(item, h5py.Dataset) else None)
        for key, array in arrays.items():
            check_stored(path, key, array)
        check_sizes(path, *arrays.values())


def _check_spaces(path: Path) -> None:
    """Minari writes a space's bounds whole; one number beside a shape would be filled to that shape."""
    try:
        metadata = read_json(read_regular(path), str(path))
        for name in ("observation_space", "action_space"):
            text = metadata.get(name)
            if isinstance(text, str):
                _check_boxes(read_json(text, f"{path}: {name}"), str(path))
    except FileRefused as error:
        raise DatasetError(str(error)) from error


def _check_boxes(value: Any, path: str) -> None:
    if isinstance(value, dict):
        if value.get("type") == "Box" and math.prod(value.get("shape", [])) > max(np.size(value.get("low", 0)), 1):
            raise DatasetError(f"{path}: a space of shape {value['shape']} has fewer bounds than that: it is damaged.")
        for item in value.values():
            _check_boxes(item, path)
    elif isinstance(value, list):
        for item in value:
            _check_boxes(item, path)
