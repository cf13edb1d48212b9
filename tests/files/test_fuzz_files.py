"""Damaged files: refused by a clear error, or loaded as they were. The long version is ``make test-slow``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import SAC

from benchmarks.fuzz_files import cut, equal_to, fuzz, fuzz_data, fuzz_models, make_model
from sb3_offline import CQL


def check(found: dict[str, Counter[str]], flips: int) -> None:
    for name, outcomes in found.items():
        allowed = {"refused", "loaded", "untouched"} | ({"loaded changed"} if ".hdf5" in name or "forged" in name else set())
        assert outcomes.keys() <= allowed, (name, outcomes)
        assert outcomes.total() == (flips if "flipped" in name or "forged" in name else max(flips // 4, 1)), (name, outcomes)
        if "cut" in name:
            assert outcomes.keys() == {"refused"}, (name, outcomes)


def test_models(tmp_path: Path) -> None:
    check(fuzz_models(tmp_path, 20, algorithms=(CQL,)), 20)


def test_data(tmp_path: Path) -> None:
    check(fuzz_data(tmp_path, 10, seed=1), 10)


def test_the_harness_sees_what_it_counts(tmp_path: Path) -> None:
    path = make_model(CQL, tmp_path)
    load, same = (lambda damaged: CQL.load(damaged, device="cpu")), equal_to(CQL.load(path, device="cpu"))
    other = CQL.load(path, device="cpu")
    other.critic.q_networks[0][0].weight.data[0, 0] += 1e-6

    def clock(content: bytearray, _: np.random.Generator) -> bytearray:
        content[10] ^= 1  # the time of the first member's local header
        return content

    assert fuzz(path, load, same, clock, 1) == {"loaded": 1}
    assert fuzz(path, load, equal_to(other), clock, 1) == {"loaded changed": 1}
    assert fuzz(path, load, same, lambda content, _: content, 1) == {"untouched": 1}
    assert fuzz(path, lambda damaged: damaged.no_such_thing, same, cut, 1).most_common(1)[0][0].startswith("unexplained")
    pickled = fuzz(path, lambda damaged: SAC.load(damaged, device="cpu"), same, clock, 1)
    assert pickled == {"unpickled": 1}  # SB3's own load
    trusting = fuzz(path, lambda damaged: CQL.load(damaged, device="cpu", trust=True), same, clock, 1)
    assert trusting == {"loaded": 1}  # trust unpickles only what is not plain data


@pytest.mark.slow
def test_two_hundred_of_each(tmp_path: Path) -> None:
    check(fuzz_models(tmp_path, 200) | fuzz_data(tmp_path, 200), 200)
