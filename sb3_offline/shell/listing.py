"""What data there are: packaged, and in the local Minari store. PyTorch is imported only to read data whole."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.markup import escape

from sb3_offline.catalogue import BUILTIN_FOLDER, BUILTIN_TASKS, NAMESPACE, installed_minari
from sb3_offline.shell.consoles import narrow_table, print_whole


@dataclass(frozen=True)
class Listed:
    """One data set; what reading it found out is None if it was not read, ``trouble`` says why it could not be."""

    dataset_id: str
    megabytes: float | None = None
    transitions: int | None = None
    episodes: int | None = None
    mean_return: float | None = None
    score: float | None = None
    trouble: str | None = None


def list_datasets(full: bool = False) -> Iterator[Listed]:
    """
    Every data set that can be used here, packaged ones first.

    :param full: read those whole whose metadata do not tell the return, which also shows what is wrong with any
    """
    yield from map(_packaged, BUILTIN_TASKS)
    for dataset_id, metadata in installed_minari().items():
        told = Listed(dataset_id, *map(metadata.get, ("dataset_size", "total_steps", "total_episodes")))
        yield _read(told) if full else told


def print_datasets(full: bool = False) -> None:
    """
    Print them as a table.

    :param full: read those whole whose metadata do not tell the return, and print what is wrong with those that cannot be read
    """
    table = narrow_table("dataset", "MB", "steps", "episodes", "return", "score", words=("dataset",))
    console = Console()
    with console.status("reading"):
        for row in list_datasets(full):
            sizes = ["-" if value is None else f"{value:,}" for value in (row.transitions, row.episodes)]
            megabytes, mean_return, score = (
                "-" if value is None else f"{value:.1f}" for value in (row.megabytes, row.mean_return, row.score)
            )
            table.add_row(escape(row.dataset_id), megabytes, *sizes, mean_return, score)
            if row.trouble:
                console.print(f"[yellow]{escape(row.trouble)}[/yellow]")
    note = "return: mean of the episodes; score: 0 is the random policy, 100 the task's reference"
    print_whole(table).print(f"[dim]{note}{'' if full else '; --full reads those that do not tell'}[/dim]")


def _packaged(name: str) -> Listed:
    """A packaged data set; its metadata tell the returns."""
    path = BUILTIN_FOLDER / f"{name}.npz"
    with np.load(path) as file:
        card = json.loads(str(file["metadata"]))
        ends = file["terminations"] | file["truncations"]
    ends[-1] = True
    return Listed(
        f"{NAMESPACE}/{name}",
        path.stat().st_size / 1e6,
        len(ends),
        int(ends.sum()),
        card["mean_return"],
        card["mean_normalized_score"],
    )


def _read(told: Listed) -> Listed:
    """What reading it finds out, beside its size."""
    from sb3_offline.datasets import DatasetError, load_dataset

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            summary = load_dataset(told.dataset_id).summary()
    except DatasetError as error:
        return Listed(told.dataset_id, told.megabytes, trouble=" ".join(str(error).split()))
    names = ("transitions", "episodes", "mean_return", "mean_normalized_score")
    return Listed(told.dataset_id, told.megabytes, *(summary[name] for name in names))
