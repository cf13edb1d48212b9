"""
Damaged files against their readers: ``python -m benchmarks.fuzz_files``.

Every file must be refused by a ValueError, or load what it was before; nothing may be unpickled, and no other exception may
come out. Where no checksum can tell (HDF5 has none, and forged files have theirs set right), what loads may differ.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import platform
import re
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch as th

from sb3_offline import CQL, DROMO, load_dataset
from sb3_offline.common.offline_algorithm import OfflineAlgorithm

Damage = Callable[[bytearray, np.random.Generator], bytearray]

_events: list[str] = []
_WATCHED = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.mkdir", "os.remove")


def watch() -> list[str]:
    """A list that Python fills with whatever a pickle, or code that came from one, asks for."""
    if "watching" not in _events:
        _events.append("watching")

        def note(event: str, args: Any) -> None:
            if event in _WATCHED and not (event == "os.mkdir" and Path(args[0]).is_dir()):  # which makes nothing
                _events.append(f"{event}{args!r}")

        sys.addaudithook(note)
    return _events


def flip(content: bytearray, rng: np.random.Generator) -> bytearray:
    """One to eight bytes, half of the time near the marks of the zip's own structure."""
    marks = [i for i in range(len(content) - 1) if content[i : i + 2] == b"PK"] if rng.random() < 0.5 else []
    for _ in range(int(rng.choice([1, 1, 1, 2, 8]))):
        at = int(rng.choice(marks)) + int(rng.integers(64)) if marks else int(rng.integers(len(content)))
        content[min(at, len(content) - 1)] ^= int(rng.integers(1, 256))
    return content


def cut(content: bytearray, rng: np.random.Generator) -> bytearray:
    """The end is missing."""
    return content[: int(rng.integers(len(content)))]


def blank(content: bytearray, rng: np.random.Generator) -> bytearray:
    """A block of zeros, as a torn write leaves it."""
    at = int(rng.integers(len(content)))
    end = min(at + 512, len(content))
    content[at:end] = bytes(end - at)
    return content


def forge(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Bytes of one member, or of the descriptions among the hyperparameters, with checksums that fit."""
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        members = {info.filename: bytearray(archive.read(info)) for info in archive.infolist()}
    name = str(rng.choice([*members, "data"])) if "data" in members else str(rng.choice([*members]))
    member = members[name]
    spots = [match.start() for match in re.finditer(rb'[":,0-9.]', member)] if name == "data" else []
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.choice(spots)) if spots else int(rng.integers(len(member)))
        member[at] = int(rng.choice(list(b'0197-.e"{}[],: x'))) if name == "data" else int(rng.integers(256))
    forged = io.BytesIO()
    with zipfile.ZipFile(forged, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, bytes(member))
    return bytearray(forged.getvalue())


def fuzz(
    path: Path, load: Callable[[Path], Any], same: Callable[[Any], bool], damage: Damage, n: int, seed: int = 0
) -> Counter[str]:
    """
    Damage a file n times, and load it each time.

    :param same: whether what was loaded is what the file held before
    :return: how often it was "refused", "loaded", "loaded changed", "untouched" (the damage hit nothing), "unpickled", or
        ended in another exception, by its name
    """
    original, rng, found = path.read_bytes(), np.random.default_rng(seed), Counter[str]()
    damaged = path.with_name(f"damaged{path.suffix}")
    events = watch()
    for _ in range(n):
        content = bytes(damage(bytearray(original), rng))
        damaged.write_bytes(content)
        before = len(events)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = load(damaged)
            outcome = "untouched" if content == original else "loaded" if same(loaded) else "loaded changed"
        except ValueError as error:
            outcome = "refused" if str(error) else "unexplained: ValueError()"
        except Exception as error:
            outcome = f"unexplained: {type(error).__name__}: {error}"
        found["unpickled" if len(events) > before else outcome] += 1
    return found


def fuzz_apart(*args: Any, timeout: float) -> Counter[str]:
    """:func:`fuzz` in a process of its own, for readers whose C code may crash or hang."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(fuzz(*args)))
    child.start()
    sender.close()
    if not receiver.poll(timeout):
        child.kill()
        return Counter({"hung": 1})
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        return Counter({f"crashed: exit {child.exitcode}": 1})


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """Nested states as one dict."""
    if not isinstance(state, dict):
        return {prefix: state}
    return {name: leaf for key, value in state.items() for name, leaf in flat(value, f"{prefix}.{key}").items()}


def equal_to(model: OfflineAlgorithm) -> Callable[[OfflineAlgorithm], bool]:
    """Whether another model has the same parameters to the bit, and hyperparameters."""
    expected, plain = flat(model.get_parameters()), _plain(model)

    def same(other: OfflineAlgorithm) -> bool:
        found = flat(other.get_parameters())
        if found.keys() != expected.keys() or _plain(other) != plain:
            return False
        return all(_equal(found[name], value) for name, value in expected.items())

    return same


def _equal(one: Any, other: Any) -> bool:
    return th.equal(one, other) if isinstance(one, th.Tensor) else one == other


def _plain(model: OfflineAlgorithm) -> dict[str, Any]:
    return {k: v for k, v in vars(model).items() if isinstance(v, (bool, int, float, str)) and k != "start_time"}


def make_model(algorithm: type, folder: Path) -> Path:
    """A small trained model, saved; DROMO has every kind of part that a file can hold."""
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 32, "seed": 0, "device": "cpu"}
    if algorithm is DROMO:
        options |= {
            "dynamics_kwargs": {"hidden_sizes": (16,), "n_members": 2, "n_elites": 1, "max_epochs": 1, "weight_decay": 1e-5},
            "dynamics_cache": False,
            "rollout_batch_size": 64,
            "behavior_kwargs": {"hidden_sizes": (16,), "n_steps": 10},
            "n_action_samples": 2,
        }
    path = folder / f"{algorithm.__name__}.zip"
    algorithm("MlpPolicy", "sb3_offline/Pendulum-medium-v0", **options).learn(3).save(path)
    return path


