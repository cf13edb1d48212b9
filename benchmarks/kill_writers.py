"""
Kills (SIGKILL) whatever replaces a file or a folder, at random moments: what is there afterwards must be the old one or the
new one, whole. Part of ``python -m benchmarks.kill_and_resume``.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_offline import COMBO, CQL, load_dataset
from sb3_offline.cli import main as shell
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES

DATASET = "sb3_offline/Pendulum-medium-v0"
FIT = {"hidden_sizes": (16,), "n_members": 2, "n_elites": 1, "max_epochs": 2, "weight_decay": 1e-5}
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 32, "device": "cpu"}


@dataclass(frozen=True)
class WriterTrial:
    """A writer that was killed: when, and whether its target was whole then, and after one more write."""

    writer: str
    killed_after_s: float
    whole: bool
    whole_again: bool


def small_data() -> dict[str, Any]:
    data = load_dataset(DATASET)
    return {name: getattr(data, name)[:4000] for name in ARRAY_NAMES}


class Folder:
    """``convert --force`` of a memory-mapped folder."""

    states = ("1", "2")

    def __init__(self, place: Path) -> None:
        self.source, self.target = place / "source.npz", place / "data.mmap"
        if not self.source.exists():
            np.savez(self.source, env_id="Pendulum-v1", **small_data())

    def write(self, state: str) -> None:
        words = ["convert", str(self.source), str(self.target), "--force", "--reward-scale", state]
        if shell(words) != 0:
            raise RuntimeError("convert failed")

    def read(self) -> str:
        return load_dataset(self.target).fingerprint()


class Buffer:
    """``save_replay_buffer``."""

    states = ("1", "2")

    def __init__(self, place: Path) -> None:
        self.target = place / "buffer.npz"

    def write(self, state: str) -> None:
        data = small_data()
        data["rewards"] = data["rewards"] * float(state)
        CQL("MlpPolicy", "Pendulum-v1", dataset=data, **SMALL).save_replay_buffer(self.target)

    def read(self) -> str:
        return load_dataset(self.target, env_id="Pendulum-v1").fingerprint()


class Cache:
    """An entry of the cache of fitted dynamics: whatever is left of it, the next run has the fit that it would have made."""

    states = ("0",)

    def __init__(self, place: Path) -> None:
        self.place = place / "cache"
        os.environ["SB3_OFFLINE_CACHE"] = str(self.place)

    def write(self, state: str) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self._fit(state)

    def read(self) -> str:
        return self._fit(self.states[0])

    def _fit(self, state: str) -> str:
        model = COMBO("MlpPolicy", DATASET, dynamics_kwargs=FIT, dynamics_cache=True, seed=int(state), **SMALL)
        model.fit_dynamics()
        content = [value.numpy().tobytes() for value in model.dynamics.state_dict().values()]
        return hashlib.sha256(b"".join(content)).hexdigest()


WRITERS: dict[str, type[Folder | Buffer | Cache]] = {"convert --force": Folder, "replay buffer": Buffer, "cache": Cache}


def _write_on(kind: str, place: Path) -> None:
    th.set_num_threads(1)
    writer = WRITERS[kind](place)
    for state in cycle(writer.states):
        writer.write(state)


def _answer(kind: str, place: Path, answers: Any) -> None:
    th.set_num_threads(1)
    try:
        answers.put(WRITERS[kind](place).read())
    except Exception as error:  # whatever a torn file raises: it counts
        answers.put(f"{type(error).__name__}: {error}")


def _apart(function: Callable[..., None], *args: Any) -> str:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=function, args=(*args, answers))
    process.start()
    answer: str = answers.get(timeout=300)
    process.join()
    return answer


def measure_writer(kind: str, kills: int, seed: int, longest_s: float = 2.0) -> list[WriterTrial]:
    """Kill ``kills`` writers, each at a moment drawn uniformly after its first write."""
    rng, trials = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        allowed = set()
        for state in WRITERS[kind].states:
            WRITERS[kind](place).write(state)
            allowed.add(_apart(_answer, kind, place))
        for _ in range(kills):
            process = multiprocessing.get_context("fork").Process(target=_write_on, args=(kind, place))
            process.start()
            moment = float(rng.uniform(0.05, longest_s))
            process.join(moment)
            process.kill()
            process.join()
            whole = _apart(_answer, kind, place) in allowed
            WRITERS[kind](place).write(WRITERS[kind].states[0])
            trials.append(WriterTrial(kind, round(moment, 3), whole, _apart(_answer, kind, place) in allowed))
    return trials


@contextmanager
def small_disk(size: str) -> Iterator[Path | None]:
    """A file system of that size in memory; None where one may not mount."""
    with tempfile.TemporaryDirectory() as temporary:
        mount = shutil.which("mount")
        command = [mount or "", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", temporary]
        if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
            yield None
            return
        try:
            yield Path(temporary)
        finally:
            subprocess.run(["umount", temporary], check=True)


def enlarge(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
