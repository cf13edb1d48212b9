"""
The learned end of episodes against the task's own rule, on whole episodes that the fit never saw.

    python -m benchmarks.termination_head --dataset offline/hopper/medium-replay-v0 --seeds 0-2
"""

from __future__ import annotations

import argparse
import sys
import time

import torch as th

from benchmarks.run import RESULTS, append, machine, parse_seeds
from sb3_offline import load_dataset
from sb3_offline.dynamics import TerminationHead, fit_termination_head, resolve_termination
from sb3_offline.dynamics.world import Columns, split_episodes

HELD_OUT_EVERY = 5  # every fifth episode


def columns_of(rows: Columns) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    return rows.observations, rows.actions, rows.next_observations


def recall_at(probability: th.Tensor, truth: th.Tensor, precision: float) -> float:
    """The largest recall that any threshold reaches at this precision or better: what the classifier could do."""
    hits = truth[probability.argsort(descending=True)].cumsum(0)
    reached = hits / th.arange(1, len(hits) + 1) >= precision
    return float(hits[reached].max() / truth.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="offline/hopper/medium-replay-v0")
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2])
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.dataset)
    rule = resolve_termination("auto", dataset.info.env_spec, has_terminations=True)
    seen, unseen = split_episodes(dataset, HELD_OUT_EVERY)
    device = th.device("cpu")
    train, test = Columns.of(dataset, seen, device), Columns.of(dataset, unseen, device)
    truth = rule(*columns_of(test))
    path = RESULTS / "termination_head" / f"{dataset.info.dataset_id.replace('/', '.')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    command = "python -m benchmarks.termination_head " + " ".join(sys.argv[1:])
    append(path, {"command": command, "machine": machine(), "rows": len(seen), "held_out_rows": len(unseen)})
    for seed in arguments.seeds:
        generator = th.Generator().manual_seed(seed)
        head = TerminationHead(train.observations.shape[1], train.actions.shape[1], generator=generator)
        start = time.perf_counter()
        fit_termination_head(head, *columns_of(train), train.terminations, generator=generator)
        called = head(*columns_of(test))
        hits = int((called & truth).sum())
        figures = {
            "seed": seed,
            "recall": hits / int(truth.sum()),
            "precision": hits / max(int(called.sum()), 1),
            "recall_at_precision_90": recall_at(head.probability(*columns_of(test)), truth, precision=0.9),
            "ends": int(truth.sum()),
            "logged_ends": int(test.terminations.sum()),
            "seconds": round(time.perf_counter() - start, 1),
        }
        append(path, figures)
        print(figures, flush=True)


if __name__ == "__main__":
    main()
