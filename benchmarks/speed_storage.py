"""
Updates a second on data that stay in memory-mapped files, beside the same data in memory, and what each holds of memory.

    python -m benchmarks.speed_storage --rows 10000 1000000 10000000

The data are random episodes of 1000 steps (17+6 dims), streamed to a temporary folder. An update is SAC's (2x256, batch 256),
the cheapest there is here, so a batch's reading weighs most. Both storages train in one process, by turns. Memory is that of
a process of its own that has only the mapped data: RssAnon is what it holds, RssFile the pages of files that the kernel can
take back at any time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from rich.table import Table

from benchmarks.run import RESULTS, machine
from benchmarks.speed_dynamics import CLOCKS, seconds, set_clock
from sb3_offline.buffers.storage import Storage
from sb3_offline.common.offline_sac import OfflineSAC
from sb3_offline.datasets import DatasetInfo, MappedWriter, SpacesOnlyEnv
from sb3_offline.shell.consoles import print_whole

OBSERVATION_DIM, ACTION_DIM, EPISODE = 17, 6, 1000
SPACES: dict[str, Any] = {
    "observation_space": spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32),
    "action_space": spaces.Box(-2.0, 2.0, (ACTION_DIM,), np.float32),
}


STORAGES: tuple[Storage, ...] = ("mmap", "memory")


def write_random(folder: Path, n_rows: int) -> None:
    """Episodes of 1000 steps, written 50 at a time."""
    rng = np.random.default_rng(0)
    with MappedWriter(folder, DatasetInfo("random", **SPACES)) as writer:
        for start in range(0, n_rows, 50 * EPISODE):
            n = min(50 * EPISODE, n_rows - start)
            states = rng.standard_normal((n + 1, OBSERVATION_DIM), dtype=np.float32)
            ends = np.arange(1, n + 1) % EPISODE == 0
            following = states[1:].copy()
            following[ends] = rng.standard_normal((int(ends.sum()), OBSERVATION_DIM), dtype=np.float32)
            writer.append(
                {
                    "observations": states[:-1],
                    "actions": rng.uniform(-2, 2, (n, ACTION_DIM)).astype(np.float32),
                    "rewards": rng.standard_normal(n, dtype=np.float32),
                    "next_observations": following,
                    "terminations": np.zeros(n, dtype=bool),
                    "truncations": ends,
                }
            )


def make_model(folder: Path, storage: Storage) -> OfflineSAC:
    """A SAC of 2x256 with its data prepared."""
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [256, 256]}, "seed": 0, "device": "cpu", "storage": storage}
    return OfflineSAC("MlpPolicy", SpacesOnlyEnv(**SPACES), dataset=folder, **options).learn(5, log_interval=None)


def updates(folder: Path, n_updates: int = 100, repeats: int = 5) -> dict[str, Any]:
    """Updates a second from files and from memory, by turns; and whether both end with the same weights."""
    models = {"mmap": make_model(folder, "mmap"), "memory": make_model(folder, "memory")}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            times[name].append(seconds(lambda m=model: m.train(n_updates)))  # type: ignore[misc]
    rates = {f"{name}_per_second": n_updates / statistics.median(values) for name, values in times.items()}
    one, other = (list(model.policy.parameters()) for model in models.values())
    same = all(th.equal(a, b) for a, b in zip(one, other, strict=True))
    ratio = rates["mmap_per_second"] / rates["memory_per_second"]
    return {"rows": models["mmap"].replay_buffer.size(), **rates, "ratio": ratio, "same_weights": same, "raw": times}


def memory(folder: Path, storage: Storage, n_updates: int = 100) -> dict[str, float]:
    """MB of a new process after some updates, see :func:`own_memory`."""
    child = ["--child", str(folder), storage, str(n_updates), "--threads", str(th.get_num_threads())]
    command = [sys.executable, "-m", "benchmarks.speed_storage", *child]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(answer.strip().splitlines()[-1])


def measure(n_rows: int, n_updates: int = 100, repeats: int = 5) -> dict[str, Any]:
    """All figures of data with so many rows, written for it to a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "random.mmap"
        write_random(folder, n_rows)
        figure = updates(folder, n_updates, repeats)
        mapped, held = (memory(folder, storage, n_updates) for storage in STORAGES)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    return {**figure, "mmap_memory_mb": mapped, "memory_memory_mb": held, "disk_mb": size}


def own_memory() -> dict[str, float]:
    """This process's resident memory in MB: anonymous, of files, and its peak."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile", "VmHWM")}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process's time, on a busy machine")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_storage.json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    th.set_num_threads(arguments.threads)
    if arguments.child is not None:
        folder, storage, n_updates = arguments.child
        make_model(Path(folder), storage).train(int(n_updates))
        print(json.dumps(own_memory()))
        return
    set_clock(arguments.clock)
    table = Table("rows", "mmap /s", "memory /s", "ratio", "RssAnon MB", "RssFile MB", "in memory: RssAnon MB", "MB on disk")
    figures = [measure(n_rows, arguments.updates, arguments.repeats) for n_rows in arguments.rows]
    for figure in figures:
        mapped, held = figure["mmap_memory_mb"], figure["memory_memory_mb"]
        rates = [f"{figure['mmap_per_second']:.0f}", f"{figure['memory_per_second']:.0f}", f"{figure['ratio']:.2f}"]
        sizes = [f"{value:.0f}" for value in (mapped["RssAnon"], mapped["RssFile"], held["RssAnon"], figure["disk_mb"])]
        table.add_row(f"{figure['rows']:,}", *rates, *sizes)
    print_whole(table)
    record = {"machine": machine(), "clock": arguments.clock, "sizes": figures}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
