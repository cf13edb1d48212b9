"""Model-based learning with discrete actions: what the model sees, what rollouts hold, and COMBO inside DROMO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_offline import DiscreteCOMBO, DiscreteDROMO, load_dataset
from sb3_offline.dynamics.actions import encode_actions, encoded_action_dim
from sb3_offline.dynamics.world import Columns
from tests.conftest import EQ_8, Arrays, fast_options


def make(algorithm: type, arrays: Any, **options: Any) -> Any:
    dataset = load_dataset(arrays, env_id="CartPole-v1")  # whose rule of termination is known
    return algorithm("MlpPolicy", dataset=dataset, **(fast_options(algorithm) | options))


def test_actions_are_one_hot_for_the_model(cartpole_arrays: Arrays) -> None:
    dataset = load_dataset(cartpole_arrays, env_id="CartPole-v1")
    encoded = encode_actions(dataset.actions, dataset.action_space)
    assert encoded.dtype == np.float32
    assert encoded_action_dim(dataset.action_space) == 2
    np.testing.assert_array_equal(encoded[:, 1], cartpole_arrays["actions"])
    np.testing.assert_array_equal(encoded.sum(axis=1), 1.0)
    columns = Columns.of(dataset, np.arange(3), th.device("cpu"))
    np.testing.assert_array_equal(columns.actions.numpy(), encoded[:3])


@pytest.mark.parametrize("rollout_policy", ["current", "target", "uniform"])
def test_rollouts(cartpole_arrays: Arrays, rollout_policy: str) -> None:
    """Whose actions fill the model's buffer: Q's, the target's (made to differ), or both alike; none beyond the end."""
    model = make(DiscreteCOMBO, cartpole_arrays, rollout_policy=rollout_policy, rollout_length=3).learn(1)
    with th.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter.neg_()
    model.model_buffer.reset()
    model.rollout_model()
    rows = model.model_buffer.sample(200)
    assert rows.actions.shape == (200, 1)
    assert rows.actions.dtype == th.int64
    nets = model.networks()
    if rollout_policy == "uniform":
        assert 0.35 < float(rows.actions.double().mean()) < 0.65
    else:
        q = nets.q(rows.observations) if rollout_policy == "current" else nets.q_target(rows.observations)
        assert th.equal(rows.actions[:, 0], q[0].argmax(dim=1))
    x, angle = rows.next_observations[:, 0], rows.next_observations[:, 2]
    fallen = (x.abs() > 2.4) | (angle.abs() > 12 * np.pi / 180)
    assert th.equal(rows.dones[:, 0].bool(), fallen)  # CartPole's own rule


def test_a_learned_weight_keeps_combos_bounds(cartpole_arrays: Arrays) -> None:
    """[1e-6, 1e3], in DROMO too."""
    for algorithm in (DiscreteCOMBO, DiscreteDROMO):
        model = make(algorithm, cartpole_arrays, target_gap=1.0)
        model.log_conservative_weight.data.fill_(20.0)
        assert float(model.terms[0].weight()) == pytest.approx(1e3)


@pytest.mark.parametrize(("options", "first", "soft"), [(EQ_8, 16, False), ({}, 0, True)])
def test_penalty_by_hand(cartpole_arrays: Arrays, options: dict[str, Any], first: int, soft: bool) -> None:
    """
    beta (mean of max Q, or of log sum exp Q, over the model's rows, or all, - mean over the data's rows of Q(s, a)): Eq 8, and
    the default.
    """
    model = make(DiscreteCOMBO, cartpole_arrays, conservative_weight=0.3, real_ratio=0.25, **options).learn(1)
    nets, batch = model.networks(), model.sample_batch()
    q = nets.q(batch.observations)[0].detach()
    taken = q.gather(1, batch.actions)[:, 0]
    penalty, _ = model.critic_penalty(nets, batch, None, taken[None])
    assert batch.n_real == 16
    value = q[first:].exp().sum(dim=1).log() if soft else q[first:].max(dim=1).values
    assert float(penalty.detach()) == pytest.approx(0.3 * float(value.mean() - taken[:16].mean()), rel=1e-4)


