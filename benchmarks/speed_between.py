"""
How fast the updates of two checkouts are, side by side: each in a process of its own, by turns, with equal options.

    python -m benchmarks.speed_between OLDER NEWER --out FOLDER

Options are those of version 0.1.0, said outright, as defaults have changed since; data, sizes and the clock (the processor's
own, one thread) are those of :mod:`benchmarks.speed`. The figure is the median over the turns of NEWER's time by OLDER's in
the same turn.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROLLOUTS = {"rollout_length": 5, "rollout_freq": 1000, "rollout_batch_size": 10_000}
AS_IN_SAC = {
    "learning_rate": 1e-4,
    "qf_learning_rate": 3e-4,
    "tau": 0.005,
    "ent_coef": "auto",
    "reward_scale": 1.0,
    "averaging_rate": 0.0,
}
EQ_8 = {
    "conservative": "expectation",
    "penalty_states": "model",
    "conservative_weight": 1.0,
    "n_action_samples": 10,
    "real_ratio": 0.5,
    "rollout_policy": "current",
}
STD_OF_ALL = {"robust_weight": 0.1, "visitation": "simhash", "robustness": {"kind": "std", "n_states": None}}
OPTIONS: dict[str, dict[str, Any]] = {
    "OfflineSAC": AS_IN_SAC,
    "CQL": AS_IN_SAC | {"conservative": "logsumexp", "conservative_weight": 2.5},
    "COMBO": AS_IN_SAC | ROLLOUTS | EQ_8,
    "DROMO": AS_IN_SAC | ROLLOUTS | EQ_8 | STD_OF_ALL,
    "MOPO": AS_IN_SAC | ROLLOUTS | {"penalty_weight": 1.0, "penalty": "max_std", "real_ratio": 0.05, "entropy_backup": True},
}
NEWER_ONLY = ("averaging_rate", "robustness")  # there was no average, and Eq 13 was at all states


def serve() -> None:
    """In one checkout: make what a line names, or time as many updates of it, and print the processor's seconds."""
    import time

    import torch as th

    from benchmarks import speed_updates

    th.set_num_threads(1)
    models: dict[str, Any] = {}
    data = speed_updates.random_data()
    for line in sys.stdin:
        name, _, n = line.partition(" ")
        if name not in models:
            setting = speed_updates.SETTINGS[name]
            knows = inspect.signature(setting.algorithm).parameters
            options = {
                key: value for key, value in OPTIONS[name].items() if "averaging_rate" in knows or key not in NEWER_ONLY
            }
            options["policy_kwargs"] = {"net_arch": [speed_updates.WIDTH] * setting.layers, "layer_norm": False}
            models[name] = speed_updates.make_model(name, data, "float32", "eager", "cpu", **options)
        model, begun = models[name], time.process_time()
        for _ in range(int(n)):
            model.update()
        print(f"seconds {time.process_time() - begun!r}", flush=True)


def start(checkout: Path) -> subprocess.Popen[str]:
    """:meth:`serve` in a checkout."""
    where = os.environ | {"PYTHONPATH": str(checkout.absolute()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(Path(__file__).absolute()), "--serve"]
    return subprocess.Popen(command, cwd=checkout, env=where, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(process: subprocess.Popen[str], name: str, n: int) -> float:
    """Seconds of ``n`` updates."""
    if process.stdin is None or process.stdout is None:
        raise OSError("the process has no pipes")
    print(f"{name} {n}", file=process.stdin, flush=True)
    for line in process.stdout:
        if line.startswith("seconds "):
            return float(line.split()[1])
    raise OSError(f"{name}: the process ended, see above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="OLDER NEWER")
    parser.add_argument("--algorithms", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--updates", type=int, default=60, help="a turn")
    parser.add_argument("--out", type=Path, help="folder")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    if len(arguments.checkouts) != 2 or arguments.out is None:
        parser.error("give OLDER, NEWER and --out.")
    from benchmarks.run import machine  # of the newer one alone

    arguments.out.mkdir(parents=True, exist_ok=True)
    pair = [start(checkout) for checkout in arguments.checkouts]
    for name in arguments.algorithms:
        for process in pair:
            ask(process, name, 20)  # allocates
        turns = []
        for turn in range(arguments.turns):
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            seconds = {which: ask(pair[which], name, arguments.updates) for which in order}
            turns.append([seconds[0], seconds[1]])
        ratio = statistics.median(newer / older for older, newer in turns)
        record = {
            "machine": machine(),
            "algorithm": name,
            "updates": arguments.updates,
            "seconds_older_newer": turns,
            "newer_by_older": ratio,
        }
        (arguments.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {ratio:.3f} of the older's time", flush=True)
    for process in pair:
        process.kill()


if __name__ == "__main__":
    main()
