"""
What a study costs beside its runs: many tiny ones, by a pool of one process, or by Ray with as many as there are cores.

    python -m benchmarks.studies --runs 1000            # by the pool
    python -m benchmarks.studies --runs 1000 --ray      # by Ray on this machine

Each run is an ordinary one: two gradient steps of BC, an evaluation of one episode, and a file. Its own time is taken in
the worker; what passes between the end of a run and the beginning of the next is the scheduling. Memory is the resident set of
the worker, and of the process that runs the study.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.run import RESULTS, machine
from sb3_offline.studies.engine import run_by_ray, run_in_pool, work
from sb3_offline.studies.plan import Cell, read_study

STUDY = """
algorithms: [bc]
datasets: [sb3_offline/Pendulum-medium-v0]
seeds: 0-{last}
steps: 2
eval_every: 2
episodes: 1
final_episodes: 1
options: {{batch_size: 8, policy_kwargs: {{net_arch: [8]}}, device: cpu}}
"""
EVERY = 50  # runs between looks at the memory


def resident_mb() -> float:
    """Of this process; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def timed(cell: Cell, cores: int) -> dict[str, Any]:
    """A run, and when and where it was."""
    began = time.time()
    work(cell, cores)
    return {"began": began, "ended": time.time(), "worker": os.getpid(), "mb": resident_mb()}


def gaps(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds between the end of a run and the beginning of the next in the same worker."""
    ordered = sorted(runs, key=lambda run: (run["worker"], run["began"]))
    pairs = itertools.pairwise(ordered)
    return [after["began"] - before["ended"] for before, after in pairs if before["worker"] == after["worker"]]


def measure(n_runs: int, by_ray: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """
    Run them all in a folder that is removed afterwards.

    :param keep: called with the figures so far, every ``EVERY`` runs and at the end: whoever is cut off keeps those
    """
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "tiny.yaml").write_text(STUDY.format(last=n_runs - 1))
        study = read_study(folder / "tiny.yaml")
        engine = functools.partial(run_by_ray, address="local") if by_ray else functools.partial(run_in_pool, n_workers=1)
        runs, own_mb = [], []
        start = time.time()
        for outcome in engine(study, study.cells, task=timed):
            if outcome.summary is None:
                raise RuntimeError(outcome.error)
            runs.append(outcome.summary)
            if len(runs) % EVERY == 0 or len(runs) == n_runs:
                own_mb.append(resident_mb())
                keep(
                    {"by": "ray" if by_ray else "pool", **figures_of(runs, start), "study_mb": [round(mb, 1) for mb in own_mb]}
                )
    finally:
        shutil.rmtree(folder)


def figures_of(runs: Sequence[dict[str, Any]], start: float) -> dict[str, Any]:
    """
    :param runs: that have ended, in the order in which they did
    :param start: of the study
    """
    between = gaps(runs)
    return {
        "runs": len(runs),
        "workers_used": len({run["worker"] for run in runs}),
        "seconds": max(run["ended"] for run in runs) - start,
        "first_run_after_seconds": min(run["began"] for run in runs) - start,
        "run_seconds_median": statistics.median(run["ended"] - run["began"] for run in runs),
        "between_runs_ms_median": 1e3 * statistics.median(between),
        "between_runs_ms_mean": 1e3 * statistics.fmean(between),
        "worker_mb": [round(run["mb"], 1) for run in runs[EVERY - 1 :: EVERY]],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)

    def keep(figures: dict[str, Any]) -> None:
        path = arguments.out / f"studies_{figures['by']}.json"
        path.write_text(json.dumps({"asked": arguments.runs, **figures, "machine": machine()}, indent=1) + "\n")
        print({name: value for name, value in figures.items() if not isinstance(value, list)}, flush=True)

    measure(arguments.runs, arguments.ray, keep)


if __name__ == "__main__":
    main()
