"""What data there are: packaged, and in the local Minari store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_offline import datasets
from sb3_offline.datasets import DatasetError, load_dataset
from sb3_offline.datasets.envs import BUILTIN_TASKS, NAMESPACE
from sb3_offline.shell.consoles import print_whole
from sb3_offline.zoo.envs import installed_minari


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


def list_datasets() -> Iterator[Listed]:
    """Every data set that can be used here, read one after the other: packaged ones first."""
    folder = Path(datasets.__file__).parent / "builtin"
    for name in BUILTIN_TASKS:
        yield _read(f"{NAMESPACE}/{name}", (folder / f"{name}.npz").stat().st_size / 1e6)
    for dataset_id, metadata in installed_minari().items():
        yield _read(dataset_id, metadata.get("dataset_size"))


def print_datasets() -> None:
    """Print them as a table, and what is wrong with those that cannot be read."""
    table = Table()
    table.add_column("dataset", no_wrap=True)
    for column in ("MB", "steps", "episodes", "return", "score"):
        table.add_column(column, justify="right", no_wrap=True)
    console = Console()
    with console.status("reading"):
        for row in list_datasets():
            sizes = ["-" if value is None else f"{value:,}" for value in (row.transitions, row.episodes)]
            megabytes, mean_return, score = (
                "-" if value is None else f"{value:.1f}" for value in (row.megabytes, row.mean_return, row.score)
            )
            table.add_row(escape(row.dataset_id), megabytes, *sizes, mean_return, score)
            if row.trouble:
                console.print(f"[yellow]{escape(row.trouble)}[/yellow]")
    print_whole(table).print(
        "[dim]return: mean of the episodes; score: 0 is the random policy, 100 the task's reference[/dim]"
    )


def _read(dataset_id: str, megabytes: float | None) -> Listed:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            summary = load_dataset(dataset_id).summary()
    except DatasetError as error:
        return Listed(dataset_id, megabytes, trouble=" ".join(str(error).split()))
    return Listed(
        dataset_id,
        megabytes,
        summary["transitions"],
        summary["episodes"],
        summary["mean_return"],
        summary["mean_normalized_score"],
    )
