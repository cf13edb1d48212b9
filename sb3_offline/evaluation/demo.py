"""The demo: train DROMO on packaged data, and put its score beside the data's, a clone's and the reference's."""

from __future__ import annotations

import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_offline.arguments import check_count
from sb3_offline.datasets import DatasetInfo
from sb3_offline.dromo import DROMO
from sb3_offline.evaluation.callbacks import OfflineEvalCallback

DEMO_STEPS = 5_000
DEMO_OPTIONS: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}}  # enough for packaged data; the rest is the recipe


class BehaviorClone:
    """pi_beta's mode as a policy that ``evaluate_policy`` can run."""

    def __init__(self, model: DROMO):
        self.model = model

    def predict(self, observation: Any, state: Any = None, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        with th.no_grad():
            scaled = self.model.behavior_policy.mode(th.as_tensor(observation, dtype=th.float32, device=self.model.device))
        return self.model.policy.unscale_action(scaled.cpu().numpy()), state


def run_demo(dataset: str, steps: int | None, eval_freq: int, seed: int, output: Path) -> float | None:
    """
    Train DROMO, print the table of scores, and write model, TensorBoard logs, evaluations and the learning curve.

    :param steps: Gradient steps; ``None`` takes the demo's own number.
    :param eval_freq: Gradient steps between evaluations; there is one at least.
    :param output: Folder for all results; tried for writing before training starts.
    :return: DROMO's normalised score.
    :raises ValueError: for a number of steps that is not positive.
    :raises OSError: if the folder cannot be written.
    """
    steps = DEMO_STEPS if steps is None else steps
    check_count("--steps", steps)
    check_count("--eval-freq", eval_freq)
    check_writable(output)
    console = Console()
    model = DROMO("MlpPolicy", dataset=dataset, tensorboard_log=str(output / "tensorboard"), seed=seed, **DEMO_OPTIONS)
    data = model.load_dataset()
    info = data.info
    console.print(f"DROMO on {info.dataset_id}: {len(data):,} logged transitions, no simulator used for training.")

    start = time.perf_counter()
    evaluation = OfflineEvalCallback(
        Monitor(info.make_env()), eval_freq=min(eval_freq, steps), n_eval_episodes=10, log_path=str(output), verbose=0
    )
    model.learn(steps, callback=evaluation, progress_bar=True)
    minutes = (time.perf_counter() - start) / 60
    model.save(output / "dromo")

    learned = mean_return(model, info, seed)
    scores = {
        "uniform random policy": info.reference_min_score,
        "the data's mean return": float(data.episode_returns().mean()),
        "behaviour clone (pi_beta's mode)": mean_return(BehaviorClone(model), info, seed),
        f"DROMO, {steps:,} steps": learned,
        "reference (SAC trained online)": info.reference_max_score,
    }
    table = Table(title=f"{info.dataset_id}: mean return over 20 episodes")
    table.add_column("policy")
    table.add_column("return", justify="right")
    table.add_column("normalised score", justify="right")
    for name, value in scores.items():
        if value is not None:
            score = info.normalized_score(value)
            table.add_row(name, f"{value:.1f}", "-" if score is None else f"{score:.1f}")
    console.print(table)
    write_curve(output, evaluation, info, scores["the data's mean return"])
    console.print(
        f"Took {minutes:.1f} minutes. Written to {output}: dromo.zip (DROMO.load), learning_curve.png, learning_curve.csv and "
        f"TensorBoard logs (tensorboard --logdir {output / 'tensorboard'})."
    )
    return info.normalized_score(learned)


def mean_return(policy: Any, info: DatasetInfo, seed: int, n_episodes: int = 20) -> float:
    """Mean return of the deterministic policy in the dataset's own task, from a fixed seed."""
    env = Monitor(info.make_env())
    env.reset(seed=seed)
    returns, _ = evaluate_policy(policy, env, n_eval_episodes=n_episodes, deterministic=True)
    return float(returns)  # type: ignore[arg-type]


def check_writable(folder: Path) -> None:
    """
    Create the folder, and try to write in it.

    :raises OSError: that names the folder, before any time was spent on training.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {str(folder)!r} ({error.strerror}); give another folder with --output") from error


def write_curve(output: Path, evaluation: EvalCallback, info: DatasetInfo, data_return: float | None) -> None:
    """Turn this run's evaluations into a CSV, and a PNG where matplotlib is installed."""
    steps, returns = evaluation.evaluations_timesteps, np.mean(evaluation.evaluations_results, axis=1).tolist()
    with (output / "learning_curve.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "mean_return"), *zip(steps, returns, strict=True)])
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture: matplotlib is not installed (pip install "sb3-offline[plots]").')
        return
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, returns, marker="o", label="DROMO")
    for value, label, style in (
        (info.reference_max_score, "reference", "--"),
        (data_return, "the data's mean", "-."),
        (info.reference_min_score, "random", ":"),
    ):
        if value is not None:
            axes.axhline(value, linestyle=style, color="grey", label=label)
    axes.set(xlabel="gradient steps", ylabel="mean return, 10 episodes", title=info.dataset_id)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)  # a curve may end in any corner
    figure.savefig(output / "learning_curve.png", dpi=120)
