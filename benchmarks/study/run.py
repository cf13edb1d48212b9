"""
Run a part of the study that PLAN.md describes, seeds in groups: all algorithms finish a group before the next begins.

    python -m benchmarks.study.run small --workers 2            # or locomotion, size; goes on where it was stopped
    python -m benchmarks.study.run small --only combo std_0.1 std_1     # these algorithms or sets of options alone
    python -m benchmarks.study.run small --dry-run

The part "locomotion" is run in a folder that holds halfcheetah_medium-replay-v0.hdf5; the others in the repository's.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.run import RESULTS
from benchmarks.study.together import grouped, run_group
from sb3_offline.shell.study import print_plan
from sb3_offline.studies.engine import run_in_pool
from sb3_offline.studies.plan import Cell, Study, read_study
from sb3_offline.studies.records import is_finished

FOLDER = RESULTS / "study"
GRID = Path(__file__).parent / "parts"
PARTS = ("locomotion", "small", "size")
SEEDS_AT_ONCE = {"small": 5, "size": 5, "locomotion": 1}  # of one process


def read_part(name: str, folder: Path = FOLDER, grid: Path = GRID) -> Study:
    """The files of a part as one study, its runs by their seeds."""
    files = sorted(grid.glob(f"{name}*.yaml"))
    studies = [read_study(file, folder / name) for file in files]
    cells = sorted((cell for study in studies for cell in study.cells), key=lambda cell: cell.run.seed)
    return replace(studies[0], name=name, cells=tuple(cells))


def is_asked(cell: Cell, only: Sequence[str]) -> bool:
    """Whether a run is of one of these algorithms or sets of options; no names ask for all."""
    return not only or cell.path.parent.name in only or cell.run.algo in only


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="algorithms, or sets of options")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--grid", type=Path, default=GRID, help="folder of the parts' files, if not the study's")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args(argv)
    study = read_part(arguments.part, arguments.out, arguments.grid)
    study = replace(study, cells=tuple(cell for cell in study.cells if is_asked(cell, arguments.only)))
    if arguments.dry_run:
        print_plan(study, arguments.workers)
        return
    cells = [cell for cell in study.cells if not is_finished(cell.path)]
    groups = {group[0].path: group for group in grouped(cells, SEEDS_AT_ONCE[study.name])}
    task = functools.partial(run_group, groups=groups)
    for n_done, outcome in enumerate(run_in_pool(study, [group[0] for group in groups.values()], arguments.workers, task), 1):
        group = groups[outcome.cell.path]
        name = f"{outcome.cell.path.relative_to(study.folder)} and {len(group) - 1} seeds more"
        score = f"last one's final {outcome.summary['final']:.1f}" if outcome.summary else f"FAILED: {outcome.error}"
        print(f"{n_done}/{len(groups)} {name}: {score}", flush=True)


if __name__ == "__main__":
    main()
