"""Write a data set as npz, D4RL's flat HDF5, Parquet, a folder of .npy files, or into the Minari store."""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sb3_offline.datasets import DatasetInfo, DatasetSource, OfflineDataset, save_mapped
from sb3_offline.datasets.sources.converting import stream_to_folder
from sb3_offline.datasets.sources.folder import FOLDER_SUFFIX, is_folder
from sb3_offline.datasets.sources.tables.writing import write_parquet
from sb3_offline.files.atomic import draft_of, named_target, write_atomically
from sb3_offline.shell.hdf5_writing import write_hdf5
from sb3_offline.shell.minari_writing import import_minari, write_minari

_MINARI_ID = re.compile(r"([-\w]{2,}/)*[-\w]{2,}-v\d+")  # Minari writes other ids too, and then cannot read its store


def check_target(target: str, force: bool = False) -> None:
    """
    Whether data can be written there, before any time is spent on making them.

    :param target: a .npz, .hdf5 or .parquet file, a .mmap folder, or a Minari id
    :param force: replace what is there
    :raises ValueError: if the target is neither, or exists
    :raises OSError: if it cannot be written
    """
    path = Path(target)
    if path.suffix in (".npz", ".hdf5", ".h5", ".parquet", FOLDER_SUFFIX):
        with named_target(path):
            if path.exists() and not force:
                raise ValueError(f"{target} exists: take another name, or --force to replace it.")
            if path.is_dir() and not (path.suffix == FOLDER_SUFFIX and is_folder(path)):
                raise ValueError(f"{target} is a folder of something else, which --force does not replace: take another name.")
            there = next(folder for folder in path.absolute().parents if folder.exists())
            tempfile.TemporaryFile(dir=there).close()
        return
    minari = import_minari(target)
    if not _MINARI_ID.fullmatch(target):
        raise ValueError(
            f"{target!r} is no target: a file ends in .npz, .hdf5 or .parquet, a memory-mapped folder in .mmap; a Minari "
            "id reads namespace/name-v0, its parts two letters or more."
        )
    if target in minari.list_local_datasets() and not force:
        raise ValueError(f"{target} is in the local Minari store already: take another version, or --force to replace it.")


def place_of(target: str) -> str:
    """A target as the user named it; a Minari id with its folder on the disk, which ``MINARI_DATASETS_PATH`` decides."""
    if not _MINARI_ID.fullmatch(target):
        return target
    from minari.storage.datasets_root_dir import get_dataset_path

    return f"{target} (in {get_dataset_path(target)})"


def write_dataset(dataset: OfflineDataset, target: str, card: Mapping[str, Any] | None = None) -> None:
    """
    Write all rows, the task's id, the reference scores and the card. What is there is replaced.

    :param target: a .npz, .hdf5 or .parquet file, a .mmap folder, or a Minari id
    :param card: facts about how the data were made, beside those that they bring
    """
    info = replace(dataset.info, card={**dataset.info.card, **(card or {})})
    if target.endswith(".npz"):
        arrays = {name: getattr(dataset, name) for name in dataset.array_names}
        metadata = json.dumps(info.metadata(), default=str)
        write_atomically(target, lambda file: np.savez_compressed(file, metadata=metadata, **arrays))
    elif target.endswith((".hdf5", ".h5")):
        write_atomically(target, lambda file: write_hdf5(replace(dataset, info=info), file))
    elif target.endswith(".parquet"):
        with draft_of(target) as draft:
            write_parquet(replace(dataset, info=info), draft)
    elif target.endswith(FOLDER_SUFFIX):
        with draft_of(target) as draft:
            save_mapped(replace(dataset, info=info), draft)
    else:
        write_minari(dataset, target, info.card)


def transformed(dataset: OfflineDataset, scale: float, shift: float) -> OfflineDataset:
    """
    The data with rewards ``scale * r + shift``; reference scores do not survive that, so they are dropped.

    :raises ValueError: for a scale that is not positive, and for rewards that would not be finite
    """
    if not (0 < scale < math.inf and math.isfinite(shift)):
        raise ValueError(f"--reward-scale {scale:g} must be positive, --reward-shift {shift:g} a finite number.")
    info = _transformed_info(dataset.info, scale, shift)
    if scale == 1.0 and shift == 0.0:
        return dataset
    with np.errstate(over="ignore"):
        rewards = (scale * dataset.rewards + shift).astype(np.float32)
    if not np.isfinite(rewards).all():
        raise ValueError(f"--reward-scale {scale:g} and --reward-shift {shift:g} lead out of float32: take smaller ones.")
    return replace(dataset, info=info, rewards=rewards)


def _transformed_info(info: DatasetInfo, scale: float, shift: float) -> DatasetInfo:
    if scale == 1.0 and shift == 0.0:
        return info
    card = {**info.card, "rewards": f"{scale:g} r + {shift:g} of the original"}
    return replace(info, reference_min_score=None, reference_max_score=None, card=card)


def convert(source: DatasetSource, target: str, origin: Mapping[str, Any], scale: float, shift: float) -> tuple[int, int]:
    """
    Write what a source holds; into a memory-mapped folder block by block, with a progress bar, and on from where an earlier
    conversion was interrupted.

    :param origin: the source and the options with which it was opened
    :param scale: of the rewards
    :param shift: of the rewards
    :return: the numbers of transitions and of episodes
    """
    if not target.endswith(FOLDER_SUFFIX):
        data = transformed(source.load(), scale, shift)
        write_dataset(data, target)
        return len(data), data.n_episodes
    info = _transformed_info(source.info, scale, shift)
    made_of = json.dumps([_facts_of(origin), scale, shift], default=str)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("writing", total=None)
        try:
            n_rows = stream_to_folder(
                source,
                Path(target),
                info,
                made_of,
                change=lambda block: transformed(block, scale, shift),
                advance=lambda n: progress.update(bar, completed=n),
            )
        except KeyboardInterrupt:
            print(f"{target}.partial holds what was written; the same command goes on from there.", file=sys.stderr)
            raise
    ends = np.load(Path(target) / "terminations.npy", mmap_mode="r") | np.load(Path(target) / "truncations.npy", mmap_mode="r")
    return n_rows, int(ends.sum()) + int(not ends[-1])


def _facts_of(origin: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with size and time of every file among them: a file that has changed is another one."""
    facts: dict[str, Any] = {}
    for name, value in origin.items():
        path = Path(str(value))
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
        facts[name] = [str(value), [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]
    return facts
