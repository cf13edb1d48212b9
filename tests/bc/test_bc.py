"""Behaviour cloning: its losses by hand and against the exact fit, which episodes are cloned, and that it has no critic."""

from __future__ import annotations

import inspect
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC

from sb3_offline import BC, DivergenceGuard
from sb3_offline.diagnostics import NTKCallback
from sb3_offline.networks.gaussian import squashed_gaussian_log_prob
from sb3_offline.networks.networks import Batch
from sb3_offline.networks.policies import GaussianPolicy
from tests.conformance.tables import converge
from tests.conftest import FAST, Arrays, maker

make = maker(BC, **FAST, check_data=False)


def batch_of(states: th.Tensor, actions: th.Tensor) -> Batch:
    nothing = th.zeros(len(actions))
    return Batch(states, actions, states, nothing, nothing, len(actions))


def test_the_losses_by_hand(pendulum_arrays: Arrays) -> None:
    """
    N(0, 1) before tanh: a = 0 costs log(2 pi)/2 = .9189385; a = .5 costs atanh(.5)^2/2 + .9189385 + log(1 - .25) = .7821250.
    mu = (.5, -.5), a = (1, 0): the mean of .25 and .25.
    """
    zeros = th.zeros(2, 1)
    nets: Any = SimpleNamespace(log_prob=lambda _, a: squashed_gaussian_log_prob(zeros, zeros, a))
    batch = batch_of(zeros, th.tensor([[0.0], [0.5]]))
    loss, _ = make(pendulum_arrays).actor_loss(nets, batch, None)
    assert float(loss) == pytest.approx((0.9189385 + 0.7821250) / 2, abs=1e-6)
    nets = SimpleNamespace(action=lambda _: th.tensor([[[0.5]], [[-0.5]]]))
    loss, _ = make(pendulum_arrays, deterministic=True).actor_loss(nets, batch_of(zeros, th.tensor([[1.0], [0.0]])), None)
    assert float(loss) == pytest.approx(0.25)


