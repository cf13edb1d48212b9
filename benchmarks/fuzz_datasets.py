"""
Random malformed data, as dicts, npz and HDF5 files: is each refused by an error that names the key?

    python -m benchmarks.fuzz_datasets --cases 300 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch as th
from gymnasium import spaces

from benchmarks.run import RESULTS, machine
from sb3_offline.datasets import DatasetError, load_dataset
from sb3_offline.datasets.checks import pass_gate

Arrays = dict[str, Any]
Container = Literal["dict", "npz", "hdf5"]

CONTAINERS: tuple[Container, ...] = ("dict", "npz", "hdf5")
SPACES: dict[str, Any] = {
    "observation_space": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "action_space": spaces.Box(-2.0, 2.0, (2,), np.float32),
}
REQUIRED = ("observations", "actions", "rewards", "terminations")
NUMBERS = ("observations", "actions", "rewards", "next_observations")
FLAGS = ("terminations", "truncations")
_ROWS, _LENGTH = 40, 10


def sound_arrays(rng: np.random.Generator) -> Arrays:
    """Four episodes of ten rows, far from each other; the second and fourth terminate, the others are cut."""
    starts = np.repeat(np.array([[-9.0], [-3.0], [3.0], [9.0]]), _LENGTH, axis=0) + np.zeros(3)
    observations = starts + np.cumsum(rng.normal(size=(_ROWS, 3)) * 0.1, axis=0)
    next_observations = np.roll(observations, -1, axis=0)
    last = np.arange(_ROWS) % _LENGTH == _LENGTH - 1
    next_observations[last] = observations[last] + 0.1
    terminal = last & (np.arange(_ROWS) % (2 * _LENGTH) >= _LENGTH)
    return {
        "observations": observations,
        "actions": rng.uniform(-2, 2, size=(_ROWS, 2)),
        "rewards": rng.normal(size=_ROWS),
        "next_observations": next_observations,
        "terminations": terminal,
        "truncations": last & ~terminal,
    }


# --- malformations: each changes the arrays and returns what the error must name, any of them ---

Names = Sequence[str]


def _one_of(rng: np.random.Generator, keys: Sequence[str]) -> str:
    return keys[int(rng.integers(len(keys)))]


def _some_rows(rng: np.random.Generator) -> np.ndarray:
    return rng.choice(_ROWS, size=int(rng.integers(1, 6)), replace=False)


def _cast(dtype: Any) -> Callable[[Arrays, np.random.Generator], Names]:
    def apply(arrays: Arrays, rng: np.random.Generator) -> Names:
        key = _one_of(rng, (*NUMBERS, *FLAGS))
        arrays[key] = np.asarray(arrays[key]).astype(dtype)
        return [key]

    return apply


def _put(value: float, keys: Sequence[str]) -> Callable[[Arrays, np.random.Generator], Names]:
    def apply(arrays: Arrays, rng: np.random.Generator) -> Names:
        key = _one_of(rng, keys)
        arrays[key] = np.array(arrays[key], dtype=np.float64)
        rows = _some_rows(rng)
        if key == "next_observations":  # of an episode's last row NaN says that it was not logged
            rows -= rows % _LENGTH == _LENGTH - 1
        arrays[key][rows] = value
        return [key]

    return apply


def _replace(make: Callable[[], Any]) -> Callable[[Arrays, np.random.Generator], Names]:
    def apply(arrays: Arrays, rng: np.random.Generator) -> Names:
        key = _one_of(rng, (*NUMBERS, *FLAGS))
        arrays[key] = make()
        return [key]

    return apply


def _lengths(arrays: Arrays, rng: np.random.Generator) -> Names:
    key = _one_of(rng, (*NUMBERS, *FLAGS))
    arrays[key] = arrays[key][: -int(rng.integers(1, _ROWS))]
    return [key]


def _missing(arrays: Arrays, rng: np.random.Generator) -> Names:
    key = _one_of(rng, REQUIRED)
    del arrays[key]
    return [key]


def _misspelt(arrays: Arrays, rng: np.random.Generator) -> Names:
    key = _one_of(rng, REQUIRED)
    place = int(rng.integers(1, len(key) - 1))
    arrays[key[:place] + key[place + 1 :]] = arrays.pop(key)
    return [key]


def _twice(arrays: Arrays, _rng: np.random.Generator) -> Names:
    arrays["terminals"] = arrays["terminations"]
    return ["terminations"]


def _more_dimensions(arrays: Arrays, rng: np.random.Generator) -> Names:
    key = _one_of(rng, (*NUMBERS, *FLAGS))
    arrays[key] = np.asarray(arrays[key])[..., None, None]
    return [key]


def _swapped(arrays: Arrays, _rng: np.random.Generator) -> Names:
    arrays["observations"], arrays["actions"] = arrays["actions"], arrays["observations"]
    return ["observations", "actions"]


def _transposed(arrays: Arrays, rng: np.random.Generator) -> Names:
    key = _one_of(rng, ("observations", "next_observations", "actions"))
    arrays[key] = np.ascontiguousarray(np.asarray(arrays[key]).T)
    return [key]


def _ragged(arrays: Arrays, rng: np.random.Generator) -> Names:
    key = _one_of(rng, NUMBERS)
    rows = [np.atleast_1d(row).tolist() for row in arrays[key]]
    rows[int(rng.integers(_ROWS))].append(0.0)
    arrays[key] = rows
    return [key]


def _whole_actions(arrays: Arrays, _rng: np.random.Generator) -> Names:
    arrays["actions"] = np.round(np.asarray(arrays["actions"])).astype(np.int64)
    return ["actions"]


def _validity(arrays: Arrays, rng: np.random.Generator) -> Names:
    arrays["valid_next"] = np.ones(_ROWS, dtype=bool)
    arrays["valid_next"][int(rng.integers(_LENGTH))] = False  # the first episode does not terminate
    return ["valid_next"]


def _metadata(arrays: Arrays, rng: np.random.Generator) -> Names:
    arrays["metadata"] = _one_of(rng, ("{", "[1, 2]", "7", '{"reference_min_score": "low"}', '{"reference_max_score": [1]}'))
    return ["metadata", "reference_min_score", "reference_max_score"]


def _crossing(arrays: Arrays, _rng: np.random.Generator) -> Names:
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    return ["next_observations"]


def _broken(arrays: Arrays, rng: np.random.Generator) -> Names:
    arrays["next_observations"] = np.array(arrays["next_observations"])
    arrays["next_observations"][int(rng.integers(_LENGTH - 1)) + _LENGTH * int(rng.integers(4))] += 1.0
    return ["next_observations"]


def _unshifted(arrays: Arrays, _rng: np.random.Generator) -> Names:
    arrays["next_observations"] = np.array(arrays["observations"])
    return ["next_observations"]


def _empty(arrays: Arrays, _rng: np.random.Generator) -> Names:
    arrays.update({key: value[:0] for key, value in arrays.items()})
    return ["the data are empty"]


def _one_cut_row(arrays: Arrays, _rng: np.random.Generator) -> Names:
    del arrays["next_observations"]
    arrays.update({key: value[:1] for key, value in arrays.items()})
    return ["next_observations"]


class _Refuses:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise ValueError("no array")


MALFORMATIONS: dict[str, Callable[[Arrays, np.random.Generator], Names]] = {
    "lengths": _lengths,
    "object dtype": _cast(object),
    "text": _cast(str),
    "complex": _cast(complex),
    "dates": _replace(lambda: np.zeros(_ROWS, dtype="datetime64[s]")),
    "records": _replace(lambda: np.zeros(_ROWS, dtype=[("a", "f4"), ("b", "i4")])),
    "NaN": _put(np.nan, NUMBERS),
    "inf": _put(-np.inf, NUMBERS),
    "beyond float32": _put(1e300, NUMBERS),
    "NaN flags": _put(np.nan, FLAGS),
    "negative flags": _put(-1, FLAGS),
    "halves as flags": _put(0.5, FLAGS),
    "actions outside": _put(2.5, ("actions",)),
    "whole actions": _whole_actions,
    "missing": _missing,
    "misspelt": _misspelt,
    "given twice": _twice,
    "more dimensions": _more_dimensions,
    "swapped": _swapped,
    "transposed": _transposed,
    "ragged": _ragged,
    "zero dimensions": _replace(lambda: np.array(3.0)),
    "None": _replace(lambda: None),
    "an object": _replace(object),
    "a mapping": _replace(lambda: {"a": np.zeros(_ROWS)}),
    "a set": _replace(lambda: {1.0, 2.0}),
    "a function": _replace(lambda: len),
    "a tensor that requires grad": _replace(lambda: th.zeros(_ROWS, requires_grad=True)),
    "refuses to be an array": _replace(_Refuses),
    "invalid rows": _validity,
    "metadata": _metadata,
    "crossing": _crossing,
    "broken": _broken,
    "unshifted": _unshifted,
    "empty": _empty,
    "one cut row": _one_cut_row,
}
#: What leaves nothing to be malformed further.
_ALONE = ("empty", "one cut row")


def _cut(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content)))])


#: What befalls files; "dict" has none.
FILE_MALFORMATIONS: dict[str, Callable[[Path, np.random.Generator], Any]] = {
    "cut file": _cut,
    "empty file": lambda path, _rng: path.write_bytes(b""),
    "text file": lambda path, _rng: path.write_text("observations,actions\n1,2\n"),
    "noise": lambda path, rng: path.write_bytes(rng.bytes(4096)),
}


@dataclass(frozen=True)
class Case:
    """``names`` are what the error may name; ``container`` is "dict" where a file cannot hold the malformation."""

    malformations: tuple[str, ...]
    container: Container
    source: Arrays | Path
    names: tuple[str, ...]


def malformed(malformations: Sequence[str], container: Container, seed: int, folder: Path) -> Case:
    """
    Sound data with one malformation or several.

    :param malformations: of :data:`MALFORMATIONS` and :data:`FILE_MALFORMATIONS`; one that needs what an earlier one took
        away is left out
    :param folder: where files are written
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of casts that lose what they should lose
        return _malformed(malformations, container, seed, folder)


