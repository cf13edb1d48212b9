"""
Run a part of the study that PLAN.md describes: every algorithm finishes a seed before the next seed begins.

    python -m benchmarks.study.run small --workers 2            # or locomotion, size; goes on where it was stopped
    python -m benchmarks.study.run small --dry-run
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.run import RESULTS
from benchmarks.study import trap
from sb3_offline.shell.study import print_plan, work_with
from sb3_offline.studies.engine import run_in_pool
from sb3_offline.studies.plan import Study, read_study
from sb3_offline.studies.records import is_finished

FOLDER = RESULTS / "study"
PARTS = ("locomotion", "small", "size")


def read_part(name: str, folder: Path = FOLDER) -> Study:
    """The files of a part as one study, its runs by their seeds."""
    files = sorted((Path(__file__).parent / "parts").glob(f"{name}*.yaml"))
    studies = [read_study(file, folder / name) for file in files]
    cells = sorted((cell for study in studies for cell in study.cells), key=lambda cell: cell.run.seed)
    return replace(studies[0], name=name, cells=tuple(cells))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args(argv)
    study = read_part(arguments.part, arguments.out)
    if arguments.dry_run:
        print_plan(study, arguments.workers)
        return
    cells = [cell for cell in study.cells if not is_finished(cell.path)]
    task = functools.partial(work_with, own=(trap.__name__,))
    for n_done, outcome in enumerate(run_in_pool(study, cells, arguments.workers, task), start=1):
        name = outcome.cell.path.relative_to(study.folder)
        score = f"final {outcome.summary['final']:.1f}" if outcome.summary is not None else f"FAILED: {outcome.error}"
        print(f"{n_done}/{len(cells)} {name}: {score}", flush=True)


if __name__ == "__main__":
    main()
