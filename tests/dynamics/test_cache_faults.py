"""The cache is a convenience: whatever is wrong with it is warned of, and the fit is what it would have been."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO
from sb3_offline.files.checksum import read_checked, write_checked
from tests.conftest import FAST_MODEL_BASED, Arrays, beyond, maker

make = maker(COMBO, **FAST_MODEL_BASED | {"dynamics_cache": True, "check_data": False})


def fitted(arrays: Arrays, **options: Any) -> dict[str, th.Tensor]:
    model = make(arrays, **options)
    model.fit_dynamics()
    return model.dynamics.state_dict()


def same(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> bool:
    return all(th.equal(value, other[name]) for name, value in one.items())


def cache() -> Path:
    return Path(os.environ["SB3_OFFLINE_CACHE"])


def rewrite(path: Path, content: Any, label: str = "") -> None:
    with path.open("w+b") as file:
        write_checked(file, content, label or path.stem)


def test_no_flipped_bit_is_taken(pendulum_arrays: Arrays) -> None:
    expected = fitted(pendulum_arrays)
    (path,) = cache().iterdir()
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    model = make(pendulum_arrays)
    before = {name: value.clone() for name, value in model.dynamics.state_dict().items()}
    for position in rng.integers(len(whole) * 8, size=100):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged|no zip"):
            model.load_dynamics(path)
        assert same(before, model.dynamics.state_dict())
    path.write_bytes(whole)
    model.load_dynamics(path)
    assert same(expected, model.dynamics.state_dict())


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("weights.0", float("nan"), r"holds numbers that are not finite, in weights\.0"),
        ("residual_std", float("inf"), "holds numbers that are not finite, in residual_std"),
        ("elites", 10**9, "names elites that there are not"),
        ("elites", -1, "names elites that there are not"),
    ],
)
def test_forged_numbers_of_a_fit_are_refused(
    name: str, number: float, message: str, pendulum_arrays: Arrays, tmp_path: Path
) -> None:
    model = make(pendulum_arrays, dynamics_cache=False)
    model.fit_dynamics()
    model.save_dynamics(tmp_path / "fit.pt")
    content = read_checked(tmp_path / "fit.pt")
    content["dynamics"][name].fill_(number)
    rewrite(tmp_path / "fit.pt", content)
    with pytest.raises(ValueError, match=message):
        model.load_dynamics(tmp_path / "fit.pt")


def test_a_flipped_bit_of_an_earlier_versions_file(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    state, rng = fitted(pendulum_arrays), np.random.default_rng(0)
    th.save(state, tmp_path / "old.pt")
    model, whole = make(pendulum_arrays, dynamics_cache=False), (tmp_path / "old.pt").read_bytes()
    model.load_dynamics(tmp_path / "old.pt")
    for position in rng.integers(len(whole) * 8, size=100):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        (tmp_path / "old.pt").write_bytes(damaged)
        try:
            model.load_dynamics(tmp_path / "old.pt")
        except ValueError:
            continue
        assert same(state, model.dynamics.state_dict())  # of the archive's padding and dates


def another(path: Path, arrays: Arrays) -> None:
    """The fit of other data, under this one's name."""
    fitted(arrays | {"rewards": arrays["rewards"] + 1})
    (other,) = (file for file in cache().iterdir() if file != path)
    shutil.move(other, path)


def without(path: Path, key: str) -> None:
    rewrite(path, {name: value for name, value in read_checked(path).items() if name != key})


def reshaped(path: Path, _: Arrays) -> None:
    content = read_checked(path)
    content["dynamics"]["input_mean"] = th.zeros(1).expand(content["dynamics"]["input_mean"].shape[0] + 1).clone()
    rewrite(path, content)


