"""CQL(H) for discrete actions, number for number and on tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th

from sb3_offline import DiscreteCQL
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays, maker

make = maker(DiscreteCQL, "CartPole-v1", **FAST)


class Constant:
    """Q = (c, c + log 3) everywhere."""

    def q(self, observations: th.Tensor) -> th.Tensor:
        return th.tensor([2.0, 2.0 + math.log(3.0)]).expand(1, len(observations), 2)

    def policy(self, observations: th.Tensor) -> th.Tensor:
        return th.tensor([0.25, 0.75]).expand(len(observations), 2)


def batch_of(n: int) -> Batch:
    zeros = th.zeros(n)
    return Batch(th.zeros(n, 4), th.zeros(n, 1, dtype=th.int64), th.zeros(n, 4), zeros, zeros, n_real=n)


def test_soft_maximum_is_exact(cartpole_arrays: Arrays) -> None:
    """log(e^c + 3 e^c) = c + log 4."""
    model = make(cartpole_arrays)
    value = model.terms[0].out_of_data_value(Constant(), batch_of(5), None)
    np.testing.assert_allclose(value.numpy(), np.full((1, 5), 2.0 + math.log(4.0)), rtol=1e-6)


def test_expectation_is_under_the_policy(cartpole_arrays: Arrays) -> None:
    model = make(cartpole_arrays, conservative="expectation")
    value = model.terms[0].out_of_data_value(Constant(), batch_of(5), None)
    np.testing.assert_allclose(value.numpy(), np.full((1, 5), 2.0 + 0.75 * math.log(3.0)), rtol=1e-6)


def test_penalty_is_weight_times_gap(cartpole_arrays: Arrays) -> None:
    q = th.full((1, 5), 2.0)
    penalty, logs = make(cartpole_arrays, conservative_weight=0.5).critic_penalty(Constant(), batch_of(5), None, q)
    assert float(penalty) == pytest.approx(0.5 * math.log(4.0), rel=1e-6)
    assert float(logs["conservative_gap"]) == pytest.approx(math.log(4.0), rel=1e-6)


def test_gap_above_target_raises_the_weight(cartpole_arrays: Arrays) -> None:
    """The first step of Adam moves log alpha by the learning rate."""
    model = make(cartpole_arrays, target_gap=1.0, learning_rate=1e-2)
    start = float(model.terms[0].weight())
    model.after_critic_step({"conservative_gap": th.tensor(3.0)})
    assert float(model.terms[0].weight()) == pytest.approx(start * math.exp(1e-2), rel=1e-5)


@pytest.mark.parametrize("conservative", ["logsumexp", "expectation"])
def test_an_automatic_gap_is_in_units_of_the_spread_of_q(cartpole_arrays: Arrays, conservative: str) -> None:
    """Logged actions of Q 1, 3, 5, 7, of mean 4 and standard deviation sqrt(5); greedy ones of 3, 3, 5, 7, of mean 4.5."""
    model = make(cartpole_arrays, target_gap="auto", conservative=conservative)

    class Table(Constant):
        def q(self, observations: th.Tensor) -> th.Tensor:
            return th.tensor([[[1.0, 3.0], [3.0, 1.0], [5.0, 2.0], [7.0, 0.0]]])

        def policy(self, observations: th.Tensor) -> th.Tensor:
            return th.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])

    _, logs = model.critic_penalty(Table(), batch_of(4), None, th.tensor([[1.0, 3.0, 5.0, 7.0]]))
    assert float(logs["policy_gap"]) == pytest.approx(0.5 / 5**0.5)


def test_unseen_actions_fall_and_logged_ones_rise(cartpole_arrays: Arrays) -> None:
    """The gradient of the penalty is softmax Q at every action, less 1 at the logged one."""
    model = make(cartpole_arrays, conservative_weight=1.0)
    table = th.tensor([[[0.0, math.log(3.0)]] * 3], requires_grad=True)

    class Leaf(Constant):
        def q(self, observations: th.Tensor) -> th.Tensor:
            return table

    penalty, _ = model.critic_penalty(Leaf(), batch_of(3), None, table[..., 0])
    penalty.backward()
    np.testing.assert_allclose(table.grad[0].numpy(), np.full((3, 2), [(0.25 - 1) / 3, 0.75 / 3]), rtol=1e-5)
