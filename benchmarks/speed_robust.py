"""
What DROMO's robust term costs: its updates beside COMBO's, by turns, all at their defaults.

    python -m benchmarks.speed_robust --clock cpu

Batches of 256 random rows of 11+3 dims. Seconds an update, rollouts left out, go to ``results/speed_robust.json``, all turns
and their medians, beside each median over COMBO's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch as th

from benchmarks import speed_dynamics
from benchmarks.run import RESULTS, machine
from benchmarks.speed_updates import contender_of, make_model, random_data
from benchmarks.turns import take_turns
from sb3_offline.dromo.robustness import Std

CONTENDERS = {
    "COMBO": ("COMBO", {}),
    "DROMO": ("DROMO", {}),
    "DROMO, the term at all states": ("DROMO", {"robustness": Std(n_states=None)}),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--updates", type=int, default=20, help="a turn")
    parser.add_argument("--clock", choices=speed_dynamics.CLOCKS, default="wall", help="cpu: for a busy machine")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_robust.json")
    arguments = parser.parse_args(argv)
    th.set_num_threads(arguments.threads)
    speed_dynamics.set_clock(arguments.clock)
    data, contenders = random_data(), []
    for work, (name, options) in CONTENDERS.items():
        model = make_model(name, data, "float32", "eager", "cpu", rollout_batch_size=100, **options)
        contenders.append(contender_of(name, model, work, "cpu", None))
    rows = take_turns(contenders, arguments.repeats, 1.0, arguments.updates)
    for row in rows:
        row["times_combo"] = row["update_seconds"] / rows[0]["update_seconds"]
        print(f"{row['work']}: {1e3 * row['update_seconds']:.1f} ms an update, {row['times_combo']:.2f} times COMBO's")
    record = {"machine": machine(), "clock": arguments.clock, "repeats": arguments.repeats, "rows": rows}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