BAD: dict[str, Callable[[Path, Arrays], Any]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "torn": lambda path, _: path.write_bytes(path.read_bytes()[:1000]),
    "text": lambda path, _: path.write_text("not a fit"),
    "a flipped bit": lambda path, _: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "another's": another,
    "without the weights": lambda path, _: without(path, "dynamics"),
    "of other sizes": reshaped,
    "streams of text": lambda path, _: rewrite(path, read_checked(path) | {"ends": {"dynamics": "x"}}),
    "streams of no size": lambda path, _: rewrite(path, read_checked(path) | {"ends": {"dynamics": th.zeros(3)}}),
    "a broken link": lambda path, _: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", BAD.values(), ids=BAD.keys())
def test_a_bad_entry_is_fitted_over(damage: Callable[[Path, Arrays], Any], pendulum_arrays: Arrays) -> None:
    expected = fitted(pendulum_arrays)
    (path,) = cache().iterdir()
    damage(path, pendulum_arrays)
    with pytest.warns(UserWarning, match="is not taken, and fitted anew"):
        assert same(expected, fitted(pendulum_arrays))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert same(expected, fitted(pendulum_arrays))  # from the entry that was mended


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_and_a_folder_for_an_entry(pendulum_arrays: Arrays) -> None:
    expected = fitted(pendulum_arrays)
    (path,) = cache().iterdir()
    path.unlink()
    os.mkfifo(path)
    with pytest.warns(UserWarning, match="a device or a pipe"):
        assert same(expected, fitted(pendulum_arrays))
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match=r"is not taken|are not kept"):
        assert same(expected, fitted(pendulum_arrays))


def no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SB3_OFFLINE_CACHE", str(tmp_path / "file" / "cache"))


def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SB3_OFFLINE_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: "~/.cache/sb3_offline")
    monkeypatch.chdir(tmp_path)


def full_disk(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for module in ("cache", "fit_checkpoint"):
        monkeypatch.setattr(f"sb3_offline.dynamics.{module}.write_atomically", refuse)


def long_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SB3_OFFLINE_CACHE", str(tmp_path / ("x" * 300)))


@pytest.mark.parametrize("fault", [no_folder, no_home, full_disk, long_name])
def test_without_a_place_the_run_goes_on(
    fault: Callable[[pytest.MonkeyPatch, Path], None], pendulum_arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fitted(pendulum_arrays, dynamics_cache=False)
    fault(monkeypatch, tmp_path)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"are not kept|is not kept"):
            assert same(expected, fitted(pendulum_arrays))
    assert not (tmp_path / "~").exists()


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="the superuser may write everywhere")
def test_a_read_only_folder(pendulum_arrays: Arrays) -> None:
    expected = fitted(pendulum_arrays, dynamics_cache=False)
    cache().mkdir(exist_ok=True)
    cache().chmod(0o500)
    with pytest.warns(UserWarning, match="not kept"):
        assert same(expected, fitted(pendulum_arrays))
    cache().chmod(0o700)


def test_a_hit_leaves_the_random_streams_where_the_fit_does(pendulum_arrays: Arrays) -> None:
    miss, hit, none = make(pendulum_arrays), make(pendulum_arrays), make(pendulum_arrays, dynamics_cache=False)
    states = []
    for model in (miss, hit, none):
        model.learn(3)
        states.append(model.streams.state()["generators"])
    assert "dynamics" in states[0]
    for other in states[1:]:
        assert states[0].keys() == other.keys()
        assert same(states[0], other)


def test_numbers_that_are_not_finite_are_not_saved(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(pendulum_arrays, dynamics_cache=False)
    model.fit_dynamics()
    for name in ("input_mean", "residual_std"):
        good = getattr(model.dynamics, name).clone()
        getattr(model.dynamics, name)[0] = float("nan")
        with pytest.raises(ValueError, match=f"{name} hold numbers that are not finite"):
            model.save_dynamics(tmp_path / "bad.pt")
        getattr(model.dynamics, name).copy_(good)
    assert list(tmp_path.iterdir()) == []
    model.save_dynamics(tmp_path / "good.pt")


FORGED = [None, -1, "x", [th.zeros(1)], {"state": {}, "param_groups": []}]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *product(("start", "tensors", "optimizer", "generator", "epoch", "stale"), FORGED),
        pytest.param("generator", beyond, id="generator-beyond"),
    ],
    ids=str,
)
def test_a_forged_state_of_a_fit_is_no_beginning(key: str, value: Any, pendulum_arrays: Arrays) -> None:
    options = {"dynamics_kwargs": FAST_MODEL_BASED["dynamics_kwargs"] | {"max_epochs": 3, "patience": 3}}
    expected = fitted(pendulum_arrays, dynamics_cache=False, **options)
    model = make(pendulum_arrays, **options)
    model._log_dynamics = lambda stats: 1 / (2 - stats.epoch)  # type: ignore[assignment,method-assign,return-value]
    with pytest.raises(ZeroDivisionError):
        model.fit_dynamics()
    (path,) = cache().glob("*.resume")
    content = read_checked(path)
    rewrite(path, content | {key: value(content[key]) if callable(value) else value})
    assert same(expected, fitted(pendulum_arrays, **options))