class Table:
    """One mean and one log std a state, in the place of the actor; states are indices."""

    def __init__(self) -> None:
        self.mean = th.zeros(3, 2, dtype=th.float64, requires_grad=True)
        self.log_std = th.zeros(3, 2, dtype=th.float64, requires_grad=True)

    def log_prob(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        row = states[:, 0].long()
        return squashed_gaussian_log_prob(self.mean[row], self.log_std[row], actions)

    def action(self, states: th.Tensor) -> th.Tensor:
        return self.mean[states[:, 0].long()].unsqueeze(1)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_minimum_is_the_exact_fit(deterministic: bool, pendulum_arrays: Arrays) -> None:
    """In each state the mean and the standard deviation of atanh(a), or the mean of a."""
    rng = np.random.default_rng(0)
    states, actions = rng.integers(0, 3, size=60), rng.uniform(-0.9, 0.9, size=(60, 2))
    model, nets = make(pendulum_arrays, deterministic=deterministic), Table()
    batch = batch_of(th.tensor(states, dtype=th.float64).unsqueeze(1), th.tensor(actions))
    converge([nets.mean, nets.log_std], lambda: model.actor_loss(nets, batch, None)[0])
    for state in range(3):
        logged = actions[states == state]
        logged = logged if deterministic else np.arctanh(logged)
        np.testing.assert_allclose(nets.mean[state].detach(), logged.mean(axis=0), atol=1e-4)
        if not deterministic:
            np.testing.assert_allclose(nets.log_std[state].detach().exp(), logged.std(axis=0), atol=1e-4)


@pytest.mark.parametrize("deterministic", [False, True])
def test_it_clones(deterministic: bool, pendulum_arrays: Arrays) -> None:
    """A policy that is a function of the state comes back."""
    policy = np.tanh(pendulum_arrays["observations"][:, 1:2] - 0.5)
    data = pendulum_arrays | {"actions": 2 * policy.astype(np.float32)}
    model = make(data, deterministic=deterministic).learn(400)
    actions, _ = model.predict(data["observations"], deterministic=True)
    assert float(np.abs(actions - data["actions"]).mean()) < 0.1


def test_actions_that_never_vary_are_no_density_without_bounds(pendulum_arrays: Arrays) -> None:
    """At the end of the box, too: log pi stays below the 17.2 nats that log std in [-5, 2] leaves."""
    data = pendulum_arrays | {"actions": np.full_like(pendulum_arrays["actions"], 2.0)}
    model = make(data, learning_rate=0.05).learn(300)
    batch = model.sample_batch()
    loss, _ = model.actor_loss(model.networks(), batch, None)
    assert -17.5 < float(loss.detach()) < -10
    assert model.predict(data["observations"][0], deterministic=True)[0] == pytest.approx(2.0, abs=0.01)


# --- which episodes ---


def episodes(returns: list[float], length: int = 5) -> Arrays:
    """Episodes whose observations hold their number."""
    n = len(returns) * length
    number = np.repeat(np.arange(len(returns)), length)
    rows = np.stack([number, np.arange(n) % length, np.zeros(n)], axis=1).astype(np.float32)
    return {
        "observations": rows,
        "next_observations": rows,
        "actions": np.random.default_rng(0).uniform(-1, 1, size=(n, 1)).astype(np.float32),
        "rewards": np.repeat(np.asarray(returns, dtype=np.float32) / length, length),
        "terminations": np.zeros(n, dtype=bool),
        "truncations": np.arange(n) % length == length - 1,
    }


@pytest.mark.parametrize(("percent", "expected"), [(50.0, {1, 3}), (10.0, {3}), (75, {1, 3, 0}), (100.0, {0, 1, 2, 3})])
def test_the_best_episodes(percent: float, expected: set[int]) -> None:
    """Of four returns -3, 5, -9, 8."""
    model = make(episodes([-3.0, 5.0, -9.0, 8.0]), top_percent=percent).learn(1)
    drawn = {int(row) for _ in range(5) for row in model.sample_batch().observations[:, 0]}
    assert drawn == expected


@pytest.mark.parametrize("percent", [0.0, -1.0, 101.0, float("nan"), "10"])
def test_a_percentage_that_cannot_be_is_refused(percent: Any, pendulum_arrays: Arrays) -> None:
    with pytest.raises((TypeError, ValueError), match="top_percent must"):
        make(pendulum_arrays, top_percent=percent)


# --- weights ---


@pytest.mark.parametrize("weights", [np.r_[np.zeros(10), np.ones(10)], np.arange(20)])
def test_weights_by_a_column(weights: np.ndarray, tmp_path: Path) -> None:
    """The same episode four times over, each time with another action: the clone does their weighted mean."""
    data = episodes([1.0] * 4)
    data["observations"][:, 0] = data["next_observations"][:, 0] = 0.0
    data["actions"] = np.repeat(np.float32([[-1.6], [0.4], [1.0], [-0.6]]), 5, axis=0)
    model = make(data, weights=weights, deterministic=True, learning_rate=3e-3, batch_size=256).learn(400)
    for step in range(5):
        same_state = slice(step, None, 5)
        expected = np.average(data["actions"][same_state, 0], weights=weights[same_state])
        assert model.predict(data["observations"][step], deterministic=True)[0] == pytest.approx(expected, abs=0.08)
    drawn = [model.sample_batch() for _ in range(50)]
    assert float(th.cat([batch.weights for batch in drawn]).mean()) == pytest.approx(1.0, abs=0.03)
    model.save(tmp_path / "model")
    loaded = BC.load(tmp_path / "model", device="cpu")
    loaded.dataset = data
    with pytest.raises(ValueError, match=r"learns with weights, which no file keeps: give BC.load\(path, weights="):
        loaded.learn(1)
    make(data).learn(1).save(tmp_path / "plain")
    for name in ("model", "plain"):
        again = BC.load(tmp_path / name, device="cpu", weights=weights.tolist())
        again.dataset = data
        again.learn(1)
        assert float(again.row_weights.mean()) == pytest.approx(1.0)


def test_weights_that_cannot_be_are_refused(pendulum_arrays: Arrays) -> None:
    for weights, message in (
        (np.full(1000, -1.0), "row 0 has -1.0"),
        ([1.0, float("nan")], "row 1 has nan"),
        (np.zeros(1000), "must not all be 0"),
        (np.ones((1000, 1)), r"one number a row, \(n,\)"),
        ("quality", "one number a row"),
    ):
        with pytest.raises(ValueError, match=message):
            make(pendulum_arrays, weights=weights)
    with pytest.raises(ValueError, match=r"weights are of 7 rows, and arrays has 1,000"):
        make(pendulum_arrays, weights=np.ones(7)).learn(1)
    with pytest.raises(ValueError, match="validation= as a share"):
        make(pendulum_arrays, weights=np.ones(1000)).learn(1, validation=0.5)


# --- no critic ---


def test_nothing_of_a_critic(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    words = ("critic", "qf", "q_net", "target", "tau", "conservative", "ent_coef")
    assert not [name for name in inspect.signature(BC).parameters if any(word in name for word in words)]
    model = make(pendulum_arrays).learn(3)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        saved = [*json.loads(file.read("data")), *file.namelist(), *model.policy.state_dict()]
    assert not [name for name in saved if any(word in name for word in (*words[:4], "tau"))]
    assert not any(hasattr(model, name) for name in ("critic", "critic_target", "qf_learning_rate"))
    for name in ("n_critics", "layer_norm"):
        with pytest.raises(TypeError, match=f"ClonePolicy takes no '{name}'"):
            make(pendulum_arrays, policy_kwargs={name: 1})
    with pytest.raises(ValueError, match="net_arch is of the only network here"):
        make(pendulum_arrays, policy_kwargs={"net_arch": {"pi": [8], "qf": [8]}})
    with pytest.raises(ValueError, match="GaussianPolicy must be a child of ClonePolicy"):
        BC(GaussianPolicy, "Pendulum-v1", dataset=pendulum_arrays, **FAST)
    with pytest.raises(TypeError, match="watches values, and BC has none"):
        model.learn(1, callback=DivergenceGuard())
    with pytest.raises(TypeError, match="BC has no critic known here"):
        model.learn(1, callback=NTKCallback())


def test_what_held_out_episodes_say(pendulum_arrays: Arrays) -> None:
    """The mean log-density of SB3's own squashed Gaussian."""
    model = make(pendulum_arrays).learn(20, validation=0.5)
    rows = model.validation
    with th.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(rows.observations)
        density = model.actor.action_dist.proba_distribution(mean, log_std).log_prob(rows.actions)
    # SB3 adds 1e-6 within its logarithm of 1 - a^2
    assert rows.figures() == pytest.approx({"likelihood": float(density.mean())}, rel=1e-3)
    model = make(pendulum_arrays, deterministic=True).learn(20, validation=0.5)
    rows = model.validation
    squares = (model.actor(rows.observations) - rows.actions).square().mean()
    assert rows.figures() == pytest.approx({"likelihood": -float(squares.detach())})


# --- online ---


@pytest.mark.parametrize("standardised", [True, False])
def test_to_sac(standardised: bool, pendulum_arrays: Arrays) -> None:
    kwargs = {"net_arch": [32, 32], "normalize_observations": standardised}
    model = make(pendulum_arrays, policy_kwargs=kwargs, batch_size=32).learn(20)
    sac = model.to_sac(learning_starts=10, buffer_size=100)
    assert type(sac) is SAC
    assert (sac.learning_rate, sac.batch_size, sac.gamma) == (3e-4, 32, model.gamma)
    rows = pendulum_arrays["observations"][:20]
    expected, found = (m.predict(rows, deterministic=True)[0] for m in (model, sac))
    np.testing.assert_array_equal(expected, found)
    if standardised:  # the critics see what the actor does
        for critic in (sac.critic, sac.critic_target):
            assert th.equal(critic.features_extractor.std, model.actor.features_extractor.std)  # type: ignore[arg-type]
    sac.learn(20)
    assert sac._n_updates == 10
    with pytest.raises(ValueError, match="needs an actor that samples"):
        make(pendulum_arrays, deterministic=True).to_sac()
