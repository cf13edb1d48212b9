"""A user's functions: NumPy's are taken, and all are tried before the fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import MOPO
from sb3_offline.dynamics.reward import UserReward
from sb3_offline.dynamics.termination import UserTermination
from tests.conftest import FAST_DYNAMICS, FAST_MODEL_BASED

DATA = "sb3_offline/Pendulum-medium-v0"
ROWS = tuple(th.tensor([[0.0, 0.0, speed] for speed in (-8.0, 0.0, 7.95)]) for _ in range(3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "function",
    [
        lambda _s, _a, n: np.logical_or(n[:, 2] < -7.9, n[:, 2] > 7.9),
        lambda _s, _a, n: np.abs(n[:, 2]) > 7.9,
        lambda _s, _a, n: np.where(np.abs(n[:, 2]) > 7.9, True, False),
        lambda _s, _a, n: np.logical_or.reduce([n[:, 2] < -7.9, n[:, 2] > 7.9]),
        lambda _s, _a, n: n[:, 2].abs() > 7.9,
    ],
)
def test_terminations_in_numpy_and_in_torch(function: Any) -> None:
    ended = UserTermination(function)
    for _ in range(2):
        assert ended(*ROWS).tolist() == [True, False, True]
        assert ended(*ROWS).dtype == th.bool


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "function",
    [lambda _s, _a, n: -np.square(n[:, 2]), lambda _s, _a, n: np.einsum("bi,bi->b", -n, n), lambda _s, _a, n: -(n[:, 2] ** 2)],
)
def test_rewards_in_numpy_and_in_torch(function: Any) -> None:
    np.testing.assert_allclose(UserReward(function)(*ROWS).numpy(), [-64.0, 0.0, -(7.95**2)], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("termination", lambda _s, _a, n: n[:, 2], "must return a tensor or array of bool"),
        ("termination", lambda _s, _a, n: n[:, 9] > 0, "raised IndexError"),
        ("reward", lambda _s, _a, n: n, "must return shape"),
        ("reward", lambda _s, _a, n: n[:, 0] / 0, "must be finite"),
    ],
)
def test_functions_are_tried_before_the_fit(name: str, function: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fit(*_args: Any, **_options: Any) -> None:
        raise AssertionError("fitted first")

    monkeypatch.setattr("sb3_offline.dynamics.world.fit_ensemble", no_fit)
    options = FAST_MODEL_BASED | {"dynamics_kwargs": FAST_DYNAMICS | {name: function}}
    with pytest.raises((ValueError, TypeError), match=message):
        MOPO("MlpPolicy", DATA, **options).learn(1)
