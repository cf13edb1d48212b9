"""Commands that run studies, and report them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A YAML file: algorithms, datasets, seeds, steps, ...", show_default=False)],
    folder: Annotated[Path | None, typer.Option(help="Where the runs' files go; beside the YAML file if not given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once, without Ray; as many as cores allow.")] = None,
    address: Annotated[
        str | None, typer.Option(help='Run by Ray: "local" on this machine, "auto" or an address on a cluster.')
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run, and about how long.")] = False,
) -> None:
    """Run algorithms x data x seeds x options; what is finished stays, and what was killed goes on exactly."""
    import os

    from sb3_offline.shell.study import print_plan, run_study
    from sb3_offline.studies.plan import read_study

    plan = read_study(file, folder)
    n_workers = workers or max((os.cpu_count() or 1) // plan.cores, 1)
    if dry_run:
        print_plan(plan, n_workers)
        return
    own = (context.parent.params.get("own") if context.parent is not None else None) or []
    if run_study(plan, n_workers, address, own):
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where to write; the study's folder if not given.")] = None,
) -> None:
    """What a study found: a page, Markdown, CSV and pictures, with intervals over seeds and data."""
    from rich.console import Console

    from sb3_offline.studies.report import sentences, write_report
    from sb3_offline.studies.results import read_results

    results = read_results(folder)
    files = write_report(results, out or folder)
    for sentence in sentences(results):
        Console().print(sentence, markup=False, highlight=False, soft_wrap=True)
    Console().print(f"Written to {files[0]}", markup=False, soft_wrap=True)
