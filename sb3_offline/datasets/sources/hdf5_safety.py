"""What an HDF5 file may make its reader do: open another file, load a plugin, or take memory that it does not fill."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.files.archives import DATA_LIMITS, Budget, FileRefused
from sb3_offline.files.regular import bytes_on_disk

#: HDF5's own filters and h5py's lzf. Any other is a plugin: a shared library, which HDF5 would load for the file's sake.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
}
_TEXT = 2**20  # bytes of one entry of metadata


def refuse_links_out(path: Path, file: h5py.File) -> None:
    """
    :raises DatasetError: for whatever would make HDF5 read another file
    """

    def link_out(name: str, link: Any) -> str | None:  # a value other than None ends the visit
        if isinstance(link, h5py.ExternalLink):
            return f"{name} is an external link to {link.filename!r}"
        return None if isinstance(link, (h5py.HardLink, h5py.SoftLink)) else f"{name} is a link of an unknown kind"

    found = file.visititems_links(link_out)
    if found is not None:
        raise DatasetError(f"{path}: {found}. A data file must hold its own data: copy them into one file.")


def check_stored(path: Path, key: str, item: h5py.Dataset) -> None:
    """
    :raises DatasetError: if an array lies in another file, or is packed by a plugin
    """
    if item.is_virtual or item.external:
        raise DatasetError(f"{path}: {key} lies in another file. A data file must hold its own data: copy them into one.")
    filters = item.id.get_create_plist()
    for code, _, _, name in map(filters.get_filter, range(filters.get_nfilters())):
        if code not in _FILTERS:
            raise DatasetError(
                f"{path}: {key} is packed by {name.decode(errors='replace') or 'an unnamed filter'} (filter {code}), which "
                "HDF5 would load as a plugin. Pack it by gzip: h5repack -f GZIP=4 in.h5 out.h5."
            )


def check_unscaled(path: Path, key: str, item: h5py.Dataset) -> None:
    """
    :raises DatasetError: if the numbers are packed as NetCDF's tools pack them, and unpack them when they read
    """
    for name, neutral in (("scale_factor", 1), ("add_offset", 0)):
        if name in item.attrs and not (is_short(item.attrs.get_id(name)) and np.all(item.attrs[name] == neutral)):
            raise DatasetError(
                f"{path}: {key} is packed, as its attribute {name} says: values are numbers * scale_factor + add_offset. "
                "Write them unpacked (xarray.open_dataset unpacks), without these attributes."
            )


def check_numbers(path: Path, key: str, item: h5py.Dataset) -> None:
    """
    :raises DatasetError: for entries that have no length of their own: many may share one text of the file, and each is a copy
    """
    if item.dtype.hasobject:
        raise DatasetError(f"{path}: {key} has dtype {item.dtype}: texts, lists or references. Store an array of numbers.")


def check_sizes(path: Path, *items: h5py.Dataset) -> None:
    """
    A shape costs nothing on disk until something is written, and a chunk may be larger than its array.

    :raises DatasetError: if what is to be read takes much more memory than the file has bytes
    """
    budget = Budget(str(path), bytes_on_disk(path), DATA_LIMITS)
    try:
        for item in items:
            width = item.dtype.itemsize if item.dtype == np.uint8 else max(item.dtype.itemsize, 4)  # others become floats
            chunk = math.prod(item.chunks) * item.dtype.itemsize if item.chunks else 0
            budget.take(max((item.size or 0) * width, chunk))
            if item.dtype.hasobject:
                _take_entries(budget, item)
    except FileRefused as error:
        raise DatasetError(str(error)) from error


def _take_entries(budget: Budget, item: h5py.Dataset) -> None:
    """Entries of any length, one after the other: only reading tells how long they are."""
    for index in np.ndindex(item.shape or ()):
        entry = item[index]
        budget.take(entry.nbytes if isinstance(entry, np.ndarray) else len(entry) if isinstance(entry, (bytes, str)) else 64)


def is_short(item: h5py.Dataset | h5py.h5a.AttrID) -> bool:
    """Whether an entry of metadata is one number, or one text: of all else memory may know no bound."""
    is_text = h5py.check_string_dtype(item.dtype) is not None
    return item.shape == () and (is_text or not item.dtype.hasobject) and item.dtype.itemsize <= _TEXT
