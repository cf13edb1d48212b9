"""
One runner for evidence: a resumable grid of training runs, one JSON-lines file a run.

    python -m benchmarks.run --algos combo dromo --datasets sb3_offline/Pendulum-medium-replay-v0 --seeds 0-2 --steps 20000

Line 1 of a file is the configuration, then one line an evaluation (deterministic policy, 10 episodes), and at last a
summary: the final model over 50 episodes, beside the mean of the last five evaluations and the best. A file with a summary
is not run again; an interrupted run goes on exactly from its last evaluation, at which it was saved.
``python -m benchmarks.table`` prints the means. ``--fractions 0.1 0.3 1`` trains on these shares of the data: whole
episodes, drawn by the run's seed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import itertools
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_offline.arguments import parse_seeds
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.datasets import OfflineDataset, open_dataset
from sb3_offline.evaluation.demo import DEMO_OPTIONS, EQUATIONS
from sb3_offline.registry import find_algorithm, names
from sb3_offline.training.resume import sibling
from sb3_offline.training.schedules import parse_schedule

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


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0] if models else cpu
    packages = ("sb3-offline", "stable-baselines3", "torch", "gymnasium", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    accelerator = th.cuda.get_device_name() if th.cuda.is_available() else None
    return {
        "cpu": cpu,
        "threads": th.get_num_threads(),
        "gpu": accelerator,
        "python": platform.python_version(),
        "versions": versions,
    }


class CurveCallback(BaseCallback):
    """
    Evaluate the deterministic policy every k steps, and write a line for each.

    :param path: the run's file
    :param checkpoint: where the model is saved at every evaluation, to go on from; the file's evaluations are the curve's
        beginning then
    """

    def __init__(self, path: Path, every: int, n_episodes: int, seed: int, checkpoint: Path | None = None):
        super().__init__()
        self.path, self.checkpoint, self.every, self.n_episodes, self.env_seed = path, checkpoint, every, n_episodes, seed
        self.curve = [] if checkpoint is None else evaluations(path)
        self.before = self.curve[-1]["seconds"] if self.curve else 0.0  # of earlier processes
        self.preparation: float | None = self.curve[-1]["preparation_seconds"] if self.curve else None
        self.start = time.perf_counter()

    def _on_training_start(self) -> None:
        if self.preparation is None:
            self.preparation = self.seconds()  # the dynamics have been fitted by now

    def start_seed(self) -> int:
        """Of the seed and the step alone, so that a resumed run has the same starts."""
        return self.env_seed + self.num_timesteps

    def seconds(self) -> float:
        """Since the run began, its interruptions left out."""
        return self.before + time.perf_counter() - self.start

    def evaluate(self, n_episodes: int) -> dict[str, Any]:
        """Returns of episodes that start as :meth:`start_seed` says, whatever was evaluated before."""
        info = self.model.dataset_info  # type: ignore[attr-defined]
        env = DummyVecEnv([lambda: Monitor(info.make_env())])
        env.seed(self.start_seed())
        returns, lengths = evaluate_policy(self.model, env, n_eval_episodes=n_episodes, return_episode_rewards=True)
        env.close()
        mean = float(np.mean(returns))
        return {
            "step": self.num_timesteps,
            "mean_return": mean,
            "std_return": float(np.std(returns)),
            "mean_length": float(np.mean(lengths)),
            "normalized_score": info.normalized_score(mean),
        }

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            times = {"seconds": round(self.seconds(), 2), "preparation_seconds": round(self.preparation or 0.0, 2)}
            point = self.evaluate(self.n_episodes) | times
            self.curve.append(point)
            append(self.path, point)
            if self.checkpoint is not None:
                self.model.save(self.checkpoint)
        return True


def evaluations(path: Path) -> list[dict[str, Any]]:
    """The evaluations of a run's file; none if it is not there."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [point for point in map(json.loads, lines) if "step" in point]


def demo_options(algorithm: type) -> dict[str, Any]:
    """The demo's options, as far as the algorithm takes them."""
    known = inspect.signature(algorithm).parameters
    options = (EQUATIONS if "penalty_states" in known else {}) | DEMO_OPTIONS
    return {name: value for name, value in options.items() if name in known}


def begin(path: Path, program: str, out: Path, config: dict[str, Any]) -> Path:
    """Start a run's file, whose name is temporary until :func:`finish`, with its configuration, command and machine."""
    partial = partial_of(path)
    partial.unlink(missing_ok=True)
    command = f"python -m benchmarks.{program} " + " ".join(sys.argv[1:]).replace(str(out), out.name)
    append(partial, {"config": {**config, "command": command, "machine": machine()}})
    return partial


