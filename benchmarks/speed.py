"""
How fast everything is, beside the usual loops and d3rlpy, and beside what the arithmetic alone would take.

    python -m benchmarks.speed --threads 2                       # updates, dynamics, memory: a few minutes
    python -m benchmarks.speed --parts storage sweep             # data of up to 10 million rows, and batch size, width, N
    python -m benchmarks.speed --install-d3rlpy                  # makes an environment with d3rlpy first
    python -m benchmarks.speed --profile                         # only shows where the time of an update goes

All that is compared takes turns in one run: d3rlpy in a process of its own, told when to go. Figures are medians over the
turns. Networks, batches, data and numbers of sampled actions are equal; the data are random (100,000 rows of 11+3 dims). Each
part replaces its own section of ``benchmarks/results/speed/speed.json``, from which the table and the plot are made.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch as th
from torch.profiler import ProfilerActivity, profile

from benchmarks import speed_costs, speed_dynamics, speed_storage, speed_updates
from benchmarks.peers import D3RLPY_FOLDER, environment_python, install_d3rlpy
from benchmarks.run import RESULTS, machine
from benchmarks.speed_report import draw, print_tables, write_page
from benchmarks.speed_updates import SETTINGS

PARTS = ("updates", "dynamics", "memory", "storage", "sweep")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["updates", "dynamics", "memory"])
    parser.add_argument("--algorithms", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each; fewer than five are marked as a trial")
    parser.add_argument("--updates", type=int, help="updates a turn; else as many as fit into --block")
    parser.add_argument("--block", type=float, default=2.0, metavar="SECONDS", help="about the length of a turn")
    parser.add_argument("--clock", choices=speed_dynamics.CLOCKS, default="wall", help="cpu: for a busy machine")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if th.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000], help="of the part storage")
    parser.add_argument(
        "--d3rlpy-python", type=Path, default=environment_python(D3RLPY_FOLDER), help="an interpreter with d3rlpy"
    )
    parser.add_argument("--install-d3rlpy", action="store_true", help=f"make that environment in {D3RLPY_FOLDER}")
    parser.add_argument("--profile", action="store_true", help="print torch's profile of each algorithm's update, and stop")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed", help="folder")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and arguments.clock == "cpu":
        parser.error("--clock cpu does not see the GPU's time.")
    if min(arguments.threads, arguments.repeats, arguments.updates or 1) < 1 or arguments.block <= 0:
        parser.error("--threads, --repeats, --updates and --block must be positive.")
    return arguments


def find_d3rlpy(arguments: argparse.Namespace) -> Path | None:
    """The interpreter that has it, or None with a word about it."""
    if arguments.install_d3rlpy:
        return install_d3rlpy(D3RLPY_FOLDER)
    if arguments.d3rlpy_python.exists():
        return arguments.d3rlpy_python
    print(f"d3rlpy is left out: {arguments.d3rlpy_python} is not there. --install-d3rlpy makes it.")
    return None


def updates_part(arguments: argparse.Namespace) -> dict[str, Any]:
    device, clock, turns = arguments.device, arguments.clock, (arguments.repeats, arguments.block, arguments.updates)
    figures = speed_updates.updates(arguments.algorithms, device, find_d3rlpy(arguments), clock, *turns)
    return {**figures, "loop": speed_costs.loop_overhead(clock, repeats=arguments.repeats)}


def dynamics_part(arguments: argparse.Namespace) -> dict[str, Any]:
    n_batches = 20 if arguments.updates is None else arguments.updates
    epoch = speed_dynamics.epoch(n_batches=n_batches, repeats=arguments.repeats)
    return {"epoch": epoch, "rollouts": speed_dynamics.rollouts(repeats=arguments.repeats)}


def memory_part(arguments: argparse.Namespace) -> dict[str, Any]:
    names, how = arguments.algorithms, (arguments.threads, arguments.device)
    return {"processes": {name: speed_costs.peak_memory(name, *how) for name in names}}


def storage_part(arguments: argparse.Namespace) -> dict[str, Any]:
    n_updates = arguments.updates or 100
    return {"sizes": [speed_storage.measure(rows, n_updates, arguments.repeats) for rows in arguments.rows]}


def sweep_part(arguments: argparse.Namespace) -> dict[str, Any]:
    block = arguments.block / 2
    return {"rows": speed_updates.sweep(arguments.device, arguments.repeats, block, arguments.updates)}


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "updates": updates_part,
    "dynamics": dynamics_part,
    "memory": memory_part,
    "storage": storage_part,
    "sweep": sweep_part,
}


def show_profiles(names: Sequence[str], device: str, n_updates: int) -> None:
    """Where the time of an update goes, by operator, most expensive first."""
    data = speed_updates.random_data()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    for name in names:
        model = speed_updates.make_model(name, data, "float32", "eager", device)
        for _ in range(3):
            model.update()
        with profile(activities=activities) as profiler:
            for _ in range(n_updates):
                model.update()
        print(f"\n{name}: {n_updates} updates, {SETTINGS[name].work}")
        print(profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=15, max_name_column_width=50))


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    th.set_num_threads(arguments.threads)
    speed_dynamics.set_clock(arguments.clock)
    if arguments.profile:
        show_profiles(arguments.algorithms, arguments.device, arguments.updates or 10)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "speed.json"
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    how = {"machine": machine(), "device": arguments.device, "clock": arguments.clock, "repeats": arguments.repeats}
    for part in arguments.parts:
        print(f"--- {part}", flush=True)
        record[part if arguments.device == "cpu" else f"{part}_cuda"] = {**how, **MEASURES[part](arguments)}
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")  # what is done stays, whatever comes next
    print_tables(record)
    write_page(record, arguments.out / "table.md")
    draw(record, arguments.out / "speed.png")


if __name__ == "__main__":
    main()
