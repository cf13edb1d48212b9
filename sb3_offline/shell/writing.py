"""Write a data set as npz, as D4RL's flat HDF5, as a folder of .npy files, or into the Minari store."""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sb3_offline.datasets import DatasetInfo, DatasetSource, OfflineDataset, save_mapped
from sb3_offline.datasets.checks import ALIASES
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES
from sb3_offline.datasets.parts import flat_rows
from sb3_offline.datasets.sources.converting import stream_to_folder
from sb3_offline.datasets.sources.folder import FOLDER_SUFFIX, is_folder
from sb3_offline.files.atomic import draft_of, named_target, write_atomically

_FOREIGN = {meant: alias for alias, meant in ALIASES.items()}  # terminations are D4RL's terminals
_MINARI_ID = re.compile(r"([-\w]{2,}/)*[-\w]{2,}-v\d+")  # Minari writes other ids too, and then cannot read its store


def check_target(target: str, force: bool = False) -> None:
    """
    Whether data can be written there, before any time is spent on making them.

    :param target: a .npz or .hdf5 file, a .mmap folder, or a Minari id
    :param force: replace what is there
    :raises ValueError: if the target is neither, or exists
    :raises OSError: if it cannot be written
    """
    path = Path(target)
    if path.suffix in (".npz", ".hdf5", ".h5", FOLDER_SUFFIX):
        with named_target(path):
            if path.exists() and not force:
                raise ValueError(f"{target} exists: take another name, or --force to replace it.")
            if path.is_dir() and not (path.suffix == FOLDER_SUFFIX and is_folder(path)):
                raise ValueError(f"{target} is a folder of something else, which --force does not replace: take another name.")
            there = next(folder for folder in path.absolute().parents if folder.exists())
            tempfile.TemporaryFile(dir=there).close()
        return
    minari = _import_minari(target)
    if not _MINARI_ID.fullmatch(target):
        raise ValueError(
            f"{target!r} is no target: a file ends in .npz or .hdf5, a memory-mapped folder in .mmap; a Minari id reads "
            "namespace/name-v0, its parts two letters or more."
        )
    if target in minari.list_local_datasets() and not force:
        raise ValueError(f"{target} is in the local Minari store already: take another version, or --force to replace it.")


def write_dataset(dataset: OfflineDataset, target: str, card: Mapping[str, Any] | None = None) -> None:
    """
    Write all rows, the task's id, the reference scores and the card. What is there is replaced.

    :param target: a .npz or .hdf5 file, a .mmap folder, or a Minari id
    :param card: facts about how the data were made, beside those that they bring
    """
    info = replace(dataset.info, card={**dataset.info.card, **(card or {})})
    if target.endswith(".npz"):
        arrays = {name: getattr(dataset, name) for name in ARRAY_NAMES}
        metadata = json.dumps(info.metadata(), default=str)
        write_atomically(target, lambda file: np.savez_compressed(file, metadata=metadata, **arrays))
    elif target.endswith((".hdf5", ".h5")):
        with draft_of(target) as draft, h5py.File(draft, "w") as file:
            for name in ARRAY_NAMES:
                file.create_dataset(_FOREIGN.get(name, name), data=getattr(dataset, name), compression="gzip")
            for key, value in info.metadata().items():
                file[f"metadata/{key}"] = value if isinstance(value, (int, float, str)) else json.dumps(value, default=str)
    elif target.endswith(FOLDER_SUFFIX):
        with draft_of(target) as draft:
            save_mapped(replace(dataset, info=info), draft)
    else:
        _write_minari(dataset, target, info.card)


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


def _write_minari(dataset: OfflineDataset, target: str, facts: Mapping[str, Any]) -> None:
    minari = _import_minari(target)
    if target in minari.list_local_datasets():
        minari.delete_dataset(target)
    info = dataset.info
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of facts that are not known
        minari.create_dataset_from_buffers(
            target,
            _episodes(dataset),
            env=info.env_spec,
            eval_env=info.env_spec,
            observation_space=info.observation_space,
            action_space=info.action_space,
            algorithm_name=str(facts.get("algorithm", facts.get("algorithm_name", "unknown"))),
            author=str(facts.get("author", "unknown")),
            author_email=str(facts.get("author_email", "unknown")),
            code_permalink=str(facts.get("code_permalink", "unknown")),
            ref_min_score=info.reference_min_score,
            ref_max_score=info.reference_max_score,
            description=str(facts.get("description", f"written by sb3-offline from {info.dataset_id}")),
        )


def _episodes(dataset: OfflineDataset) -> list[Any]:
    """
    Minari's episodes, of T + 1 observations. Where the next observation of a row is not the observation of the following
    one (a row in between was dropped), Minari's format needs a cut.
    """
    from minari.data_collector import EpisodeBuffer

    ends = dataset.terminations | dataset.truncations
    ends[-1] = True
    follows = np.all(flat_rows(dataset.next_observations[:-1]) == flat_rows(dataset.observations[1:]), axis=1)
    ends[:-1] |= ~follows
    episodes: list[Any] = []
    start = 0
    for end in (np.flatnonzero(ends) + 1).tolist():
        rows = slice(start, end)
        observations: Any = np.concatenate([dataset.observations[rows], dataset.next_observations[end - 1 : end]])
        if observations.dtype.names is not None:
            observations = {key: observations[key] for key in observations.dtype.names}
        truncations = dataset.truncations[rows].copy()
        truncations[-1] = not dataset.terminations[end - 1]
        episodes.append(
            EpisodeBuffer(
                id=len(episodes),
                observations=observations,
                actions=dataset.actions[rows],
                rewards=dataset.rewards[rows],
                terminations=dataset.terminations[rows],
                truncations=truncations,
                infos={},
            )
        )
        start = end
    return episodes


def _import_minari(target: str) -> Any:
    try:
        import minari
    except ImportError as error:
        raise ImportError(
            f'{target!r} is no .npz or .hdf5 file, and writing to Minari needs Minari: pip install "sb3-offline[minari]".'
        ) from error
    return minari
