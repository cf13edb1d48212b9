"""
Kills (SIGKILL) whatever replaces a file or a folder, at random moments: what is there afterwards must be the old one or the
new one, whole; and lets each write to a full disk, where the old one must stay. Three of the kinds are part of
``python -m benchmarks.kill_and_resume``, all are tried by

    python -m benchmarks.kill_writers --kills 5
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from benchmarks.run import command, machine
from sb3_offline import COMBO, CQL, load_dataset
from sb3_offline.buffers.statistics import STATISTICS, save_statistics
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


class Writer:
    """Writes one of its states to a place, and reads which one is there."""

    states: ClassVar[tuple[str, ...]] = ("1", "2")

    def __init__(self, place: Path) -> None:
        self.place = place

    def write(self, state: str) -> None:
        """Replace what is there."""
        raise NotImplementedError

    def read(self) -> str:
        """Equal for equal content."""
        raise NotImplementedError


class Conversion(Writer):
    """``convert --force``; its children say into what."""

    name: ClassVar[str]

    def __init__(self, place: Path) -> None:
        self.source, self.target = place / "source.npz", str(place / self.name)
        if not self.source.exists():
            np.savez(self.source, env_id="Pendulum-v1", **small_data())

    def write(self, state: str) -> None:
        words = ["convert", str(self.source), self.target, "--force", "--reward-scale", state]
        if shell(words) != 0:
            raise RuntimeError("convert failed")

    def read(self) -> str:
        return load_dataset(self.target).fingerprint()


class Folder(Conversion):
    name = "data.mmap"


class Npz(Conversion):
    name = "data.npz"


class Hdf5(Conversion):
    name = "data.hdf5"


class Parquet(Conversion):
    name = "data.parquet"


class MinariSet(Conversion):
    name = "kills/pendulum-v0"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.target = self.name
        os.environ["MINARI_DATASETS_PATH"] = str(place / "minari")


class Buffer(Writer):
    """``save_replay_buffer``."""

    def __init__(self, place: Path) -> None:
        self.target = place / "buffer.npz"

    def write(self, state: str) -> None:
        data = small_data()
        data["rewards"] = data["rewards"] * float(state)
        CQL("MlpPolicy", "Pendulum-v1", dataset=data, **SMALL).save_replay_buffer(self.target)

    def read(self) -> str:
        return load_dataset(self.target, env_id="Pendulum-v1").fingerprint()


class Cache(Writer):
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
        return _digest(model.dynamics)


class Model(Writer):
    """``save`` of a model."""

    def __init__(self, place: Path) -> None:
        self.target = place / "model.zip"

    def write(self, state: str) -> None:
        CQL("MlpPolicy", "Pendulum-v1", dataset=small_data(), seed=int(state), **SMALL).save(self.target)

    def read(self) -> str:
        return _digest(CQL.load(self.target, device="cpu").policy)


class Statistics(Writer):
    """``vecnormalize.json``, whose bytes are known by its numbers."""

    def write(self, state: str) -> None:
        normalizer: Any = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
        normalizer.obs_rms.mean += float(state)
        save_statistics(normalizer, self.place)

    def read(self) -> str:
        return hashlib.sha256((self.place / STATISTICS).read_bytes()).hexdigest()


class Page(Writer):
    """``inspect --html``."""

    def __init__(self, place: Path) -> None:
        self.sources, self.target = {state: place / f"source{state}.npz" for state in self.states}, place / "page.html"
        for state, source in self.sources.items():
            if not source.exists():
                data = small_data()
                np.savez(source, env_id="Pendulum-v1", **data | {"rewards": data["rewards"] * float(state)})

    def write(self, state: str) -> None:
        if shell(["inspect", str(self.sources[state]), "--html", str(self.target)]) != 0:
            raise RuntimeError("inspect failed")

    def read(self) -> str:
        text = self.target.read_text()
        return "whole" if text.startswith("<!") and text.rstrip().endswith("</html>") else f"torn: {len(text)}"


def _digest(module: th.nn.Module) -> str:
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values())).hexdigest()


#: Those that ``kill_and_resume`` kills, too.
WRITERS: dict[str, type[Writer]] = {"convert --force": Folder, "replay buffer": Buffer, "cache": Cache}
ALL: dict[str, type[Writer]] = WRITERS | {
    "convert --force to npz": Npz,
    "convert --force to HDF5": Hdf5,
    "convert --force to Parquet": Parquet,
    "convert --force to Minari": MinariSet,
    "model": Model,
    "statistics": Statistics,
    "inspect --html": Page,
}


def _write_on(kind: str, place: Path) -> None:
    th.set_num_threads(1)
    writer = ALL[kind](place)
    for state in cycle(writer.states):
        writer.write(state)


def _answer(kind: str, place: Path, answers: Any) -> None:
    th.set_num_threads(1)
    try:
        answers.put(ALL[kind](place).read())
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
        for state in ALL[kind].states:
            ALL[kind](place).write(state)
            allowed.add(_apart(_answer, kind, place))
        for _ in range(kills):
            process = multiprocessing.get_context("fork").Process(target=_write_on, args=(kind, place))
            process.start()
            moment = float(rng.uniform(0.05, longest_s))
            process.join(moment)
            process.kill()
            process.join()
            whole = _apart(_answer, kind, place) in allowed
            ALL[kind](place).write(ALL[kind].states[0])
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


def fill_disk(kind: str) -> str | None:
    """What a writer leaves that replaces its target on a full disk, in words; None where one may not mount."""
    with small_disk("8m") as disk:
        if disk is None:
            return None
        ALL[kind](disk).write(ALL[kind].states[0])
        before, names = _apart(_answer, kind, disk), _names(disk)
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass
        process = multiprocessing.get_context("fork").Process(target=_write_once, args=(kind, disk))
        process.start()
        process.join()
        (disk / "ballast").unlink()
        code = process.exitcode or 0
        ended = "written all the same" if code == 0 else "refused" if code == _REFUSED else f"ended by {code}"
        old = "the old one whole" if _apart(_answer, kind, disk) == before else "the old one lost"
        left = sorted(_names(disk) - names)
        return f"{ended}, {old}, {f'left: {left}' if left else 'nothing left'}"


_REFUSED = 2


def _write_once(kind: str, place: Path) -> None:
    th.set_num_threads(1)
    try:
        ALL[kind](place).write(ALL[kind].states[1])
    except (OSError, RuntimeError):  # the shell's status is a RuntimeError here
        sys.exit(_REFUSED)


def _names(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def main() -> None:
    """Try all kinds, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="of each kind")
    parser.add_argument("--only", nargs="+", choices=list(ALL), default=list(ALL))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/resume/writers"))
    arguments = parser.parse_args()
    th.set_num_threads(1)
    trials: list[WriterTrial] = []
    full: dict[str, str] = {}
    for index, kind in enumerate(arguments.only):
        trials += measure_writer(kind, arguments.kills, arguments.seed + index)
        if len(ALL[kind].states) > 1:
            full[kind] = fill_disk(kind) or "may not mount one"
        facts = {
            "command": command("kill_writers", arguments.output),
            "seed": arguments.seed,
            "machine": machine(),
            "kills": len(trials),
            "whole": sum(trial.whole and trial.whole_again for trial in trials),
            "a full disk": full,
            "trials": [asdict(trial) for trial in trials],
        }
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "kill_writers.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(
            kind, [trial.whole and trial.whole_again for trial in trials if trial.writer == kind], full.get(kind), flush=True
        )


if __name__ == "__main__":
    main()
