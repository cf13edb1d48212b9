"""
d3rlpy's training runs beside those of ``benchmarks.run``: the same data, evaluations and files.

    python -m benchmarks.peer_runs --algos TD3PlusBC IQL CQL --datasets offline/hopper/medium-replay-v0 --seeds 0-1 \
        --steps 20000 --tag d3rlpy

Its own defaults, one thread, in an environment of its own, which is made where there is none. Algorithms are named as
d3rlpy's configurations are. Runs begin anew where they were cut.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import D3RLPY, D3RLPY_FOLDER, environment_python, install_d3rlpy
from benchmarks.run import RESULTS, Run, append, begin, finish, is_finished, parse_seeds
from sb3_offline import load_dataset
from sb3_offline.datasets import OfflineDataset


def write_columns(dataset: OfflineDataset, path: Path) -> None:
    """The data as d3rlpy's ``MDPDataset`` takes them, of which each episode ends in a termination or a timeout."""
    timeouts = np.zeros(len(dataset), dtype=bool)
    timeouts[dataset.episode_ends] = True
    np.savez(
        path,
        observations=np.asarray(dataset.observations, dtype=np.float32),
        actions=np.asarray(dataset.actions, dtype=np.float32),
        rewards=np.asarray(dataset.rewards, dtype=np.float32),
        terminals=np.asarray(dataset.terminations, dtype=np.float32),
        timeouts=(timeouts & ~dataset.terminations).astype(np.float32),
    )


def points(python: Path, data: Path, env_id: str, run: Run, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the child says, a record an evaluation."""
    numbers = (run.seed, arguments.steps, arguments.eval_every, arguments.episodes, arguments.final_episodes)
    child = [str(python), str(Path(__file__).with_name("d3rlpy_run.py")), str(data), env_id, run.algo, *map(str, numbers)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": ""}
    with subprocess.Popen(child, stdout=subprocess.PIPE, text=True, env=env) as process:
        yield from map(json.loads, process.stdout or ())
    if process.returncode:
        raise SystemExit(f"d3rlpy's run ended with {process.returncode}; what it wrote stands above.")


def one_run(python: Path, run: Run, dataset: OfflineDataset, path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once and write the file; its summary."""
    info = dataset.info
    if info.env_spec is None:
        raise SystemExit(f"{run.dataset} names no task, and without one nothing can be evaluated.")
    config = {**vars(run), "steps": arguments.steps, "eval_every": arguments.eval_every, "library": D3RLPY}
    partial, curve = begin(path, "peer_runs", arguments.out, config), []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        write_columns(dataset, data)
        for point in points(python, data, info.env_spec.id, run, arguments):
            point["normalized_score"] = info.normalized_score(point["mean_return"])
            curve.append(point)
            if "step" in point:
                append(partial, point)
    *_, final = curve
    returns = np.array([point["mean_return"] for point in curve if "step" in point])
    data_return = float(dataset.episode_returns().mean())
    summary = {
        "final": final["mean_return"],
        "final_std": final["std_return"],
        "normalized_final": final["normalized_score"],
        "best": returns.max(),
        "mean_last_5": returns[-5:].mean(),
        "normalized_mean_last_5": info.normalized_score(float(returns[-5:].mean())),
        "data_mean_return": data_return,
        "seconds": final["seconds"],
        "preparation_seconds": curve[0]["preparation_seconds"],
    }
    finish(partial, path, summary)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", nargs="+", default=["TD3PlusBC", "IQL", "CQL"])
    parser.add_argument("--datasets", nargs="+", required=True, help="ids or files")
    parser.add_argument("--seeds", type=parse_seeds, default=[0], help="0-2 or 0,3,5")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--eval-every", type=int, default=2500)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--final-episodes", type=int, default=50)
    parser.add_argument("--python", type=Path, help="of an environment that has d3rlpy")
    parser.add_argument("--tag", default="d3rlpy", help="sub-folder of the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    python = arguments.python or environment_python(D3RLPY_FOLDER)
    if not python.exists():
        python = install_d3rlpy(D3RLPY_FOLDER)
    for name, algo, seed in itertools.product(arguments.datasets, arguments.algos, arguments.seeds):
        run = Run(algo, name, 1.0, seed)
        path = arguments.out / arguments.tag / run.file_name
        if not is_finished(path):
            summary = one_run(python, run, load_dataset(name), path, arguments)
            print(f"{path.name}: final {summary['final']:.1f}, {summary['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
