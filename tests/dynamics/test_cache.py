"""A cache hit gives the weights of a miss; damaged and half-written files are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO
from tests.conftest import FAST_MODEL_BASED, Trap, maker

make = maker(COMBO, **FAST_MODEL_BASED | {"dynamics_cache": True})


def equal(one: COMBO, other: COMBO) -> bool:
    pairs = zip(one.dynamics.state_dict().values(), other.dynamics.state_dict().values(), strict=True)
    return all(th.equal(a, b) for a, b in pairs)


def test_hit_equals_miss(pendulum_arrays: dict[str, np.ndarray]) -> None:
    folder = Path(os.environ["SB3_OFFLINE_CACHE"])
    miss = make(pendulum_arrays).learn(5)
    assert len(list(folder.iterdir())) == 1
    hit = make(pendulum_arrays)
    hit._log_dynamics = None  # type: ignore[assignment,method-assign]  # a fit would call it
    hit.learn(5)
    none = make(pendulum_arrays, dynamics_cache=False).learn(5)
    for other in (hit, none):
        assert equal(miss, other)
        for a, b in zip(miss.policy.parameters(), other.policy.parameters(), strict=True):
            assert th.equal(a, b)  # and nothing after the fit depends on where it came from


def test_what_changes_the_fit_changes_the_key(pendulum_arrays: dict[str, np.ndarray]) -> None:
    folder = Path(os.environ["SB3_OFFLINE_CACHE"])
    make(pendulum_arrays).fit_dynamics()
    make(pendulum_arrays, seed=1).fit_dynamics()
    make(pendulum_arrays, dynamics_kwargs=FAST_MODEL_BASED["dynamics_kwargs"] | {"max_epochs": 2}).fit_dynamics()
    make(pendulum_arrays | {"rewards": pendulum_arrays["rewards"] + 1}).fit_dynamics()
    assert len(list(folder.iterdir())) == 4


def test_share_between_runs(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    first = make(pendulum_arrays, dynamics_cache=False)
    with pytest.raises(ValueError, match="not fitted yet"):
        first.save_dynamics(tmp_path / "model.pt")
    first.fit_dynamics()
    first.save_dynamics(tmp_path / "model.pt")
    second = make(pendulum_arrays, seed=5, dynamics_cache=False)
    second.load_dynamics(tmp_path / "model.pt")
    assert equal(first, second)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.pt"]


def test_code_in_a_dynamics_file_is_not_run(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    th.save({"weight": Trap(tmp_path / "trace")}, tmp_path / "dynamics.pt")
    with pytest.raises(ValueError, match=r"dynamics\.pt names .*mkdir, which no tensor needs"):
        make(pendulum_arrays).load_dynamics(tmp_path / "dynamics.pt")
    assert not (tmp_path / "trace").exists()


def test_bad_files(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = make(pendulum_arrays)
    with pytest.raises(ValueError, match="no dynamics file"):
        model.load_dynamics(tmp_path / "missing.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="damaged"):
        model.load_dynamics(tmp_path / "torn.pt")
    other = make(pendulum_arrays, dynamics_kwargs=FAST_MODEL_BASED["dynamics_kwargs"] | {"hidden_sizes": (8,)})
    other.fit_dynamics()
    other.save_dynamics(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other sizes"):
        model.load_dynamics(tmp_path / "other.pt")