def test_variance_is_exact(cartpole_arrays: Arrays) -> None:
    """sum p q^2 - (sum p q)^2, p = f pi_beta + (1 - f) greedy."""
    model = make(DiscreteDROMO, cartpole_arrays, real_ratio=0.25).learn(1)
    nets, batch = model.networks(), model.sample_batch()
    with th.no_grad():
        q = nets.q(batch.observations)[0].double()
        p = 0.25 * model.behavior_policy(batch.observations).exp().double()
        p[th.arange(len(q)), q.argmax(dim=1)] += 0.75
        expected = (p * q.square()).sum(1) - (p * q).sum(1).square()
        variance = model.terms[1].action_variance(nets, batch)
    np.testing.assert_allclose(variance[0].numpy(), expected.numpy(), rtol=1e-3, atol=1e-7)


def test_behaviour_policy_is_fitted_to_the_data(cartpole_arrays: Arrays) -> None:
    """Actions that follow the pole's angle are learned; the data's random ones are not mistaken for that."""
    leaning = cartpole_arrays | {"actions": (cartpole_arrays["observations"][:, 2] > 0).astype(np.int64)}
    observations = th.as_tensor(cartpole_arrays["observations"])
    likelihoods = []
    for arrays in (leaning, cartpole_arrays):
        model = make(DiscreteDROMO, arrays, behavior_kwargs={"hidden_sizes": (32,), "n_steps": 1000}).learn(1)
        log_prob = model.behavior_policy(observations)
        np.testing.assert_allclose(log_prob.exp().sum(dim=1).detach().numpy(), 1.0, rtol=1e-5)
        likelihoods.append(float(log_prob.gather(1, th.as_tensor(arrays["actions"])[:, None]).detach().mean()))
    assert likelihoods[0] > -0.15
    assert -0.75 < likelihoods[1] < -0.55  # log(1/2) is -.69


def test_dromo_without_weight_is_combo_to_the_bit(cartpole_arrays: Arrays) -> None:
    combo = make(DiscreteCOMBO, cartpole_arrays, rollout_policy="target").learn(20)
    with pytest.warns(UserWarning, match="behavior_kwargs has no effect"):
        dromo = make(DiscreteDROMO, cartpole_arrays, robust_weight=0.0, behavior_kwargs={"n_steps": 5}).learn(20)
    assert not dromo.behavior_policy.fitted
    robust = make(DiscreteDROMO, cartpole_arrays, robust_weight=0.5).learn(20)
    weights = [list(model.q_net.parameters()) for model in (combo, dromo, robust)]
    assert all(th.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(th.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert th.equal(combo.dynamics.weights[0], robust.dynamics.weights[0])  # no stream was shifted


def test_save_load_predict_and_continue(cartpole_arrays: Arrays, tmp_path: Path) -> None:
    model = make(DiscreteDROMO, cartpole_arrays).learn(5)
    model.save(tmp_path / "model")
    loaded = DiscreteDROMO.load(tmp_path / "model", device="cpu")
    assert isinstance(loaded, DQN)
    for part in ("policy", "dynamics", "behavior_policy", "visitation"):
        for name, value in getattr(model, part).state_dict().items():
            assert th.equal(value, getattr(loaded, part).state_dict()[name]), (part, name)
    observations = cartpole_arrays["observations"][:20]
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    loaded.dataset = cartpole_arrays
    assert loaded.learn(3, reset_num_timesteps=False).num_timesteps == 8


def test_model_report(cartpole_arrays: Arrays) -> None:
    """Its open-loop errors and its neighbour policy take one-hot actions too."""
    model = make(DiscreteCOMBO, cartpole_arrays).learn(1)
    report = model.dynamics_report(horizon=5)
    assert report.termination.precision == report.termination.recall == 1.0
    assert report.one_step.gain > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"robust_weight": -1.0}, ValueError, "robust_weight"),
        ({"strict": True, "visitation": "simhash"}, ValueError, "strict"),
        ({"real_ratio": 1.0}, ValueError, "real_ratio"),
        ({"n_action_samples": 4}, TypeError, "sums over discrete actions are exact"),
    ],
)
def test_bad_options_are_refused(
    cartpole_arrays: Arrays, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(DiscreteDROMO, cartpole_arrays, **options)
