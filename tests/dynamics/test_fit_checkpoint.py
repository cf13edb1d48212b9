"""A fit of the dynamics that is interrupted goes on to the weights of the uninterrupted one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_offline import COMBO
from sb3_offline.dynamics import EpochStats
from tests.conftest import FAST_DYNAMICS, FAST_MODEL_BASED, Arrays, maker

make = maker(
    COMBO,
    **FAST_MODEL_BASED | {"dynamics_kwargs": FAST_DYNAMICS | {"max_epochs": 6, "patience": 6}, "dynamics_cache": True},
)


def watch(model: COMBO, at: int | None = None, do: Any = None) -> list[int]:
    """Note the epochs of the fit, and do something in one of them."""
    epochs: list[int] = []

    def on_epoch(stats: EpochStats) -> None:
        epochs.append(stats.epoch)
        if stats.epoch == at:
            do()

    model._log_dynamics = on_epoch  # type: ignore[method-assign]
    return epochs


def crash() -> None:
    raise RuntimeError("the power went out")


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def cache() -> Path:
    return Path(os.environ["SB3_OFFLINE_CACHE"])


@pytest.fixture
def expected(pendulum_arrays: Arrays) -> dict[str, th.Tensor]:
    """An uninterrupted fit, that keeps nothing."""
    model = make(pendulum_arrays, dynamics_cache=False)
    model.fit_dynamics()
    return model.dynamics.state_dict()


def same(model: COMBO, expected: dict[str, th.Tensor]) -> bool:
    return all(th.equal(value, expected[name]) for name, value in model.dynamics.state_dict().items())


def test_after_a_crash_the_fit_goes_on(
    pendulum_arrays: Arrays, expected: dict[str, th.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sb3_offline.dynamics.fit_checkpoint.MAX_OVERHEAD", float("inf"))  # written after every epoch
    model = make(pendulum_arrays)
    watch(model, 4, crash)
    with pytest.raises(RuntimeError, match="power"):
        model.fit_dynamics()
    assert [path.name.split(".", 1)[1] for path in cache().iterdir()] == ["fit.resume"]
    again = make(pendulum_arrays)
    epochs = watch(again)
    again.fit_dynamics()
    assert epochs == [4, 5, 6]
    assert same(again, expected)
    assert [path.suffix for path in cache().iterdir()] == [".pt"]  # nothing is left to go on from


def test_ctrl_c_ends_the_epoch_and_keeps_it(
    pendulum_arrays: Arrays, expected: dict[str, th.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    model = make(pendulum_arrays)
    watch(model, 3, press)
    with pytest.raises(KeyboardInterrupt):
        model.learn(5)
    assert "interrupted after epoch 3" in capsys.readouterr().out
    assert not bool(model.dynamics.fitted)
    again = make(pendulum_arrays)
    epochs = watch(again)
    again.learn(5)
    assert epochs == [4, 5, 6]
    assert same(again, expected)


@pytest.mark.parametrize("options", [{"dynamics_cache": False}, {"seed": None}])
def test_ctrl_c_without_a_place_keeps_the_best_so_far(
    options: dict[str, Any],
    pendulum_arrays: Arrays,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = make(pendulum_arrays, **options)
    epochs = watch(model, 2, press)
    with pytest.raises(KeyboardInterrupt):
        model.learn(1)
    path = "interrupted/COMBO_dynamics.pt"
    assert f'model.load_dynamics("{path}") ahead of learn() takes them' in capsys.readouterr().out
    assert epochs == [1, 2]
    assert not model.dynamics.fitted
    model.load_dynamics(path)
    assert watch(model.learn(1)) == []
    assert model.dynamics.fitted


def test_ctrl_c_in_the_last_epoch_keeps_the_fit(pendulum_arrays: Arrays, expected: dict[str, th.Tensor]) -> None:
    model = make(pendulum_arrays)
    watch(model, 6, press)
    with pytest.raises(KeyboardInterrupt):
        model.fit_dynamics()
    again = make(pendulum_arrays)
    epochs = watch(again)
    again.fit_dynamics()
    assert epochs == []
    assert same(again, expected)


def test_a_damaged_or_foreign_file_is_no_beginning(pendulum_arrays: Arrays, expected: dict[str, th.Tensor]) -> None:
    model = make(pendulum_arrays)
    watch(model, 4, crash)
    with pytest.raises(RuntimeError, match="power"):
        model.fit_dynamics()
    (file,) = cache().iterdir()
    whole = file.read_bytes()
    other = make(pendulum_arrays)
    th.rand(3, generator=other.streams["dynamics"])  # a fit that starts elsewhere has other rows
    other.fit_dynamics()
    assert not same(other, expected)
    for content in (whole[:-5], b""):
        for path in cache().iterdir():
            path.unlink()
        file.write_bytes(content)
        again = make(pendulum_arrays)
        epochs = watch(again)
        again.fit_dynamics()
        assert epochs == [1, 2, 3, 4, 5, 6]
        assert same(again, expected)
