"""
One runner for evidence: a resumable grid of training runs, one JSON-lines file a run.

    python -m benchmarks.run --algos combo dromo --datasets sb3_offline/Pendulum-medium-replay-v0 --seeds 0-2 --steps 20000

Line 1 of a file is the configuration, then one line an evaluation (deterministic policy, 10 episodes), and at last a
summary: the final model over 50 episodes, beside the mean of the last five evaluations and the best. A file with a summary
is not run again; an interrupted run goes on exactly from its last evaluation, at which it was saved.
``python -m benchmarks.table`` prints the means. ``--fractions 0.1 0.3 1`` trains on these shares of the data: whole
episodes, drawn by the run's seed. ``--together`` trains a cell's seeds in one process, their networks stacked; the seconds in
each of their files are then those of all, as the command in it says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch as th

from benchmarks.equations import demo_options
from benchmarks.study.together import grouped, run_group
from sb3_offline.arguments import parse_seeds
from sb3_offline.registry import find_algorithm, names
from sb3_offline.studies import records
from sb3_offline.studies.plan import Cell
from sb3_offline.studies.records import append, finish, is_finished, machine, partial_of, read_lines, to_json
from sb3_offline.studies.single import CurveCallback, Protocol, Run, run_one
from sb3_offline.training.schedules import parse_schedule

__all__ = [
    "RESULTS",
    "CurveCallback",
    "Run",
    "append",
    "begin",
    "finish",
    "is_finished",
    "machine",
    "parse_option",
    "parse_seeds",
    "parse_text",
    "partial_of",
    "to_json",
]

RESULTS = Path(__file__).parent / "results"


def parse_option(text: str) -> tuple[str, Any]:
    """``name=value``, the value as JSON where it is JSON."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, parse_text(name, value)


def parse_text(name: str, value: Any) -> Any:
    """A rate's schedule as YAML files write it, such as ``held_1e-4``; other values as they are."""
    return (parse_schedule(value) or value) if name.endswith("learning_rate") and isinstance(value, str) else value


def command(program: str, out: Path) -> str:
    """This program as it was called, without the path of the results."""
    return f"python -m benchmarks.{program} " + " ".join(sys.argv[1:]).replace(str(out), out.name)


def begin(path: Path, program: str, out: Path, config: dict[str, Any]) -> Path:
    """Start a run's file, whose name is temporary until :func:`finish`, with its configuration, command and machine."""
    return records.begin(path, command(program, out), config)


def grid(arguments: argparse.Namespace) -> Iterator[Run]:
    """Every run of the grid."""
    cells = itertools.product(arguments.algos, arguments.datasets, arguments.fractions, arguments.seeds)
    return itertools.starmap(Run, cells)


def cell_of(run: Run, arguments: argparse.Namespace) -> Cell:
    """A run with how it is done and where its file lies."""
    options = (demo_options(find_algorithm(run.algo)) if arguments.demo_options else {}) | dict(arguments.option)
    protocol = Protocol(
        steps=arguments.steps,
        eval_every=arguments.eval_every,
        episodes=arguments.episodes,
        final_episodes=arguments.final_episodes,
        options=options,
        keep_models=arguments.keep_models,
        command=command("run", arguments.out),
        progress=arguments.progress,
    )
    return Cell(run, protocol, arguments.out / arguments.tag / run.file_name)


def report(path: Path, summary: dict[str, Any]) -> None:
    """A line about a finished run."""
    scores = f"final {summary['final']:.1f}, mean of the last five {summary['mean_last_5']:.1f}"
    print(f"{path.name}: {scores}, {summary['seconds']} s", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", nargs="+", required=True, choices=names())
    parser.add_argument("--datasets", nargs="+", required=True, help="ids or files")
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0], help="shares of the data, in (0, 1]")
    parser.add_argument("--seeds", type=parse_seeds, default=[0], help="0-2 or 0,3,5")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--eval-every", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--final-episodes", type=int, default=50, help="of the final model's score")
    parser.add_argument("--keep-models", action="store_true", help="leave the last checkpoint beside the run's file")
    parser.add_argument("--option", type=parse_option, action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--demo-options", action="store_true", help="start from Eq 8 and Eq 13 with small networks")
    parser.add_argument("--together", action="store_true", help="a cell's seeds in one process")
    parser.add_argument("--tag", default="", help="sub-folder of the results, one a set of options")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    arguments = parser.parse_args(argv)
    cells = [cell_of(run, arguments) for run in grid(arguments)]
    for cell in cells:
        if is_finished(cell.path):
            print(f"done already: {cell.path.name}", flush=True)
    left = [cell for cell in cells if not is_finished(cell.path)]
    if not arguments.together:
        for cell in left:
            report(cell.path, run_one(cell.run, cell.protocol, cell.path))
        return
    for group in grouped(left, at_once=max(arguments.seeds) + 1):
        run_group(group[0], th.get_num_threads(), {group[0].path: group})
        for cell in group:
            report(cell.path, read_lines(cell.path)[-1]["summary"])


if __name__ == "__main__":
    main()
