"""
Does a policy lose what it learned offline when it goes online? One JSON-lines file a run, as in :mod:`benchmarks.run`.

    python -m benchmarks.offline_to_online --variants calibrated cql sac --seeds 0

"calibrated" and "cql" go on by ``learn_online``, "sac" by ``to_sac``. The first evaluations of a file are offline, those
after the line {"phase": "online"} count environment steps; all are of the same initial states. The summary's ``drop`` is the
last offline score less the lowest one in the first 2,000 online steps, normalised.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.equations import demo_options
from benchmarks.run import RESULTS, CurveCallback, append, begin, finish, is_finished, parse_option, parse_seeds
from sb3_offline import CQL

FIRST_ONLINE_STEPS = 2000


class SameStarts(CurveCallback):
    """Every evaluation begins in the same states: otherwise easy and hard ones pass for changes of the policy."""

    def start_seed(self) -> int:
        return self.env_seed


def run_one(variant: str, seed: int, arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Offline, then online."""
    options = demo_options(CQL) | {"calibrated": variant == "calibrated"} | dict(arguments.option)
    config = {
        "variant": variant,
        "dataset": arguments.dataset,
        "seed": seed,
        "offline_steps": arguments.offline_steps,
        "online_steps": arguments.online_steps,
        "n_episodes": arguments.episodes,
        "options": options,
    }
    partial = begin(path, "offline_to_online", arguments.out, config)
    model: Any = CQL("MlpPolicy", dataset=arguments.dataset, seed=seed, **options)
    offline = SameStarts(partial, arguments.offline_eval_every, arguments.episodes, seed)
    model.learn(arguments.offline_steps, callback=offline)
    append(partial, {"phase": "online"})
    online = SameStarts(partial, arguments.online_eval_every, arguments.episodes, seed)
    if variant == "sac":
        info = model.dataset_info
        model = model.to_sac()
        model.dataset_info = info  # for the callback's scores
        model.learn(arguments.online_steps, callback=online)
    else:
        model.learn_online(arguments.online_steps, callback=online)
    offline_score = offline.curve[-1]["normalized_score"]
    first = [point["normalized_score"] for point in online.curve if point["step"] <= FIRST_ONLINE_STEPS]
    summary = {
        "offline_score": offline_score,
        "lowest_online_score": min(first),
        "drop": offline_score - min(first),
        "mean_last_5_offline": float(np.mean([point["normalized_score"] for point in offline.curve[-5:]])),
        "mean_last_5_online": float(np.mean([point["normalized_score"] for point in online.curve[-5:]])),
        "finite": bool(all(p.isfinite().all() for p in model.policy.parameters())),
        "seconds": round(online.curve[-1]["seconds"] + offline.curve[-1]["seconds"], 1),
    }
    finish(partial, path, summary)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["calibrated"], choices=("calibrated", "cql", "sac"))
    parser.add_argument("--dataset", default="sb3_offline/Pendulum-medium-replay-v0")
    parser.add_argument("--seeds", type=parse_seeds, default=[0], help="0-2 or 0,3,5")
    parser.add_argument("--offline-steps", type=int, default=15_000)
    parser.add_argument("--online-steps", type=int, default=5000)
    parser.add_argument("--offline-eval-every", type=int, default=500)
    parser.add_argument("--online-eval-every", type=int, default=250)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--option", type=parse_option, action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--out", type=Path, default=RESULTS / "offline_to_online")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for variant in arguments.variants:
        for seed in arguments.seeds:
            path = arguments.out / f"{variant}_seed{seed}.jsonl"
            if is_finished(path):
                print(f"done already: {path.name}", flush=True)
                continue
            summary = run_one(variant, seed, arguments, path)
            print(f"{path.name}: offline {summary['offline_score']:.1f}, drop {summary['drop']:.1f}", flush=True)


if __name__ == "__main__":
    main()