def make_data(folder: Path) -> tuple[list[Path], str]:
    """The same rows as npz and HDF5, and their fingerprint."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(60, 3)).astype(np.float32),
        "actions": rng.uniform(-2, 2, (60, 1)).astype(np.float32),
        "rewards": rng.normal(size=60).astype(np.float32),
        "terminations": np.arange(60) % 20 == 19,
        "truncations": np.zeros(60, dtype=bool),
    }
    paths = [folder / name for name in ("plain.npz", "packed.npz", "data.hdf5")]
    np.savez(paths[0], env_id="Pendulum-v1", **arrays)
    np.savez_compressed(paths[1], env_id="Pendulum-v1", **arrays)
    with h5py.File(paths[2], "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip" if name == "observations" else None)
        file["metadata/env_id"] = "Pendulum-v1"
    return paths, load_dataset(paths[0]).fingerprint()


DAMAGES: dict[str, Damage] = {"byte-flipped": flip, "cut short": cut, "zeroed": blank}
FORGED = "forged"


def fuzz_models(folder: Path, n: int, seed: int = 0, algorithms: tuple[type, ...] = (CQL, DROMO)) -> dict[str, Counter[str]]:
    """n byte-flipped files of each algorithm, and a quarter as many of the other damages."""
    found = {}
    for algorithm in algorithms:
        path = make_model(algorithm, folder)
        load = lambda damaged, algorithm=algorithm: algorithm.load(damaged, device="cpu")  # noqa: E731
        for name, damage in DAMAGES.items():
            count = n if damage is flip else max(n // 4, 1)
            found[f"{algorithm.__name__}, {name}"] = fuzz(path, load, equal_to(load(path)), damage, count, seed)
        found[f"{algorithm.__name__}, {FORGED}"] = fuzz(path, load, equal_to(load(path)), forge, n, seed)
    return found


def fuzz_data(folder: Path, n: int, seed: int = 0) -> dict[str, Counter[str]]:
    """n byte-flipped files of each format, and a quarter as many of the other damages."""
    paths, fingerprint = make_data(folder)
    found = {}
    for path in paths:
        for name, damage in DAMAGES.items():
            count = n if damage is flip else max(n // 4, 1)
            task = (path, load_dataset, lambda data: data.fingerprint() == fingerprint, damage, count, seed)
            apart = path.suffix == ".hdf5" and "fork" in multiprocessing.get_all_start_methods()
            found[f"{path.name}, {name}"] = fuzz_apart(*task, timeout=60 + count) if apart else fuzz(*task)
        if path.suffix == ".npz":
            found[f"{path.name}, {FORGED}"] = fuzz(path, load_dataset, task[2], forge, n, seed)
    return found


def main() -> None:
    """Run everything and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200, help="byte-flipped files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fuzz_files.json"))
    args = parser.parse_args()
    th.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz_models(Path(folder), args.n, args.seed) | fuzz_data(Path(folder), args.n, args.seed)
    result = {
        "command": " ".join(["python -m benchmarks.fuzz_files", *sys.argv[1:]]),
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {"python": platform.python_version(), "torch": th.__version__, "h5py": h5py.__version__},
        "outcomes": {name: dict(sorted(counts.items())) for name, counts in found.items()},
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["outcomes"], indent=2))


if __name__ == "__main__":
    main()