def partial_of(path: Path) -> Path:
    """The name of a run's file until it is finished."""
    return path.with_suffix(".partial")


def finish(partial: Path, path: Path, summary: dict[str, Any]) -> None:
    append(partial, {"summary": summary})
    partial.replace(path)


def append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(to_json(record) + "\n")


def to_json(record: dict[str, Any]) -> str:
    return json.dumps(record, default=lambda value: getattr(value, "__name__", str(value)))


def is_finished(path: Path) -> bool:
    return path.exists() and any("summary" in json.loads(line) for line in path.read_text().splitlines())


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    algo: str
    dataset: str
    fraction: float
    seed: int

    @property
    def file_name(self) -> str:
        """Named after the cell; all of the data goes without saying."""
        name = Path(self.dataset).stem if Path(self.dataset).suffix else self.dataset.replace("/", ".")
        share = "" if self.fraction == 1 else f"_{100 * self.fraction:g}percent"
        return f"{self.algo}_{name}{share}_seed{self.seed}.jsonl"


def run_one(run: Run, arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Train once, from the last checkpoint if there is one, and write the file."""
    algorithm = find_algorithm(run.algo)
    options = (demo_options(algorithm) if arguments.demo_options else {}) | dict(arguments.option)
    data = open_dataset(run.dataset).load().sample_episodes(run.fraction, run.seed)
    config = {
        **asdict(run),
        "transitions": len(data),
        "steps": arguments.steps,
        "eval_every": arguments.eval_every,
        "n_episodes": arguments.episodes,
        "options": options,
    }
    partial, checkpoint = partial_of(path), path.with_suffix(".zip")
    model = resumed(algorithm, partial, checkpoint, data, config)
    if model is None:
        partial = begin(path, "run", arguments.out, config)
        model = algorithm("MlpPolicy", dataset=data, seed=run.seed, **options)
    callback = CurveCallback(partial, arguments.eval_every, arguments.episodes, run.seed, checkpoint)
    model.learn(arguments.steps, callback=callback, progress_bar=arguments.progress)
    seconds = callback.seconds()
    final = callback.evaluate(arguments.final_episodes)
    returns = np.array([point["mean_return"] for point in callback.curve])
    summary = {
        "final": final["mean_return"],
        "final_std": final["std_return"],
        "normalized_final": final["normalized_score"],
        "last": returns[-1],
        "best": returns.max(),
        "mean_last_5": returns[-5:].mean(),
        "normalized_mean_last_5": model.dataset_info.normalized_score(float(returns[-5:].mean())),  # type: ignore[union-attr]
        "data_mean_return": float(data.episode_returns().mean()),
        "finite": bool(np.isfinite(returns).all() and all(p.isfinite().all() for p in model.policy.parameters())),
        "seconds": round(seconds, 1),
        "preparation_seconds": round(callback.preparation or 0.0, 1),
    }
    finish(partial, path, summary)
    if not arguments.keep_models:
        for file in (checkpoint, sibling(checkpoint)):
            file.unlink(missing_ok=True)
    return summary


def resumed(
    algorithm: type[OfflineAlgorithm], partial: Path, checkpoint: Path, data: OfflineDataset, config: dict[str, Any]
) -> OfflineAlgorithm | None:
    """The model of an interrupted run of the same configuration; None if there is nothing to go on from."""
    if not (partial.exists() and sibling(checkpoint).exists()):
        return None
    begun, *rest = map(json.loads, partial.read_text().splitlines())
    if {name: begun["config"].get(name) for name in config} != json.loads(to_json(config)):
        return None
    model = algorithm.resume(sibling(checkpoint), dataset=data)
    partial.unlink()  # what was evaluated after the checkpoint is evaluated again
    for record in (begun, *(point for point in rest if point["step"] <= model.num_timesteps)):
        append(partial, record)
    return model


def grid(arguments: argparse.Namespace) -> Iterator[Run]:
    """Every run of the grid."""
    cells = itertools.product(arguments.algos, arguments.datasets, arguments.fractions, arguments.seeds)
    return itertools.starmap(Run, cells)


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
    parser.add_argument("--demo-options", action="store_true", help="start from the options of `sb3-offline demo`")
    parser.add_argument("--tag", default="", help="sub-folder of the results, one a set of options")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    arguments = parser.parse_args(argv)
    folder = arguments.out / arguments.tag if arguments.tag else arguments.out
    for run in grid(arguments):
        path = folder / run.file_name
        if is_finished(path):
            print(f"done already: {path.name}", flush=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        summary = run_one(run, arguments, path)
        print(
            f"{path.name}: final {summary['final']:.1f}, mean of the last five {summary['mean_last_5']:.1f}, "
            f"{summary['seconds']} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
