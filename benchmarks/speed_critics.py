"""
What critics cost: SACN's updates with 2, 10 and 50 of them, by turns.

    python -m benchmarks.speed_critics --threads 2

Batches of 256 random rows of 11+3 dims, networks of 2 x 256. Seconds an update go to ``results/speed_critics.json``, all turns
and their medians, beside each median over that of 2 critics.
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--critics", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--updates", type=int, default=50, help="a turn")
    parser.add_argument("--clock", choices=speed_dynamics.CLOCKS, default="wall", help="cpu: for a busy machine")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_critics.json")
    arguments = parser.parse_args(argv)
    th.set_num_threads(arguments.threads)
    speed_dynamics.set_clock(arguments.clock)
    data = random_data()
    models = {n: make_model("SACN", data, "float32", "eager", "cpu", n_critics=n) for n in arguments.critics}
    contenders = [contender_of("SACN", model, f"{n} critics", "cpu", None) for n, model in models.items()]
    rows = take_turns(contenders, arguments.repeats, 1.0, arguments.updates)
    for row in rows:
        row["times_the_first"] = row["update_seconds"] / rows[0]["update_seconds"]
        print(f"{row['work']}: {1e3 * row['update_seconds']:.1f} ms an update, {row['times_the_first']:.2f} times the first")
    record = {"machine": machine(), "clock": arguments.clock, "repeats": arguments.repeats, "rows": rows}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
