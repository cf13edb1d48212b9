"""D4RL's flat HDF5, written so that a full disk is an error, and not the end of the process."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import h5py

from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.checks import ALIASES

_FOREIGN = {meant: alias for alias, meant in ALIASES.items()}  # terminations are D4RL's terminals


class _PatientFile:
    """
    Keeps the first error of writing, and goes on as if there were none: HDF5 crashes when it cannot write what it still holds.

    :param file: binary, for reading and writing
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file: Any = getattr(file, "raw", file)  # a buffer would be written, and fail, when somebody else looks
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest and self.error is None:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes

    def truncate(self, size: int) -> int:
        try:
            self.file.truncate(size)
        except OSError as error:
            self.error = self.error or error
        return size

    def __getattr__(self, name: str) -> Any:
        """flush, read, readinto, seek and tell are the file's own."""
        return getattr(self.file, name)


def write_hdf5(dataset: OfflineDataset, file: BinaryIO) -> None:
    """
    Write all rows, and what is known of them.

    :param file: binary, for reading and writing
    :raises OSError: if the disk is full
    """
    patient = _PatientFile(file)
    try:
        with h5py.File(patient, "w", libver=("v110", "latest")) as written:  # its headers have checksums
            for name in dataset.array_names:
                written.create_dataset(
                    _FOREIGN.get(name, name), data=getattr(dataset, name), compression="gzip", fletcher32=True
                )
            for key, value in dataset.info.metadata().items():
                plain = value if isinstance(value, (int, float, str)) else json.dumps(value, default=str)
                written[f"metadata/{key}"] = plain
    except Exception as error:  # of what it reads back, and was not written
        raise patient.error or error from error
    if patient.error is not None:
        raise patient.error
