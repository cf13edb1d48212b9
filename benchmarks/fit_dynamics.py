"""
How good a dynamics model is after how much time: each epoch's held-out error, and at chosen epochs what the snapshots that
would be kept are worth on whole episodes that no fit saw.

    python -m benchmarks.fit_dynamics --dataset offline/hopper/medium-replay-v0 --seeds 0-2 --tag after

One JSON-lines file a seed. ``cpu`` is the processor's time of the fit alone, for machines that are busy with other things.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks.run import RESULTS, machine, parse_option, parse_seeds
from sb3_offline import load_dataset
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import DynamicsConfig, EnsembleDynamics, EpochStats, measures
from sb3_offline.dynamics.world import Columns, build_dynamics, fit_world, split_episodes
from sb3_offline.training.rng import Streams

TEST_FRACTION = 0.1
HORIZONS = (1, 5, 10, 25)
MEASURED = (1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # epochs, then every 25


@th.no_grad()
def quality(model: EnsembleDynamics, dataset: OfflineDataset) -> dict[str, Any]:
    """
    On test episodes, in units of the targets' standard deviation: mean squared one-step ``error`` of the elites' mean, and of
    a single member; ``nll`` a dimension of the elites' mixture, and of a single elite; root mean square open-loop errors.
    """
    _, test = split_episodes(dataset, round(1 / TEST_FRACTION))
    columns = Columns.of(dataset, test, model.device, model.end_reward)
    mean, logvar = (part[model.elites] for part in model(columns.observations, columns.actions))
    residual = mean - columns.targets
    scale = columns.targets.std(dim=0)
    log_likelihood = -0.5 * (residual.square() * (-logvar).exp() + logvar + np.log(2 * np.pi))  # (elites, rows, dimensions)
    mixture = th.logsumexp(log_likelihood.double().sum(dim=2), dim=0) - np.log(len(mean))
    curves = [measures.open_loop(model, dataset, test, max(HORIZONS), np.random.default_rng(seed)) for seed in range(4)]
    open_loop = np.mean([curve.error for curve in curves], axis=0)
    return {
        "error": float((residual.mean(dim=0) / scale).square().mean()),
        "member_error": float((residual / scale).square().mean()),
        "nll": float(-mixture.mean() / len(scale)),
        "member_nll": float(-log_likelihood.mean()),
        "open_loop": {str(k): float(open_loop[k - 1]) for k in HORIZONS if k <= len(open_loop)},
        "by_dimension": (residual.mean(dim=0) / scale).square().mean(dim=0).tolist(),
    }


class Watch:
    """Notes each epoch, and keeps each member's best snapshot as the fit does."""

    def __init__(self, model: EnsembleDynamics, dataset: OfflineDataset, path: Path) -> None:
        self.model, self.dataset, self.path = model, dataset, path
        self.best = [parameter.detach().clone() for parameter in model.member_parameters()]
        self.cpu, self.last = 0.0, time.process_time()

    def __call__(self, stats: EpochStats) -> None:
        self.cpu += time.process_time() - self.last
        for kept, parameter in zip(self.best, self.model.member_parameters(), strict=True):
            improved = stats.holdout_error == stats.best_holdout_error
            kept[improved] = parameter.detach()[improved]
        line: dict[str, Any] = {"epoch": stats.epoch, "cpu": self.cpu, "train_loss": stats.train_loss}
        line |= {"holdout": stats.holdout_error.tolist(), "best": stats.best_holdout_error.tolist()}
        if stats.epoch in MEASURED or stats.epoch % 25 == 0:
            line |= self.measure(stats.best_holdout_error)
        self.write(line)
        self.last = time.process_time()

    @th.no_grad()
    def measure(self, error: th.Tensor) -> dict[str, Any]:
        """Of the best snapshots; the model's own weights stay."""
        parameters = self.model.member_parameters()
        present = [parameter.detach().clone() for parameter in parameters]
        for parameter, kept in zip(parameters, self.best, strict=True):
            parameter.copy_(kept)
        self.model.elites.copy_(error.argsort(stable=True)[: len(self.model.elites)])
        figures = quality(self.model, self.dataset)
        for parameter, value in zip(parameters, present, strict=True):
            parameter.copy_(value)
        return figures

    def write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="offline/hopper/medium-replay-v0")
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2])
    parser.add_argument("--option", type=parse_option, action="append", default=[], help="of dynamics_kwargs: name=value")
    parser.add_argument("--tag", required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "fit_dynamics")
    arguments = parser.parse_args(argv)
    th.set_num_threads(1)
    dataset = load_dataset(arguments.dataset)
    config = DynamicsConfig.from_kwargs({"test_fraction": TEST_FRACTION, "termination": "never", **dict(arguments.option)})
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        path = arguments.out / f"{Path(arguments.dataset.replace('/offline', '')).stem}_{arguments.tag}_seed{seed}.jsonl"
        path.unlink(missing_ok=True)
        device = th.device("cpu")
        columns = Columns.of(dataset, np.arange(1), device)
        streams = Streams(seed, device)
        sizes = columns.observations.shape[1], columns.actions.shape[1]
        model = build_dynamics(*sizes, config, streams, device)
        watch = Watch(model, dataset, path)
        watch.write({"config": {**dict(arguments.option), "seed": seed}, "argv": sys.argv[1:], "machine": machine()})
        report = fit_world(model, dataset, config, streams, on_epoch=watch)
        fitted = {"seconds": report.seconds, "stopped_by": report.stopped_by, "epochs": report.epochs, "cpu": watch.cpu}
        watch.write({"fitted": fitted | quality(model, dataset)})


if __name__ == "__main__":
    main()
