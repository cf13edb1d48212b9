"""Updates of several models by turns, each held against the first: what :mod:`benchmarks.speed_critics` and its kin share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th

from benchmarks import speed_dynamics
from benchmarks.run import RESULTS, machine
from benchmarks.speed_updates import contender_of, make_model, random_data
from benchmarks.turns import take_turns


def parser_of(description: str | None, out: str, threads: int, updates: int) -> argparse.ArgumentParser:
    """
    :param out: the file's name in the results, if none is given
    :param threads: if not given
    :param updates: a turn, if not given
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--updates", type=int, default=updates, help="a turn")
    parser.add_argument("--clock", choices=speed_dynamics.CLOCKS, default="wall", help="cpu: for a busy machine")
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    return parser


def compare(
    arguments: argparse.Namespace, contenders: Mapping[str, tuple[str, Mapping[str, Any]]], ratio: str, first: str
) -> None:
    """
    Time them and write the figures.

    :param arguments: of :func:`parser_of`
    :param contenders: what each is called, with its algorithm and options
    :param ratio: the name of a row's time by the first one's
    :param first: whom the ratio is of, in words
    """
    th.set_num_threads(arguments.threads)
    speed_dynamics.set_clock(arguments.clock)
    data = random_data()
    ready = [
        contender_of(name, make_model(name, data, "float32", "eager", "cpu", **options), work, "cpu", None)
        for work, (name, options) in contenders.items()
    ]
    rows = take_turns(ready, arguments.repeats, 1.0, arguments.updates)
    for row in rows:
        row[ratio] = row["update_seconds"] / rows[0]["update_seconds"]
        print(f"{row['work']}: {1e3 * row['update_seconds']:.1f} ms an update, {row[ratio]:.2f} times {first}")
    record = {"machine": machine(), "clock": arguments.clock, "repeats": arguments.repeats, "rows": rows}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