def _malformed(malformations: Sequence[str], container: Container, seed: int, folder: Path) -> Case:
    rng = np.random.default_rng(seed)
    arrays = sound_arrays(rng)
    applied: list[str] = []
    names: list[str] = []
    for malformation in malformations:
        if malformation in FILE_MALFORMATIONS or (applied and malformation in _ALONE):
            continue
        try:
            named = MALFORMATIONS[malformation](arrays, rng)
        except (
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            RuntimeError,
        ):  # nothing is left to be malformed so
            continue
        applied.append(malformation)
        names.extend(named)
        if malformation in _ALONE:
            break
    source: Arrays | Path = arrays
    if container != "dict":
        try:
            source = _write(arrays, container, folder)
        except (TypeError, ValueError, AttributeError, RuntimeError, OSError, pickle.PicklingError):
            container = "dict"  # no such file can be written
    if isinstance(source, Path):
        for malformation in [name for name in malformations if name in FILE_MALFORMATIONS][:1]:
            FILE_MALFORMATIONS[malformation](source, rng)
            applied.append(malformation)
            names.append(source.name)
    return Case(tuple(applied), container, source, tuple(names))


def _write(arrays: Arrays, container: Container, folder: Path) -> Path:
    path = folder / f"log.{container}"
    if container == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key] = value
    return path


