"""A data set as a Parquet file, one column an array, which is read back to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets.mapped import blocks_of
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.sources.tables.frames import METADATA_KEY, import_pyarrow


def write_parquet(dataset: OfflineDataset, path: Path) -> None:
    """
    Vectors and images are lists of fixed length, observations by key are columns ``observations.key``. The metadata and the
    mapping of columns lie in the file's schema.
    """
    import_pyarrow(str(path))
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    for rows in blocks_of(dataset):
        columns: dict[str, Any] = {}
        for name in dataset.array_names:
            columns |= _columns_of(name, np.asarray(getattr(dataset, name)[rows]))
        table = pa.table(columns)
        if writer is None:
            facts = {"metadata": dataset.info.metadata(), "columns": _mapping(dataset)}
            schema = table.schema.with_metadata({METADATA_KEY: json.dumps(facts, default=str)})
            writer = pq.ParquetWriter(path, schema, write_page_checksum=True)
        writer.write_table(table.cast(schema))
    writer.close()


def _columns_of(name: str, values: np.ndarray) -> dict[str, Any]:
    if values.dtype.names is not None:
        return {f"{name}.{key}": _lists(values[key]) for key in values.dtype.names}
    return {name: _lists(values)}


def _lists(values: np.ndarray) -> Any:
    """(n,) as it is; every further axis is a list of fixed length."""
    import pyarrow as pa

    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _mapping(dataset: OfflineDataset) -> dict[str, Any]:
    names: dict[str, Any] = {name: name for name in dataset.array_names}
    keys = dataset.observations.dtype.names
    if keys is not None:
        names |= {name: {key: f"{name}.{key}" for key in keys} for name in ("observations", "next_observations")}
    return names
