"""The score is a rank among the data's own rows."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO, CQL, DiscreteCQL, DiscreteDROMO
from sb3_offline.deployment import OODDetector
from tests.conftest import FAST, FAST_MODEL_BASED

FIT = {"n_steps": 200}


def fitted_detector(actions: th.Tensor) -> OODDetector:
    """2000 standard normal states in a plane."""
    generator = th.Generator().manual_seed(0)
    detector = OODDetector(2, 1, generator=generator)
    states = th.randn(len(actions), 2, generator=generator) * th.tensor([1.0, 10.0]) + 5.0
    detector.fit(states, actions, actions, None, generator, **FIT)
    return detector


def test_state_ranks_are_those_of_the_mahalanobis_distance() -> None:
    """For a Gaussian in the plane the squared distance is chi-square with 2 degrees: P(d < r) = 1 - exp(-r^2 / 2)."""
    detector = fitted_detector(0.5 * th.rand(20_000, 1) - 0.25)
    radii = th.tensor([0.5, 1.0, 2.0, 3.0])
    states = 5.0 + th.stack([th.zeros(4), 10.0 * radii], dim=1)
    ranks = detector.ranks(states, th.zeros(4, 1), th.zeros(4, 1), None)
    expected = 1.0 - th.exp(-0.5 * radii.square())
    th.testing.assert_close(ranks[0], expected, atol=0.02, rtol=0)


def test_unseen_actions_rank_above_all_data_and_without_dynamics_nothing_is_said_of_them() -> None:
    detector = fitted_detector(0.2 * th.rand(5_000, 1) + 0.3)
    states, seen, unseen = th.full((1, 2), 5.0), th.full((1, 1), 0.4), th.full((1, 1), -0.9)
    assert float(detector.ranks(states, seen, seen, None)[1]) < 0.9
    assert float(detector.ranks(states, unseen, unseen, None)[1]) == 1.0
    assert float(detector.ranks(states, unseen, unseen, None)[2]) == 0.0


def test_ranks_of_the_data_are_uniform(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = COMBO("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST_MODEL_BASED).learn(1)
    model.fit_ood_detector(**FIT)
    observations, actions = (th.as_tensor(pendulum_arrays[name]).float() for name in ("observations", "actions"))
    ranks = model.ood_detector.ranks(observations, actions / 2.0, actions, model.dynamics)
    th.testing.assert_close(ranks.mean(dim=1), th.full((3,), 0.5), atol=0.01, rtol=0)
    th.testing.assert_close((ranks <= 0.9).float().mean(dim=1), th.full((3,), 0.9), atol=0.01, rtol=0)
    scores = model.ood_score(pendulum_arrays["observations"], pendulum_arrays["actions"])
    np.testing.assert_allclose(scores, ranks.amax(dim=0).numpy(), atol=1e-6)
    spinning = np.array([[1.0, 0.0, 80.0]])  # ten times the fastest that Pendulum can turn
    assert model.ood_score(spinning, np.zeros((1, 1)))[0] == 1.0


def test_the_score_survives_save_and_load_without_data(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST).learn(1)
    observation, action = pendulum_arrays["observations"][0], pendulum_arrays["actions"][0]
    with pytest.raises(RuntimeError, match="fit_ood_detector"):
        model.ood_score(observation, action)
    before = [p.clone() for p in model.policy.parameters()]
    model.fit_ood_detector(**FIT)
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    assert loaded.ood_score(observation, action) == model.ood_score(observation, action)
    assert np.ndim(loaded.ood_score(observation, action)) == 0


def test_rows_that_do_not_fit_are_refused(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST).learn(1)
    model.fit_ood_detector(**FIT)
    with pytest.raises(ValueError, match=r"actions must have shape \(1,\) or \(n, 1\), got \(2, 2\)"):
        model.ood_score(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="2 observations, but 3 actions"):
        model.ood_score(np.zeros((2, 3)), np.zeros((3, 1)))


def test_discrete_actions_are_told_what_to_use(cartpole_arrays: dict[str, np.ndarray]) -> None:
    observations, actions = cartpole_arrays["observations"], cartpole_arrays["actions"]
    model = DiscreteCQL("MlpPolicy", "CartPole-v1", dataset=cartpole_arrays, **FAST)
    for call in (lambda: model.ood_score(observations[:3], actions[:3]), model.fit_ood_detector):
        with pytest.raises(ValueError, match=r"as actions .*Discrete\(2\)\. .* DiscreteDROMO .*networks\(\)\.behavior\("):
            call()

    always = cartpole_arrays | {"actions": np.ones_like(actions)}
    dromo = DiscreteDROMO("MlpPolicy", "CartPole-v1", dataset=always, **FAST_MODEL_BASED, behavior_kwargs=FIT).learn(1)
    usual = dromo.networks().behavior(th.as_tensor(observations[:50]))
    assert usual.shape == (50, 2)
    assert usual[:, 1].min() > 0.9  # the data know no other action


def test_dynamics_that_came_after_the_fit_have_no_say(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = COMBO("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST_MODEL_BASED)
    model.fit_ood_detector(**FIT)
    rows = pendulum_arrays["observations"][:50], pendulum_arrays["actions"][:50]
    before = model.ood_score(*rows)
    model.learn(1)
    np.testing.assert_array_equal(model.ood_score(*rows), before)
