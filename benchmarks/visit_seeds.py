"""
How much of n(s) is chance: the correlation of n^{-1/2} between seeds, and how much of it has no row of the data to count.

    python -m benchmarks.visit_seeds --dataset offline/hopper/medium-replay-v0 --model dromo.zip

At states of the data, and at those that a trained DROMO imagines. A state has at most one row where less than one is expected
("knn"), or alone in a cell or in an empty one ("simhash").
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger

from benchmarks.run import RESULTS, machine
from sb3_offline import DROMO, load_dataset
from sb3_offline.behavior.visitation import make_visitation
from sb3_offline.datasets import OfflineDataset

MODES = ("simhash", "knn")


def imagined_states(path: Path, dataset: OfflineDataset, n_rollouts: int) -> th.Tensor:
    """Of rollouts of a trained model."""
    model = DROMO.load(path, dataset=dataset, device="cpu")
    model.set_logger(Logger(None, []))
    model.rollout_batch_size = n_rollouts
    model.prepare(dataset, progress_bar=False)
    model.rollout_model()
    return th.as_tensor(model.model_buffer.observations[: model.model_buffer.size()])


def rsqrt_counts(mode: str, data: th.Tensor, states: dict[str, th.Tensor], seed: int) -> dict[str, th.Tensor]:
    """n^{-1/2} at each kind of states, (n,) each, with n in rows of the data."""
    visits = make_visitation(mode, count_scale="raw")  # type: ignore[arg-type]
    visits.fit(data, generator=th.Generator().manual_seed(seed))
    return {kind: visits(rows).double().rsqrt() for kind, rows in states.items()}


def compare(mode: str, data: th.Tensor, states: dict[str, th.Tensor], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each kind of states: the mean correlation over pairs of seeds, and the share of states with n at most 1."""
    counts = [rsqrt_counts(mode, data, states, seed) for seed in seeds]
    rows = []
    for kind in states:
        pairs = itertools.combinations([count[kind].numpy() for count in counts], 2)
        correlations = [float(np.corrcoef(pair)[0, 1]) for pair in pairs]
        uncounted = float(np.mean([(count[kind] >= 1.0).double().mean() for count in counts]))
        row = {"estimate": mode, "states": kind, "n": len(states[kind]), "correlation": float(np.mean(correlations))}
        rows.append(row | {"correlations": correlations, "at_most_one_row": uncounted})
    return rows


def draw(data: th.Tensor, states: dict[str, th.Tensor], path: Path) -> None:
    """n^{-1/2} by one seed against that by another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    for axes, mode in zip(figure.subplots(1, len(MODES)), MODES, strict=True):
        first, second = (rsqrt_counts(mode, data, states, seed) for seed in (0, 1))
        for kind in states:
            axes.loglog(first[kind], second[kind], ".", markersize=2, alpha=0.4, label=kind)
        axes.set(title=mode, xlabel="$n^{-1/2}$, seed 0", ylabel="seed 1")
    axes.legend(frameon=False, markerscale=5)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="offline/hopper/medium-replay-v0")
    parser.add_argument("--model", type=Path, help="a saved DROMO, for states that it imagines")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--states", type=int, default=2000, help="of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS / "visit_seeds")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    dataset = load_dataset(arguments.dataset)
    data = th.as_tensor(dataset.observations, dtype=th.float32)
    states = {"data": data}
    if arguments.model is not None:
        states["imagined"] = imagined_states(arguments.model, dataset, n_rollouts=200)
    generator = th.Generator().manual_seed(0)
    states = {kind: rows[th.randperm(len(rows), generator=generator)[: arguments.states]] for kind, rows in states.items()}
    rows = [row for mode in MODES for row in compare(mode, data, states, range(arguments.seeds))]
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = Path(arguments.dataset.replace("/", ".")).name
    record = {"dataset": name, "seeds": arguments.seeds, "machine": machine(), "rows": rows}
    (arguments.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(data, states, arguments.out / f"{name}.png")
    for row in rows:
        print(f"{row['estimate']}, {row['states']}: {row['correlation']:.2f}, at most one row: {row['at_most_one_row']:.1%}")


if __name__ == "__main__":
    main()
