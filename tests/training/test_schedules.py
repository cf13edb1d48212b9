"""Learning-rate schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_offline import CQL
from sb3_offline.training.schedules import CosineSchedule, HoldThenDecay, parse_schedule
from tests.conftest import FAST


def test_cosine_by_hand() -> None:
    schedule = CosineSchedule(2.0, 1.0)
    assert [schedule(p) for p in (1.0, 0.5, 0.0)] == pytest.approx([2.0, 1.5, 1.0])
    assert CosineSchedule(1e-4)(0.25) == pytest.approx(1e-4 * (1 - math.cos(math.pi / 4)) / 2)


def test_hold_then_decay_by_hand() -> None:
    schedule = HoldThenDecay(1e-3, 1e-4)
    assert [schedule(p) for p in (1.0, 0.5, 0.25, 0.0)] == pytest.approx([1e-3, 1e-3, 5.5e-4, 1e-4])
    assert [HoldThenDecay(1.0, hold=0.8)(p) for p in (1.0, 0.2, 0.1, 0.0)] == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_schedules_as_yaml_writes_them() -> None:
    assert parse_schedule("cosine_1e-4") == CosineSchedule(1e-4)
    assert parse_schedule("held_3e-4") == HoldThenDecay(3e-4)
    assert parse_schedule("lin_1e-4") is None  # RL-Zoo's own


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda progress: 1e-3 * (progress - 0.1), r"gives -\S+ at 1e-06"),
        (lambda _: float("nan"), "gives nan at 1 of"),
        (lambda _: "1e-3 or so", "fails at 1 of progress remaining: could not convert"),
        (lambda progress: 1e-4 / (progress - 0.5), "fails at 0.5 of progress remaining: float division"),
    ],
)
def test_schedules_are_tried_before_anything_is_fitted(schedule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"qf_learning_rate {message}"):
        CQL("MlpPolicy", "sb3_offline/Pendulum-medium-v0", **FAST, qf_learning_rate=schedule)


def test_negative_rates_are_refused() -> None:
    for make in (CosineSchedule, HoldThenDecay):
        with pytest.raises(ValueError, match="not be negative"):
            make(-1e-4)
    with pytest.raises(ValueError, match="hold must lie in"):
        HoldThenDecay(1e-4, hold=1.0)


def test_it_is_followed_and_saved(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    rates = {"learning_rate": CosineSchedule(1e-3), "qf_learning_rate": 3e-4}
    model = CQL("MlpPolicy", "Pendulum-v1", pendulum_arrays, **rates, **FAST)
    model.learn(4)  # the last update sees 3 of 4 steps done
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(CosineSchedule(1e-3)(0.25))
    assert model.critic.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)
    model.save(tmp_path / "model.zip")
    loaded = CQL.load(tmp_path / "model.zip", device="cpu")
    assert loaded.learning_rate == CosineSchedule(1e-3)
