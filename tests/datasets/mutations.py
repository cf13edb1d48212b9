"""Files with random damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sb3_offline.datasets import DatasetError, OfflineDataset, load_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, cut off, left out, or twice."""
    data = bytearray(content)
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
    kind = rng.integers(5)
    if kind == 0:
        for place in rng.integers(len(data), size=length):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[start : start + length] = rng.integers(256, size=length, dtype=np.uint8).tobytes()
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        del data[start : start + length]
    else:
        data[start:start] = data[start : start + length]
    return bytes(data)


def assert_refused_or_well_formed(
    path: Path, load: Callable[[Path], OfflineDataset] = load_dataset, times: int = 200, name: str | None = None
) -> int:
    """
    Load a file with damage of every kind, in its own place.

    :param name: what a refusal must name, the file if not given
    :return: how many were refused
    """
    content, refused = path.read_bytes(), 0
    for seed in range(times):
        path.write_bytes(mutated(content, np.random.default_rng(seed)))
        try:
            data = load(path)
        except DatasetError as error:
            refused += 1
            if (name or path.name) not in str(error):
                raise AssertionError(f"not refused by name: {error}") from error
        else:
            assert len({len(getattr(data, name)) for name in ARRAY_NAMES}) == 1
            assert np.isfinite(data.rewards).all()
            assert not (data.terminations & data.truncations).any()
    path.write_bytes(content)
    return refused
