"""
One flipped bit in every kind of file that the product writes, forged optimisers' states, and forged run folders:
``python -m benchmarks.faults``.

No flipped bit may load with changed numbers, and nothing forged may be taken or run code.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from benchmarks.fuzz_files import equal_to, fuzz, fuzz_apart, watch
from sb3_offline import COMBO, CQL, load_dataset
from sb3_offline.buffers.statistics import STATISTICS, load_statistics, save_statistics
from sb3_offline.datasets import save_mapped
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES
from sb3_offline.dynamics.cache_entry import CacheEntry
from sb3_offline.dynamics.fit_checkpoint import FitCheckpoint
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.checksum import read_checked
from sb3_offline.files.optimizer_state import checked_state
from sb3_offline.files.tensors import tensors_in
from sb3_offline.shell.writing import write_dataset
from sb3_offline.studies.records import machine

DATASET = "sb3_offline/Pendulum-medium-v0"
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 32, "seed": 0, "device": "cpu"}
MINARI_ID = "flips/pendulum-v0"
_HEADER = 128  # bytes of an array without rows
FIT = {"hidden_sizes": (16,), "n_members": 2, "n_elites": 1, "max_epochs": 1, "weight_decay": 1e-5}


def flip_bit(content: bytearray, rng: np.random.Generator) -> bytearray:
    position = int(rng.integers(len(content) * 8))
    content[position // 8] ^= 1 << (position % 8)
    return content


def flips(folder: Path, n: int, seed: int = 0) -> dict[str, Counter[str]]:
    """n files of each kind, each with one bit flipped."""
    found = {}
    model = CQL("MlpPolicy", DATASET, target_gap=1.0, **SMALL)
    model.learn(4, callback=CheckpointCallback(4, str(folder)))
    (zipped,), (checkpoint,) = folder.glob("*.zip"), folder.glob("*.resume")
    load: Callable[[Path], Any] = lambda path: CQL.load(path, device="cpu")  # noqa: E731
    found["model (.zip)"] = fuzz(zipped, load, equal_to(load(zipped)), flip_bit, n, seed)
    whole = list(tensors_in(read_checked(checkpoint)))
    same = lambda state: all(map(th.equal, tensors_in(state), whole))  # noqa: E731
    found["checkpoint (.resume)"] = fuzz(checkpoint, read_checked, same, flip_bit, n, seed)
    world = COMBO("MlpPolicy", DATASET, dynamics_kwargs=FIT, dynamics_cache=False, **SMALL)
    world.fit_dynamics()
    world.save_dynamics(folder / "dynamics.pt")
    expected = {name: value.clone() for name, value in world.dynamics.state_dict().items()}

    def load_dynamics(path: Path) -> Any:
        world.load_dynamics(path)
        return world.dynamics.state_dict()

    unchanged = lambda state: all(th.equal(state[name], value) for name, value in expected.items())  # noqa: E731
    found["fitted dynamics (.pt)"] = fuzz(folder / "dynamics.pt", load_dynamics, unchanged, flip_bit, n, seed)
    entry = CacheEntry("0" * 64)
    entry.read(world.dynamics, world.streams)
    entry.write(world.dynamics, world.streams)
    assert entry.path is not None
    place, cached = entry.path, folder / "entry.pt"
    shutil.copy(place, cached)

    def load_entry(path: Path) -> Any:
        shutil.copy(path, place)
        if not entry.read(world.dynamics, world.streams):
            raise FileRefused("It is fitted anew.")
        return world.dynamics.state_dict()

    found["cache entry (.pt)"] = fuzz(cached, load_entry, unchanged, flip_bit, n, seed)
    with mock.patch.object(FitCheckpoint, "complete", lambda fit: shutil.copy(fit.path, folder / "fit.resume")):
        COMBO("MlpPolicy", DATASET, dynamics_kwargs=FIT | {"max_epochs": 3}, dynamics_cache=True, **SMALL).fit_dynamics()
    begun = list(tensors_in(read_checked(folder / "fit.resume")))
    as_begun: Callable[[Any], bool] = lambda state: all(map(th.equal, tensors_in(state), begun))  # noqa: E731
    found["a fit in progress (.fit.resume)"] = fuzz(folder / "fit.resume", read_checked, as_begun, flip_bit, n, seed)
    normalizer = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    save_statistics(normalizer, folder)
    numbers: Any = normalizer.obs_rms
    (folder / "statistics").mkdir()

    def load_numbers(path: Path) -> Any:
        shutil.copy(path, folder / "statistics" / STATISTICS)
        loaded = load_statistics(folder / "statistics", normalizer.venv)
        assert loaded is not None
        return loaded.obs_rms

    alike: Callable[[Any], bool] = lambda other: np.array_equal([*other.mean, *other.var], [*numbers.mean, *numbers.var])  # noqa: E731
    found[f"statistics ({STATISTICS})"] = fuzz(folder / STATISTICS, load_numbers, alike, flip_bit, n, seed)
    data = load_dataset(DATASET)
    data = load_dataset({name: getattr(data, name)[:2000] for name in ARRAY_NAMES}, env_id="Pendulum-v1")
    fingerprint = data.fingerprint()
    unaltered = lambda loaded: loaded.fingerprint() == fingerprint  # noqa: E731
    CQL("MlpPolicy", "Pendulum-v1", dataset=data, **SMALL).save_replay_buffer(folder / "buffer.npz")
    for name in ("data.npz", "data.hdf5", "data.parquet"):
        write_dataset(data, str(folder / name))
    buffer: Callable[[Path], Any] = lambda path: load_dataset(path, env_id="Pendulum-v1")  # noqa: E731
    found["replay buffer (.npz)"] = fuzz(folder / "buffer.npz", buffer, unaltered, flip_bit, n, seed)
    found["data.npz"] = fuzz(folder / "data.npz", load_dataset, unaltered, flip_bit, n, seed)
    for name in ("data.hdf5", "data.parquet"):
        found[name] = _apart(folder / name, load_dataset, unaltered, n, seed)
    save_mapped(replace(data), folder / "data.mmap")
    for column in sorted((folder / "data.mmap").glob("*.npy")):
        if column.stat().st_size > _HEADER:
            found[f"data.mmap: {column.name}"] = _in_place(
                column, lambda: load_dataset(folder / "data.mmap"), unaltered, n, seed
            )
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    write_dataset(data, MINARI_ID)
    (file,) = (folder / "minari").rglob("*.hdf5")
    found["a Minari set (.hdf5)"] = _in_place(file, lambda: load_dataset(MINARI_ID), unaltered, n, seed)
    return found


def _apart(path: Path, load: Callable[[Path], Any], same: Callable[[Any], bool], n: int, seed: int) -> Counter[str]:
    task = (path, load, same, flip_bit, n, seed)
    forks = "fork" in multiprocessing.get_all_start_methods()
    return fuzz_apart(*task, timeout=60 + n) if forks else fuzz(*task)


def _in_place(path: Path, load: Callable[[], Any], same: Callable[[Any], bool], n: int, seed: int) -> Counter[str]:
    """Where a file is read as part of a folder."""
    kept = path.parents[2] / f"kept{path.suffix}"
    shutil.copy(path, kept)

    def replaced(damaged: Path) -> Any:
        shutil.copy(damaged, path)
        return load()

    return _apart(kept, replaced, same, n, seed)


def forged_optimizers(n: int, seed: int = 0) -> Counter[str]:
    """n states, each with one tensor replaced by one of another shape, dtype, layout or storage."""
    rng, found = np.random.default_rng(seed), Counter[str]()
    model = CQL("MlpPolicy", DATASET, **SMALL).learn(2)
    optimizer = model.critic.optimizer
    buffer = io.BytesIO()
    th.save(optimizer.state_dict(), buffer)
    for _ in range(n):
        state = th.load(io.BytesIO(buffer.getvalue()), weights_only=True)
        index = int(rng.choice(list(state["state"])))
        key = str(rng.choice(["exp_avg", "exp_avg_sq", "step"]))
        tensor = state["state"][index][key]
        shape = tuple(int(size) for size in rng.integers(1, 40, size=int(rng.integers(1, 4))))
        kinds = [
            th.zeros(shape),
            th.zeros(1).expand(shape),
            th.zeros(*shape, 2)[..., 0],
            tensor.double(),
            tensor.to(th.complex64),
            th.zeros(shape).to_sparse(),
            th.zeros(shape, device="meta"),
            th.zeros(0),
        ]
        forged = kinds[int(rng.integers(len(kinds)))]
        if forged.shape == tensor.shape and forged.dtype == tensor.dtype and forged.is_contiguous() and not forged.is_meta:
            continue
        state["state"][index][key] = forged
        try:
            checked = checked_state(optimizer, state, "forged")
        except FileRefused:
            found["refused"] += 1
        else:
            own = checked["state"][index][key]
            fits = own.shape == tensor.shape and own.dtype == tensor.dtype
            found["taken as its own number" if fits and key == "step" else "taken"] += 1
    return found


def forged_folders(folder: Path, n: int, seed: int = 0) -> Counter[str]:
    """n texts of config.yml, each with code under one of the ways in which YAML writes a value."""
    from sb3_offline.zoo.run_folder import RunLoader

    rng, found, events = np.random.default_rng(seed), Counter[str](), watch()
    trace = folder / "trace"
    call = f"__import__('os').mkdir({str(trace)!r})"
    keys = ["normalize", "policy_kwargs", "replay_buffer_kwargs", "replay_buffer_class", "monitor_kwargs"]
    names = ["env_wrapper", "vec_env_wrapper", "callback", "policy"]
    for _ in range(n):
        key, value = (str(rng.choice(keys)), call) if rng.random() < 0.5 else (str(rng.choice(names)), "os.mkdir")
        quoted = json.dumps(value)
        texts = [
            f"{key}: {quoted}",
            f"a: &a {{{key}: {quoted}}}\n<<: *a",
            f"a: &a {quoted}\n{key}: *a",
            f"!!python/object/apply:collections.OrderedDict [[[{key}, {quoted}]]]",
            f"? {key}\n: !!str {quoted}",
            f"{key}: {json.dumps(repr(value))}",
            f"a: !!python/object/apply:os.mkdir [{json.dumps(str(trace))}]",
            f"{key}: !!python/object/new:os.mkdir [{json.dumps(str(trace))}]",
        ]
        before = len(events)
        try:
            yaml.load(texts[int(rng.integers(len(texts)))], Loader=RunLoader)
            outcome = "taken"
        except FileRefused:
            outcome = "refused"
        found["ran code" if len(events) > before or trace.exists() else outcome] += 1
    return found


def main() -> None:
    """Run everything and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/faults.json"))
    args = parser.parse_args()
    th.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SB3_OFFLINE_CACHE"] = folder
        outcomes = {f"one bit: {name}": counts for name, counts in flips(Path(folder), args.n, args.seed).items()}
        outcomes["forged optimisers' states"] = forged_optimizers(args.n, args.seed)
        outcomes["forged config.yml"] = forged_folders(Path(folder), args.n, args.seed)
    result = {
        "command": f"python -m benchmarks.faults -n {args.n} --seed {args.seed}",
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "outcomes": {name: dict(sorted(counts.items())) for name, counts in outcomes.items()},
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["outcomes"], indent=2))


if __name__ == "__main__":
    main()
