"""imitation's trajectories: the objects, or the folder that ``imitation.data.serialize.save`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.episodes import Episode, episodic_source
from sb3_offline.datasets.sources.raw import RawSource
from sb3_offline.datasets.sources.tables.frames import import_pyarrow, readable
from sb3_offline.datasets.sources.tables.sizes import check_stream_size
from sb3_offline.datasets.sources.tables.values import numbers
from sb3_offline.files.regular import is_regular, leads_out, read_regular
from sb3_offline.files.structure import read_json

_FACTS = {"source": "imitation"}


def is_trajectory(source: Any) -> bool:
    """Whether an object is one of imitation's trajectories, without importing it."""
    return any(cls.__name__ == "Trajectory" and cls.__module__.startswith("imitation.") for cls in type(source).__mro__)


def are_trajectories(source: Any) -> bool:
    """Whether an object is a trajectory, or a list of nothing else."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        return len(source) > 0 and all(is_trajectory(one) for one in source)
    return is_trajectory(source)


def open_trajectories(source: Any) -> RawSource:
    """
    Trajectories with rewards (``TrajectoryWithRew``); one that is not ``terminal`` was cut.

    :raises DatasetError: if they have no rewards
    """
    trajectories = [source] if is_trajectory(source) else source
    for number, one in enumerate(trajectories):
        if getattr(one, "rews", None) is None:
            raise DatasetError(
                f"trajectories: number {number} is a {type(one).__name__} without rewards. Give "
                "TrajectoryWithRew, as rollouts with a reward are."
            )
    facts = {**_FACTS, "reading": [f"{len(trajectories):,} trajectories; one that is not terminal was cut"]}
    return episodic_source("trajectories", "trajectories", lambda: map(_episode, trajectories), facts)


def _episode(trajectory: Any) -> Episode:
    observations = trajectory.obs
    if hasattr(observations, "unwrap"):  # imitation's DictObs
        observations = observations.unwrap()
    return Episode(observations, np.asarray(trajectory.acts), np.asarray(trajectory.rews), bool(trajectory.terminal))


def is_trajectory_folder(path: Path) -> bool:
    """Whether a folder was saved by Hugging Face's ``datasets`` and has the columns of trajectories."""
    try:
        features = read_json(read_regular(path / "dataset_info.json"), str(path))["features"]
        return {"obs", "acts", "terminal"} <= set(features)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_trajectory_folder(path: Path) -> RawSource:
    """:raises DatasetError: if rewards or files are missing"""
    import_pyarrow(str(path))
    files = _files_of(path)
    facts = {**_FACTS, "reading": [f"trajectories of {len(files)} files; one that is not terminal was cut"]}
    return episodic_source(path.name, str(path), lambda: _episodes(path, files), facts)


def _files_of(path: Path) -> list[Path]:
    with readable(str(path)):
        state = read_json(read_regular(path / "state.json"), str(path))
        names = [str(part["filename"]) for part in state["_data_files"]]
    for name in names:
        if Path(name).name != name or not is_regular(path / name) or leads_out(path / name, path):
            raise DatasetError(f"{path}: state.json names {name!r}, and there is no such file in the folder.")
    files = [path / name for name in names]
    with readable(str(path)):
        check_stream_size(str(path), files)
    return files


def _episodes(path: Path, files: Iterable[Path]) -> Iterator[Episode]:
    import pyarrow as pa

    for file in files:
        with readable(str(path)), pa.OSFile(str(file)) as stream, pa.ipc.open_stream(stream) as batches:
            for batch in batches:
                batch.validate(full=True)  # lists that lie outside their buffers would end the process
                yield from _in_batch(path, pa.Table.from_batches([batch]))


def _in_batch(path: Path, table: Any) -> Iterator[Episode]:
    missing = {"obs", "acts", "rews", "terminal"} - set(table.column_names)
    if missing:
        raise DatasetError(f"{path}: the trajectories have no {', '.join(sorted(missing))}. Save TrajectoryWithRew.")
    for row in range(len(table)):
        one = {name: _values(table[name], row, f"{name} of trajectory {row}", path) for name in ("obs", "acts", "rews")}
        yield Episode(one["obs"], one["acts"], one["rews"], bool(table["terminal"][row].as_py()))


def _values(column: Any, row: int, name: str, path: Path) -> np.ndarray:
    import pyarrow as pa

    return numbers(pa.chunked_array([column[row].values]), name, str(path))
