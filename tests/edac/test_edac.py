"""EDAC: its penalty by hand and against finite differences, and SAC-N at eta 0."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_offline import EDAC, SACN
from sb3_offline.datasets import SpacesOnlyEnv
from sb3_offline.edac.edac import pairwise_similarity
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST

SPACES = SpacesOnlyEnv(spaces.Box(-9.0, 9.0, (3,)), spaces.Box(-1.0, 1.0, (2,)))  # in one dimension all directions are +-1


def make(cls: type[Any] = EDAC, **options: Any) -> Any:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(101, 3)).astype(np.float32)
    data = {
        "observations": states[:-1],
        "next_observations": states[1:],
        "actions": rng.uniform(-1, 1, (100, 2)).astype(np.float32),
        "rewards": rng.normal(size=100),
        "terminations": np.zeros(100, dtype=bool),
        "truncations": np.arange(100) == 99,
    }
    return cls("MlpPolicy", SPACES, dataset=data, **FAST | {"check_data": False, "n_critics": 3} | options)


def test_the_penalty_by_hand() -> None:
    """g = (1, 0), (0, 1), (1, 0): two of the six ordered pairs agree, over N - 1 = 2; lengths are divided out."""
    directions = th.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).unsqueeze(1)
    th.testing.assert_close(pairwise_similarity(directions), th.tensor([1.0]))
    nets: Any = SimpleNamespace(q_slopes=lambda *_: (th.tensor([5.0, 0.1, 2.0]).view(3, 1, 1) * directions).unsqueeze(2))
    batch = Batch(None, th.zeros(1, 2), None, th.zeros(1), th.zeros(1), 1)
    penalty, logs = make(eta=0.5).critic_penalty(nets, batch, None, th.zeros(3, 1))
    assert float(penalty) == pytest.approx(0.5)
    assert float(logs["gradient_similarity"]) == pytest.approx(1 / 3)  # the mean cosine of two critics


@pytest.mark.parametrize("policy_kwargs", [{"net_arch": [16, 16]}, {"net_arch": [16], "layer_norm": True}])
def test_slopes_are_those_of_each_critic(policy_kwargs: dict[str, Any]) -> None:
    """Beside autograd's, one critic after the other; and their own gradients in the weights, beside finite differences."""
    model = make(policy_kwargs=policy_kwargs).learn(1)
    batch, nets, weight = model.sample_batch(), model.networks(), model.critic.q_networks[1][0].weight
    model.critic.double(), model.actor.double()
    observations, actions = batch.observations.double(), batch.actions.double()
    slopes = nets.q_slopes(observations, actions.unsqueeze(1)).squeeze(2)
    leaf = actions.clone().requires_grad_()
    for index, network in enumerate(model.critic.q_networks):
        (expected,) = th.autograd.grad(network(th.cat([observations, leaf], dim=1)).sum(), leaf)
        th.testing.assert_close(slopes[index], expected)

    def penalty() -> th.Tensor:
        return pairwise_similarity(
            th.nn.functional.normalize(nets.q_slopes(observations, actions.unsqueeze(1)).squeeze(2), dim=-1)
        ).mean()

    (gradient,) = th.autograd.grad(penalty(), weight)
    row, column = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    with th.no_grad():
        values = []
        for shift in (1e-6, -2e-6):
            weight[row, column] += shift
            with th.enable_grad():
                values.append(float(penalty().detach()))
    assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-3)


def test_without_weight_it_is_sacn_to_the_bit() -> None:
    sacn, edac, other = make(SACN).learn(10), make(eta=0.0).learn(10), make(eta=1.0).learn(10)
    expected = sacn.policy.state_dict()
    assert all(th.equal(value, expected[name]) for name, value in edac.policy.state_dict().items())
    assert not all(th.equal(value, expected[name]) for name, value in other.policy.state_dict().items())


def test_the_penalty_parts_the_critics() -> None:
    def similarity(eta: float) -> float:
        model = make(eta=eta, qf_learning_rate=3e-3).learn(150)
        batch = model.sample_batch()
        slopes = model.networks().q_slopes(batch.observations, batch.actions.unsqueeze(1)).squeeze(2)
        return float(pairwise_similarity(th.nn.functional.normalize(slopes, dim=-1)).mean())

    assert similarity(10.0) < similarity(0.0) - 0.3


@pytest.mark.parametrize("eta", [-1.0, float("inf"), "x"])
def test_a_weight_that_cannot_be_is_refused(eta: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="eta must"):
        make(eta=eta)
