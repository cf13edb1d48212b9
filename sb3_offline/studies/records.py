"""
The file of one run, JSON lines: the configuration, then one line an evaluation, and at last a summary. Its name is temporary,
``.partial``, until there is one.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th

from sb3_offline.files.refusal import FileRefused
from sb3_offline.files.regular import read_regular
from sb3_offline.files.structure import read_json

Record = dict[str, Any]


def machine() -> Record:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0] if models else cpu
    packages = ("sb3-offline", "stable-baselines3", "torch", "gymnasium", "numpy")
    return {
        "cpu": cpu,
        "threads": th.get_num_threads(),
        "gpu": th.cuda.get_device_name() if th.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def begin(path: Path, command: str, config: Record) -> Path:
    """Start a run's file, whose name is temporary until :func:`finish`, with its configuration, command and machine."""
    partial = partial_of(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    append(partial, {"config": {**config, "command": command, "machine": machine()}})
    return partial


def partial_of(path: Path) -> Path:
    """The name of a run's file until it is finished."""
    return path.with_suffix(".partial")


def finish(partial: Path, path: Path, summary: Record) -> None:
    """Write the last line, and give the file its name."""
    append(partial, {"summary": summary})
    partial.replace(path)


def append(path: Path, record: Record) -> None:
    """One line more."""
    with path.open("a") as file:
        file.write(to_json(record) + "\n")


def to_json(record: Record) -> str:
    """On one line; classes and functions by their names."""
    return json.dumps(record, default=lambda value: getattr(value, "__name__", str(value)))


def read_lines(path: Path) -> list[Record]:
    """
    The whole lines of a run's file; a writer that was killed may have left half a line at the end.

    :raises FileRefused: (a ValueError) if it is no such file
    """
    if not path.exists():
        return []
    whole, _, _ = read_regular(path).rpartition(b"\n")
    try:
        lines = [read_json(line, str(path)) for line in whole.splitlines()]
    except (ValueError, RecursionError) as error:
        raise FileRefused(f"{path} is no file of a run, or damaged: {error}") from error
    if not all(isinstance(line, dict) for line in lines):
        raise FileRefused(f"{path} is no file of a run: a line of it holds no record.")
    return lines


def evaluations(path: Path) -> list[Record]:
    """The evaluations of a run's file; none if it is not there."""
    return [point for point in read_lines(path) if "step" in point]


def is_finished(path: Path) -> bool:
    """Whether it has a summary."""
    return any("summary" in line for line in read_lines(path))


def rewrite(path: Path, records: Sequence[Record]) -> None:
    """These lines in place of a file's."""
    path.unlink(missing_ok=True)
    for record in records:
        append(path, record)


def read_runs(folder: Path) -> list[Record]:
    """The finished runs below a folder: configuration, summary, the evaluations, and the sub-folder that names the options."""
    runs = []
    for path in sorted(folder.rglob("*.jsonl")):
        lines = read_lines(path)
        if lines and "config" in lines[0] and "summary" in lines[-1]:
            curve = [line for line in lines if "step" in line]
            found = {**lines[0]["config"], **lines[-1]["summary"], "curve": curve, "set": str(path.parent.relative_to(folder))}
            runs.append(found)
    return runs
