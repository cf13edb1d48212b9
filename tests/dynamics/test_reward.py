"""A known reward function: what imagined transitions pay, and what the callable may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO
from sb3_offline.dynamics import DynamicsConfig, resolve_reward
from sb3_offline.dynamics.cache import cache_key
from tests.conftest import FAST_MODEL_BASED

BATCH = (th.zeros(4, 2), th.ones(4, 1), th.arange(8.0).reshape(4, 2))


def pendulum_reward(obs: th.Tensor, act: th.Tensor, _next_obs: th.Tensor) -> th.Tensor:
    """Gymnasium's Pendulum: -(theta^2 + .1 thetadot^2 + .001 torque^2)."""
    return -(th.atan2(obs[:, 1], obs[:, 0]) ** 2 + 0.1 * obs[:, 2] ** 2 + 0.001 * act[:, 0] ** 2)


@pytest.mark.parametrize("in_numpy", [False, True])
def test_imagined_transitions_pay_it(pendulum_arrays: dict[str, np.ndarray], in_numpy: bool) -> None:
    def by_numpy(obs: np.ndarray, act: np.ndarray, _next_obs: np.ndarray) -> np.ndarray:
        return -(np.arctan2(*obs[:, 1::-1].astype(np.float64).T) ** 2 + 0.1 * obs[:, 2] ** 2 + 0.001 * act[:, 0] ** 2)

    options = FAST_MODEL_BASED | {"reward_scale": 0.5}
    options["dynamics_kwargs"] = {**options["dynamics_kwargs"], "reward": by_numpy if in_numpy else pendulum_reward}
    model = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(1)
    buffer, n = model.model_buffer, model.model_buffer.size()
    torques = 2.0 * buffer.actions[:n]
    expected = pendulum_reward(buffer.observations[:n], torques, buffer.next_observations[:n])
    th.testing.assert_close(buffer.rewards[:n], expected, rtol=1e-4, atol=1e-4)  # the task's own
    drawn = buffer.sample(64)
    assert (
        drawn.rewards - 0.5 * pendulum_reward(drawn.observations, 2.0 * drawn.actions, drawn.observations)[:, None]
    ).abs().max() < 1e-3


def test_the_fit_is_the_same_with_and_without() -> None:
    def key(config: DynamicsConfig) -> str:
        return cache_key("data", config, 0, "1", th.device("cpu"))

    assert key(DynamicsConfig(reward=pendulum_reward)) == key(DynamicsConfig())
    assert resolve_reward(None) is None


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda _obs, _act, next_obs: next_obs, ValueError, r"reward callable.*must return shape \(4,\).*returned \(4, 2\)"),
        (lambda _obs, _act, next_obs: next_obs[:, 0] > 3, TypeError, "numbers.*bool"),
        (lambda *_: 1.0, TypeError, "numbers.*float"),
        (lambda _obs, _act, next_obs: next_obs[:, 0] / 0, ValueError, "returned nan in row 0: rewards must be finite"),
    ],
)
def test_a_wrong_return_value_is_explained(function: Any, error: type[Exception], message: str) -> None:
    reward = resolve_reward(function)
    assert reward is not None
    with pytest.raises(error, match=message):
        reward(*BATCH)


def test_whole_numbers_and_columns_will_do() -> None:
    reward = resolve_reward(lambda _obs, _act, next_obs: next_obs[:, :1].long())
    assert reward is not None
    assert reward(*BATCH).tolist() == [0.0, 2.0, 4.0, 6.0]


def test_what_is_no_callable_is_refused() -> None:
    with pytest.raises(TypeError, match=r"dynamics_kwargs\['reward'\] must be a callable"):
        DynamicsConfig.from_kwargs({"reward": "known"})
