"""
What it takes to load a table, beside pyarrow's own read, and to stream one into a memory-mapped folder.

    python -m benchmarks.speed_tables --rows 1000000 --stream 2000000 10000000

The table has 11 observations, 3 actions, a reward, a termination, episode and time, in Parquet (float32, bool, int64). The
time of a load is that of `load_dataset` without `build_dataset`, which is the gate's. Both are this process's CPU time, by
turns, after one load that is not counted, with pyarrow on one thread. Memory is that of a process that converts and does
nothing else: the greatest RssAnon, looked at every 20 ms. "shuffled" are the same rows in random order, which are sorted on
the disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.run import RESULTS, machine
from benchmarks.speed_storage import own_memory
from sb3_offline.datasets import load_dataset
from sb3_offline.datasets.sources.tables import opening
from sb3_offline.shell.consoles import print_whole

EPISODE = 1000


def write_table(path: Path, n_rows: int, shuffled: bool = False) -> None:
    """Episodes of 1000 rows, in row groups of 100 episodes; shuffled, they are in any order over the whole file."""
    rng = np.random.default_rng(0)
    order = rng.permutation(n_rows) if shuffled else np.arange(n_rows)
    writer = None
    for start in range(0, n_rows, 100 * EPISODE):
        rows = order[start : start + 100 * EPISODE]
        n = len(rows)
        columns: dict[str, Any] = {f"obs_{i}": rng.standard_normal(n, dtype=np.float32) for i in range(11)}
        columns |= {f"action_{i}": rng.uniform(-1, 1, n).astype(np.float32) for i in range(3)}
        columns |= {"reward": rng.standard_normal(n, dtype=np.float32), "terminated": np.zeros(n, bool)}
        table = pa.table({**columns, "episode": rows // EPISODE, "t": rows % EPISODE})
        writer = pq.ParquetWriter(path, table.schema) if writer is None else writer
        writer.write_table(table)
    if writer is not None:
        writer.close()


def load_times(n_rows: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of pyarrow's read, of the load without the gate, and of the gate."""
    figures: dict[str, list[float]] = {"pyarrow": [], "load": [], "gate": []}
    build = opening.build_dataset

    def timed(*arguments: Any) -> Any:
        start = time.process_time()
        data = build(*arguments)
        figures["gate"].append(time.process_time() - start)
        return data

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(opening, "build_dataset", timed):
        path = Path(folder) / "log.parquet"
        write_table(path, n_rows)
        for _ in range(repeats + 1):
            start = time.process_time()
            pq.read_table(path)
            middle = time.process_time()
            load_dataset(path)
            end = time.process_time()
            figures["pyarrow"].append(middle - start)
            figures["load"].append(end - middle - figures["gate"][-1])
    medians = {name: statistics.median(values[1:]) for name, values in figures.items()}
    return {"rows": n_rows, "medians": medians, "ratio": medians["load"] / medians["pyarrow"], "raw": figures}


def stream(n_rows: int, shuffled: bool) -> dict[str, Any]:
    """Seconds and memory of `sb3-offline convert log.parquet log.mmap` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "log.parquet", Path(folder) / "log.mmap"
        write_table(source, n_rows, shuffled)
        command = [sys.executable, "-m", "benchmarks.speed_tables", "--child", str(source), str(target)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        figures = json.loads(answer.strip().splitlines()[-1])
    return {"rows": n_rows, "shuffled": shuffled, **figures}


def convert(source: str, target: str) -> dict[str, float]:
    """Convert in this process, whose memory a thread looks at meanwhile."""
    from sb3_offline.cli import main as shell

    peak, finished = own_memory(), threading.Event()

    def watch() -> None:
        while not finished.wait(0.02):
            for name, value in own_memory().items():
                peak[name] = max(peak[name], value)

    watcher = threading.Thread(target=watch)
    before = own_memory()["RssAnon"]
    watcher.start()
    start = time.process_time()
    status = shell(["convert", source, target])
    spent = time.process_time() - start
    finished.set()
    watcher.join()
    if status != 0:
        raise RuntimeError(f"convert ended with status {status}")
    return {"cpu_seconds": spent, "RssAnon_before_mb": before, **{f"{name}_peak_mb": value for name, value in peak.items()}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--stream", type=int, nargs="*", default=[2_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_tables.json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    pa.set_cpu_count(1)
    if arguments.child is not None:
        print(json.dumps(convert(*arguments.child)))
        return
    loaded = load_times(arguments.rows, arguments.repeats)
    streamed = [stream(n_rows, shuffled) for n_rows in arguments.stream for shuffled in (False, True)]
    table = Table("rows", "order", "CPU s", "RssAnon MB", "of which before")
    for figure in streamed:
        order = "shuffled" if figure["shuffled"] else "sorted"
        sizes = [f"{figure[name]:.0f}" for name in ("cpu_seconds", "RssAnon_peak_mb", "RssAnon_before_mb")]
        table.add_row(f"{figure['rows']:,}", order, *sizes)
    print_whole(table)
    print(f"load {arguments.rows:,} rows: {loaded['ratio']:.2f} times pyarrow's read ({loaded['medians']})")
    versions = {"pyarrow": pa.__version__, "numpy": np.__version__}
    record = {"machine": machine(), "versions": versions, "load": loaded, "stream": streamed}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
