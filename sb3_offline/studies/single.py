"""One run of a study: train, evaluate now and then, save at each evaluation, and go on exactly from there if it was cut."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.datasets import OfflineDataset, open_dataset
from sb3_offline.registry import find_algorithm
from sb3_offline.studies.records import (
    append,
    begin,
    evaluations,
    finish,
    is_finished,
    partial_of,
    read_lines,
    rewrite,
    to_json,
)
from sb3_offline.training.resume import sibling


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


@dataclass(frozen=True)
class Protocol:
    """
    How long a run is and how it is judged.

    :param steps: gradient steps
    :param eval_every: gradient steps between evaluations
    :param episodes: of an evaluation
    :param final_episodes: of the final model's score
    :param options: of the algorithm
    :param keep_models: leave the last checkpoint beside the run's file
    :param command: what began it, for the record
    """

    steps: int = 100_000
    eval_every: int = 1000
    episodes: int = 10
    final_episodes: int = 50
    options: dict[str, Any] = field(default_factory=dict)
    keep_models: bool = False
    command: str = ""
    progress: bool = False


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


@dataclass(frozen=True)
class Begun:
    """
    A run that is ready for its steps, its first ones or those after its last checkpoint.

    :param partial: its file until it is finished
    :param path: its file
    """

    model: OfflineAlgorithm
    callback: CurveCallback
    data: OfflineDataset
    protocol: Protocol
    partial: Path
    path: Path


def run_one(run: Run, protocol: Protocol, path: Path) -> dict[str, Any]:
    """
    Train once, from the last checkpoint if there is one, and write the file.

    :param path: where a finished run's file lies
    :return: the summary; of a run that was finished before, the one that it has
    """
    if is_finished(path):
        summary: dict[str, Any] = read_lines(path)[-1]["summary"]
        return summary
    begun = begin_run(run, protocol, path, open_dataset(run.dataset).load().sample_episodes(run.fraction, run.seed))
    begun.model.learn(protocol.steps, callback=begun.callback, progress_bar=protocol.progress)
    return end_run(begun)


def begin_run(run: Run, protocol: Protocol, path: Path, data: OfflineDataset) -> Begun:
    """
    :param path: where the finished run's file will lie
    :param data: what it learns from
    """
    algorithm = find_algorithm(run.algo)
    config = {
        **asdict(run),
        "transitions": len(data),
        "steps": protocol.steps,
        "eval_every": protocol.eval_every,
        "n_episodes": protocol.episodes,
        "options": protocol.options,
    }
    partial, checkpoint = partial_of(path), path.with_suffix(".zip")
    model = _resumed(algorithm, partial, checkpoint, data, config)
    if model is None:
        partial = begin(path, protocol.command, config)
        model = algorithm("MlpPolicy", dataset=data, seed=run.seed, **protocol.options)
    callback = CurveCallback(partial, protocol.eval_every, protocol.episodes, run.seed, checkpoint)
    return Begun(model, callback, data, protocol, partial, path)


def end_run(begun: Begun) -> dict[str, Any]:
    """Judge the final model, and give the file its last line, its summary, and its name."""
    summary = _summary(begun.model, begun.data, begun.callback, begun.protocol.final_episodes)
    finish(begun.partial, begun.path, summary)
    if not begun.protocol.keep_models:
        checkpoint = begun.path.with_suffix(".zip")
        for file in (checkpoint, sibling(checkpoint)):
            file.unlink(missing_ok=True)
    return summary


def _summary(model: OfflineAlgorithm, data: OfflineDataset, callback: CurveCallback, n_episodes: int) -> dict[str, Any]:
    seconds = callback.seconds()
    final = callback.evaluate(n_episodes)
    returns = np.array([point["mean_return"] for point in callback.curve] or [final["mean_return"]])
    score = data.info.normalized_score
    data_return = float(data.episode_returns().mean())
    return {
        "final": final["mean_return"],
        "final_std": final["std_return"],
        "normalized_final": final["normalized_score"],
        "last": returns[-1],
        "best": returns.max(),
        "mean_last_5": returns[-5:].mean(),
        "normalized_mean_last_5": score(float(returns[-5:].mean())),
        "data_mean_return": data_return,
        "normalized_data_mean_return": score(data_return),
        "finite": bool(np.isfinite(returns).all() and all(p.isfinite().all() for p in model.policy.parameters())),
        "seconds": round(seconds, 1),
        "preparation_seconds": round(callback.preparation or 0.0, 1),
    }


def _resumed(
    algorithm: type[OfflineAlgorithm], partial: Path, checkpoint: Path, data: OfflineDataset, config: dict[str, Any]
) -> OfflineAlgorithm | None:
    """The model of an interrupted run of the same configuration; None if there is nothing to go on from."""
    lines = read_lines(partial)
    if not (lines and sibling(checkpoint).exists()):
        return None
    begun, *rest = lines
    if {name: begun["config"].get(name) for name in config} != json.loads(to_json(config)):
        return None
    model = algorithm.resume(sibling(checkpoint), dataset=data)
    # what was evaluated after the checkpoint is evaluated again
    rewrite(partial, [begun, *(point for point in rest if "step" in point and point["step"] <= model.num_timesteps)])
    return model
