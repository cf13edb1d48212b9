"""
Kills training at random moments (SIGKILL), resumes it, and compares the outcome with an uninterrupted run, to the bit; fills
the disk under a run, and resumes it with more room; and kills what replaces files (:mod:`benchmarks.kill_writers`).

    python -m benchmarks.kill_and_resume --kills 30 --output benchmarks/results/resume
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback

from benchmarks.kill_writers import WRITERS, WriterTrial, enlarge, measure_writer, small_disk
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.registry import class_names, find_algorithm
from sb3_offline.studies.records import machine

DATASET = "sb3_offline/Pendulum-medium-v0"
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 32, "seed": 0, "device": "cpu"}
MODEL_BASED: dict[str, Any] = SMALL | {
    "dynamics_kwargs": {"hidden_sizes": (16,), "n_members": 2, "max_epochs": 10, "patience": 10, "weight_decay": 1e-5},
    "rollout_batch_size": 200,
    "rollout_freq": 40,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "CQL": SMALL | {"n_action_samples": 2, "target_gap": 1.0},
    "CQL, compiled": SMALL | {"n_action_samples": 2, "execution": "compile"},
    "COMBO": MODEL_BASED,
    "DROMO": MODEL_BASED | {"n_action_samples": 2, "behavior_kwargs": {"hidden_sizes": (16,), "n_steps": 250}},
    "MOPO": MODEL_BASED,
}


@dataclass(frozen=True)
class Trial:
    """One run that was killed: when, what was on disk then, and whether its resumption ended as the uninterrupted run."""

    algorithm: str
    killed_after_s: float
    resumed_from: int  # gradient steps; 0 if there was no checkpoint yet
    fit_in_progress: bool  # a fit of the dynamics was on disk
    partial_files: int  # files that the kill left half-written, under a name of their own
    identical: bool


def train(name: str, folder: Path, steps: int, save_freq: int) -> None:
    """Resume what is in the folder, or start; leave the digest of the outcome in ``done``."""
    th.set_num_threads(1)
    os.environ["SB3_OFFLINE_CACHE"] = str(folder / "cache")
    callback = CheckpointCallback(save_freq, str(folder))
    algorithm = find_algorithm(class_names()[name.partition(",")[0]])
    if list(folder.glob("*.resume")):
        model = algorithm.resume(folder)
    else:
        model = algorithm("MlpPolicy", dataset=DATASET, **OPTIONS[name])
    model.learn(steps, callback=callback, log_interval=70)
    (folder / "done").write_text(digest(model))


def digest(model: OfflineAlgorithm) -> str:
    """
    SHA-256 of networks, optimisers, multipliers, log sums and all random streams: a fit that comes from the cache leaves them
    where it left them.
    """
    _, variables = model._get_torch_save_params()
    parts = [
        model.get_parameters(),
        {name: getattr(model, name) for name in variables},
        model.log_sums.sums,
        model.streams.state()["generators"],
    ]
    result = hashlib.sha256()
    for name, value in _flatten(parts, ""):
        content = value.detach().cpu().numpy().tobytes() if isinstance(value, th.Tensor) else repr(value).encode()
        result.update(name.encode() + content)
    return result.hexdigest()


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        for key, item in sorted(value.items()) if isinstance(value, dict) else enumerate(value):
            yield from _flatten(item, f"{name}.{key}")
    else:
        yield name, value


def run(name: str, folder: Path, steps: int, save_freq: int, kill_after: float | None = None) -> float:
    """Train in a process of its own; its seconds."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(name, folder, steps, save_freq))
    start = time.perf_counter()
    process.start()
    process.join(kill_after)
    if kill_after is not None:
        process.kill()
        process.join()
    elif process.exitcode != 0:
        raise RuntimeError(f"{name} in {folder} ended with exit code {process.exitcode}")
    return time.perf_counter() - start


def measure(name: str, kills: int, steps: int, save_freq: int, seed: int) -> Iterator[Trial]:
    """Kill ``kills`` runs, each at a moment drawn uniformly over the duration of an uninterrupted one."""
    generator = np.random.default_rng(seed)
    done = 0
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        seconds = run(name, whole, steps, save_freq)
        while done < kills:
            folder = Path(temporary) / f"{done}_{generator.integers(1 << 30)}"
            folder.mkdir()
            moment = float(generator.uniform(0.02, 0.95) * seconds)
            run(name, folder, steps, save_freq, kill_after=moment)
            if (folder / "done").exists():  # it was faster this time
                continue
            saved = [int(path.name.split("_")[2]) for path in folder.glob("*.resume")]
            fit, partial = bool(list(folder.glob("cache/*.fit.resume"))), len(list(folder.rglob("*.partial")))
            run(name, folder, steps, save_freq)
            identical = (folder / "done").read_text() == (whole / "done").read_text()
            done += 1
            yield Trial(name, round(moment, 3), max(saved, default=0), fit, partial, identical)


def fill_disk(name: str, steps: int, save_freq: int) -> bool | None:
    """Whether a run that a full disk ended goes on, with more room, to the uninterrupted end; None where one may not mount."""
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary)
        run(name, whole, steps, save_freq)
        written = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        with small_disk(str(written * 2 // 3)) as disk:
            if disk is None:
                return None
            try:
                run(name, disk, steps, save_freq)
            except RuntimeError:
                enlarge(disk, "64m")
                run(name, disk, steps, save_freq)
                return (disk / "done").read_text() == (whole / "done").read_text()
        raise RuntimeError(f"{written * 2 // 3:,} bytes were enough for {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=list(OPTIONS), default=list(OPTIONS), help="what is trained")
    parser.add_argument("--writer-kills", type=int, default=10, help="of each kind")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-freq", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/resume"))
    arguments = parser.parse_args()
    trials: list[Trial] = []
    writers: list[WriterTrial] = []

    def keep(full_disk: str) -> dict[str, Any]:
        """The figures so far: whoever is cut off keeps those."""
        facts = {
            "command": shlex.join(["python", "-m", "benchmarks.kill_and_resume", *sys.argv[1:]]),
            "machine": machine(),
            "identical": sum(trial.identical for trial in trials),
            "kills": len(trials),
            "trials": [asdict(trial) for trial in trials],
            "writers whole": sum(trial.whole and trial.whole_again for trial in writers),
            "writers": [asdict(trial) for trial in writers],
            "a full disk": full_disk,
        }
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "kill_and_resume.json").write_text(json.dumps(facts, indent=1) + "\n")
        return facts

    for index, name in enumerate(arguments.only):
        share = len(range(index, arguments.kills, len(arguments.only)))
        for trial in measure(name, share, arguments.steps, arguments.save_freq, arguments.seed + index):
            print(trial, flush=True)
            trials.append(trial)
            keep("not yet tried")
    for index, kind in enumerate(WRITERS):
        writers += measure_writer(kind, arguments.writer_kills, arguments.seed + index)
        keep("not yet tried")
    full_disk = fill_disk("CQL", arguments.steps, arguments.save_freq)
    facts = keep("may not mount one" if full_disk is None else "identical" if full_disk else "differs")
    print(f"{facts['identical']} of {facts['kills']} ended bit-identical to the uninterrupted run")
    print(f"A run that a full disk ended: {facts['a full disk']}")
    print(f"{facts['writers whole']} of {len(writers)} killed writers left the old or the new one, whole")


if __name__ == "__main__":
    main()