def outcome_of(case: Case) -> tuple[str, Exception | None]:
    """How loading and the gate take it: "refused", "unnamed" (refused without the key), "accepted" or "crashed"."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pass_gate(load_dataset(case.source, **SPACES))
    except DatasetError as error:
        return ("refused" if any(name in str(error) for name in case.names) else "unnamed"), error
    except Exception as error:
        return "crashed", error
    return "accepted", None


def draw(rng: np.random.Generator) -> tuple[list[str], Container, int]:
    """One malformation or up to three, a container, and a seed."""
    chosen = rng.choice([*MALFORMATIONS, *FILE_MALFORMATIONS], size=int(rng.integers(1, 4)), replace=False)
    return chosen.tolist(), CONTAINERS[int(rng.integers(3))], int(rng.integers(2**32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz_datasets.json")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    outcomes: collections.Counter[str] = collections.Counter()
    errors: collections.Counter[str] = collections.Counter()
    containers: collections.Counter[str] = collections.Counter()
    by_malformation: collections.Counter[str] = collections.Counter()
    failures, slowest = [], 0.0
    for number in range(arguments.cases):
        with tempfile.TemporaryDirectory() as folder:
            case = malformed(*draw(rng), Path(folder))
            while not case.malformations:  # a file's malformation, drawn for a dict
                case = malformed(*draw(rng), Path(folder))
            start = time.perf_counter()
            outcome, error = outcome_of(case)
            slowest = max(slowest, time.perf_counter() - start)
        outcomes[outcome] += 1
        errors[type(error).__name__] += 1
        containers[case.container] += 1
        by_malformation.update(case.malformations)
        if outcome != "refused":
            failures.append({"case": number, "malformations": case.malformations, "outcome": outcome, "error": repr(error)})
    report = {
        "command": "python -m benchmarks.fuzz_datasets " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "versions": {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version, "numpy": np.__version__},
        "seed": arguments.seed,
        "cases": arguments.cases,
        "outcomes": dict(outcomes),
        "errors": dict(errors),
        "containers": dict(containers),
        "malformations": dict(sorted(by_malformation.items())),
        "slowest_seconds": round(slowest, 3),
        "failures": failures,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{dict(outcomes)}, slowest {slowest:.3f} s, written to {arguments.out}")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
