"""The demo writes what it says, and tries its folder before it spends time."""

from __future__ import annotations

import csv
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from sb3_offline import DROMO
from sb3_offline.evaluation import demo
from tests.conftest import FAST_DYNAMICS

QUICK = {
    "policy_kwargs": {"net_arch": [8]},
    "batch_size": 16,
    "dynamics_kwargs": FAST_DYNAMICS | {"max_epochs": 1},
    "behavior_kwargs": {"hidden_sizes": (8,), "n_steps": 20},
    "rollout_batch_size": 50,
}


def curve(folder: Path) -> list[list[str]]:
    with (folder / "learning_curve.csv").open() as file:
        return list(csv.reader(file))


def test_demo_writes_model_logs_and_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "DEMO_OPTIONS", QUICK)
    score = demo.run_demo("sb3_offline/Pendulum-medium-replay-v0", 20, 10, seed=0, output=tmp_path / "out")
    printed = capsys.readouterr().out
    assert score is not None
    assert f"{score:.1f}" in printed
    for row in ("the data's mean return", "behaviour clone", "DROMO", "reference"):
        assert row in printed
    assert "39.1" in printed  # the data's own normalised score
    for name in ("dromo.zip", "learning_curve.csv", "learning_curve.png", "evaluations.npz"):
        assert (tmp_path / "out" / name).stat().st_size > 100 or name.endswith(".csv")
    assert list((tmp_path / "out" / "tensorboard").glob("DROMO_1/events*"))
    assert [row[0] for row in curve(tmp_path / "out")] == ["step", "10", "20"]
    model = DROMO.load(tmp_path / "out" / "dromo", device="cpu")
    observation, _ = gym.make("Pendulum-v1").reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert -2.0 <= action[0] <= 2.0


def test_fewer_steps_than_between_evaluations_are_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end; and the curve is of this run, whatever an earlier one has left in the folder."""
    monkeypatch.setattr(demo, "DEMO_OPTIONS", QUICK)
    np.savez(tmp_path / "evaluations.npz", timesteps=[7], results=[[-1.0] * 10])
    demo.run_demo("sb3_offline/Pendulum-medium-replay-v0", 5, 1000, 0, tmp_path)
    header, (step, mean_return) = curve(tmp_path)
    assert (header, step) == (["step", "mean_return"], "5")
    with np.load(tmp_path / "evaluations.npz") as evaluations:
        assert float(mean_return) == pytest.approx(evaluations["results"].mean())


@pytest.mark.parametrize(("steps", "eval_freq", "option"), [(0, 10, "steps"), (-5, 10, "steps"), (10, 0, "eval-freq")])
def test_steps_that_are_none_are_refused(steps: int, eval_freq: int, option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--{option} must be at least 1"):
        demo.run_demo("sb3_offline/Pendulum-medium-replay-v0", steps, eval_freq, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unwritable_output_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*--output"):
        demo.run_demo("sb3_offline/Pendulum-medium-replay-v0", 10**9, 1000, 0, tmp_path / "file" / "out")


def test_behaviour_clone_acts_in_the_tasks_units(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """Pendulum's +-2: data whose action is always 1.5 gives a clone that acts 1.5."""
    arrays = pendulum_arrays | {"actions": np.full_like(pendulum_arrays["actions"], 1.5)}
    model = DROMO(
        "MlpPolicy",
        env="Pendulum-v1",
        dataset=arrays,
        seed=0,
        dynamics_kwargs=FAST_DYNAMICS,
        behavior_kwargs={"n_steps": 1500, "hidden_sizes": (16,)},
        rollout_batch_size=50,
        dynamics_cache=False,
        robust_weight=0.5,
        device="cpu",
    ).learn(1)
    action, _ = demo.BehaviorClone(model).predict(pendulum_arrays["observations"][:20])
    np.testing.assert_allclose(action, 1.5, atol=0.1)
