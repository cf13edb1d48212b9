"""AWAC: weights and losses by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import AWAC
from sb3_offline.awac.awac import AWACNoise
from sb3_offline.networks.gaussian import gaussian_log_prob
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays, maker

make = maker(AWAC, **FAST, check_data=False)


def test_the_weights_by_hand(pendulum_arrays: Arrays) -> None:
    advantages = th.tensor([0.0, 1.0, 2.0])
    th.testing.assert_close(make(pendulum_arrays, temperature=1.0).weights(advantages), th.tensor([1.0, 2.718282, 7.389056]))
    normalised = make(pendulum_arrays, temperature=1.0, normalize_weights=True).weights(advantages)
    th.testing.assert_close(normalised, th.tensor([0.270092, 0.734185, 1.995723]), atol=2e-6, rtol=0)
    th.testing.assert_close(
        make(pendulum_arrays, temperature=2.0, max_weight=2.0).weights(advantages)[1:], th.tensor([1.648721, 2.0])
    )


def stand_in(q_logged: list[float], q_own: list[float], log_prob: th.Tensor) -> Any:
    """The first critic values logged actions (1.0) and own ones (-1.0) as told; the second 10 more."""

    def q(_: Any, actions: th.Tensor) -> th.Tensor:
        logged, own = th.tensor(q_logged).unsqueeze(1), th.tensor(q_own).unsqueeze(1)
        first = th.where(actions[..., 0] == 1.0, logged, own)
        return th.stack([first, first + 10.0])

    return SimpleNamespace(act=lambda _, noise: th.full_like(noise, -1.0), q=q, q_target=q, log_prob=lambda *_: log_prob)


def test_the_actors_loss_and_the_target_by_hand(pendulum_arrays: Arrays) -> None:
    """A = (3 - 3, 2 - 1, 5 - 3) = (0, 1, 2); y = r + .9 (1 - done) Q'(s', a')."""
    model = make(pendulum_arrays, gamma=0.9, temperature=1.0)
    log_prob = th.tensor([[-1.0], [-2.0], [-3.0]], requires_grad=True)
    nets = stand_in([3.0, 2.0, 5.0], [3.0, 1.0, 3.0], log_prob)
    batch = Batch(None, th.ones(3, 1), None, th.tensor([1.0, 2.0, 3.0]), th.tensor([0.0, 0.0, 1.0]), 3)
    noise = AWACNoise(th.zeros(3, 1, 1), th.zeros(3, 1, 1))
    loss, _ = model.actor_loss(nets, batch, noise)
    (slope,) = th.autograd.grad(loss, log_prob)
    th.testing.assert_close(-3 * slope.flatten(), th.tensor([1.0, 2.718282, 7.389056]))
    assert float(loss.detach()) == pytest.approx((1.0 + 2 * 2.718282 + 3 * 7.389056) / 3)
    th.testing.assert_close(model.td_target(nets, batch, noise), th.tensor([1.0 + 2.7, 2.0 + 0.9, 3.0]))


@pytest.mark.parametrize("options", [{}, {"max_weight": 2.0}, {"normalize_weights": True}])
def test_the_actors_minimum_is_the_weighted_fit(options: dict[str, Any], pendulum_arrays: Arrays) -> None:
    """Mean and deviation of the logged actions, weighed by exp(A / lambda)."""
    rng = np.random.default_rng(0)
    logged = rng.uniform(-0.9, 0.9, size=30)
    advantages = logged + rng.normal(size=30)
    model = make(pendulum_arrays, temperature=0.8, **options)
    mean, log_std = (th.zeros(1, 1, dtype=th.float64, requires_grad=True) for _ in range(2))

    def q(*_: Any) -> th.Tensor:  # of the logged action A, of its own 0
        return th.stack([th.tensor(advantages), th.zeros(30, dtype=th.float64)], dim=1).unsqueeze(0)

    nets: Any = SimpleNamespace(
        act=lambda _, noise: noise, q=q, log_prob=lambda _, a: gaussian_log_prob(mean.expand(30, 1), log_std.expand(30, 1), a)
    )
    actions, noise = th.tensor(logged).unsqueeze(1), th.zeros(30, 1, 1, dtype=th.float64)
    batch = Batch(None, actions, None, th.zeros(30), th.zeros(30), 30)
    optimizer = th.optim.LBFGS([mean, log_std], max_iter=500, tolerance_grad=1e-11, line_search_fn="strong_wolfe")

    def closure() -> th.Tensor:
        optimizer.zero_grad()
        loss, _ = model.actor_loss(nets, batch, AWACNoise(noise, noise))
        loss.backward()
        return loss

    optimizer.step(closure)
    weights = np.minimum(np.exp(advantages / 0.8), options.get("max_weight", 100.0))
    expected = np.average(logged, weights=weights)
    assert float(mean.detach()) == pytest.approx(expected, abs=1e-4)
    deviation = np.sqrt(np.average((logged - expected) ** 2, weights=weights))
    assert float(log_std.detach().exp()) == pytest.approx(deviation, abs=1e-4)
    assert abs(expected - logged.mean()) > 0.1  # the weights do something


def test_a_temperature_that_is_large_clones(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, temperature=1e9).learn(2)
    batch = model.sample_batch()
    nets = model.networks()
    loss, _ = model.actor_loss(nets, batch, model.draw_noise(batch))
    likelihood = nets.log_prob(batch.observations, batch.actions.unsqueeze(1)).mean()
    th.testing.assert_close(loss, -likelihood)


def test_it_goes_on_online(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(5)
    model.learn_online(30, learning_starts=10)
    assert model._n_updates == 5 + 20


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"max_weight": -1.0}])
def test_options_that_cannot_be_are_refused(options: dict[str, float], pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        make(pendulum_arrays, **options)
