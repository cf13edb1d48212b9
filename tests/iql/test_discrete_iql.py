"""DiscreteIQL: fixed points against exact expectile iteration, the actor's closed form, twins, and acting by support."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

from sb3_offline import DiscreteIQL
from sb3_offline.iql.discrete_policies import DiscreteValueNetworks
from sb3_offline.networks.networks import Batch
from sb3_offline.tabular import FiniteMDP, policy_evaluation
from tests.conformance.tables import converge
from tests.conftest import FAST, Arrays, maker
from tests.iql.test_iql import empirical, expectile_of, logged, minimise

make = maker(DiscreteIQL, "CartPole-v1", **FAST, check_data=False)


class Tables:
    """Two Q (2, S, A), V (S,) and logits (S, A) in the place of the networks; states are indices."""

    def __init__(self, n_states: int, n_actions: int):
        self.table = th.zeros(2, n_states, n_actions, dtype=th.float64, requires_grad=True)
        self.v = th.zeros(n_states, dtype=th.float64, requires_grad=True)
        self.logits = th.zeros(n_states, n_actions, dtype=th.float64, requires_grad=True)

    def q(self, observations: th.Tensor) -> th.Tensor:
        return self.table[:, observations[:, 0].long()]

    def q_target(self, observations: th.Tensor) -> th.Tensor:
        return self.q(observations).detach()

    def value(self, observations: th.Tensor) -> th.Tensor:
        return self.v[observations[:, 0].long()]

    def log_policy(self, observations: th.Tensor) -> th.Tensor:
        return self.logits.log_softmax(dim=1)[observations[:, 0].long()]


def rows_of(mdp: FiniteMDP, counts: np.ndarray) -> Batch:
    batch = logged(mdp, counts)
    return batch._replace(actions=batch.actions.long())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_the_fixed_point_is_exact_expectile_iteration(tau: float, seed: int, cartpole_arrays: Arrays) -> None:
    gamma = 0.7
    mdp, counts, pi_beta = empirical(seed, gamma)
    model, nets, batch = make(cartpole_arrays, gamma=gamma, expectile=tau), Tables(4, 3), rows_of(mdp, counts)
    for _ in range(60):
        minimise(nets.v, lambda: model.value_loss(nets, batch, None)[0])
        minimise(nets.table, lambda: model.critic_loss(nets, batch, None)[0])
    v = np.zeros(4)
    for _ in range(200):
        q = mdp.rewards + gamma * mdp.transitions @ v
        v = np.array([expectile_of(q[s][pi_beta[s] > 0], pi_beta[s][pi_beta[s] > 0], tau) for s in range(4)])
    np.testing.assert_allclose(nets.v.detach().numpy(), v, atol=1e-4)
    for table in nets.table.detach().numpy():
        np.testing.assert_allclose(table[pi_beta > 0], q[pi_beta > 0], atol=1e-4)
    if tau == 0.5:
        exact = policy_evaluation(mdp, pi_beta)
        np.testing.assert_allclose(nets.v.detach().numpy(), (pi_beta * exact).sum(axis=1), atol=1e-4)


@pytest.mark.parametrize(("beta", "max_weight"), [(0.0, 100.0), (3.0, 100.0), (3.0, 1.5)])
def test_the_actors_minimum_is_the_weighted_behaviour(beta: float, max_weight: float, cartpole_arrays: Arrays) -> None:
    """pi(a|s) ~ pi_beta(a|s) min(exp(beta A), max_weight); every action of a state with a weight was logged."""
    mdp, counts, pi_beta = empirical(0, 0.7)
    model, nets = make(cartpole_arrays, beta=beta, max_weight=max_weight), Tables(4, 3)
    rng = np.random.default_rng(1)
    q, v = rng.normal(size=(2, 4, 3)), rng.normal(size=4)
    with th.no_grad():
        nets.table += th.tensor(q)
        nets.v += th.tensor(v)
    batch = rows_of(mdp, counts)
    converge([nets.logits], lambda: model.actor_loss(nets, batch, None)[0])
    weights = pi_beta * np.minimum(np.exp(beta * (q.min(axis=0) - v[:, None])), max_weight)
    pi = nets.logits.detach().softmax(dim=1).numpy()
    np.testing.assert_allclose(pi, weights / weights.sum(axis=1, keepdims=True), atol=1e-4)


# --- the networks ---


def test_twin_networks_of_their_own(cartpole_arrays: Arrays) -> None:
    kwargs = {"net_arch": [16, 8], "n_critics": 3}
    model = make(cartpole_arrays, policy_kwargs=kwargs).learn(3)
    rows = th.as_tensor(cartpole_arrays["observations"][:7])
    nets = model.networks()
    q = nets.q(rows)
    assert q.shape == (3, 7, 2)
    assert nets.value(rows).shape == (7,)
    assert float((q[0] - q[1]).abs().min().detach()) > 0
    th.testing.assert_close(model.q_net(rows), q.amin(dim=0))
    assert not th.equal(q, nets.q_target(rows))


def test_rates(cartpole_arrays: Arrays) -> None:
    """The actor's falls by a cosine; V and the critics have the other."""
    model = make(cartpole_arrays, qf_learning_rate=1e-3).learn(5)
    rate = 0.5 * 3e-4 * (1 + np.cos(np.pi * 0.8))  # at the fifth of five steps
    assert float(model.actor.optimizer.param_groups[0]["lr"]) == pytest.approx(rate)
    for optimizer in (model.value_net.optimizer, model.policy.optimizer):
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(1e-3)


def test_it_samples_by_its_actor(cartpole_arrays: Arrays) -> None:
    model = make(cartpole_arrays).learn(20)
    row = cartpole_arrays["observations"][3]
    with th.no_grad():
        pi = model.networks().policy(th.as_tensor(row[None]))[0].numpy()
    th.manual_seed(0)
    drawn, _ = model.predict(np.repeat(row[None], 4000, axis=0), deterministic=False)
    np.testing.assert_allclose(np.bincount(drawn, minlength=2) / 4000, pi, atol=0.03)
    assert model.predict(row, deterministic=True)[0] == pi.argmax()


def test_with_a_threshold_it_acts_by_q_where_the_clone_allows(cartpole_arrays: Arrays) -> None:
    """pi_beta = (.6, .3, .1): with .3 the third action is out, though its Q is the largest; with .05 it is taken."""
    nets = DiscreteValueNetworks(SimpleNamespace(support_threshold=0.3), lambda rows: rows)  # type: ignore[arg-type]
    q = th.tensor([[[1.0, 2.0, 9.0]], [[1.5, 1.2, 9.0]]])
    nets.q = lambda _: q  # type: ignore[method-assign]
    nets.log_behavior = lambda _: th.tensor([[0.6, 0.3, 0.1]]).log()  # type: ignore[method-assign]
    assert nets.policy(th.zeros(1, 1)).tolist() == [[0.0, 1.0, 0.0]]  # min_j Q = (1, 1.2, 9)
    nets.network.support_threshold = 0.05
    assert nets.policy(th.zeros(1, 1)).tolist() == [[0.0, 0.0, 1.0]]
    model = make(cartpole_arrays, support_threshold=1e-9).learn(20)
    rows = cartpole_arrays["observations"][:50]
    with th.no_grad():
        greedy = model.q_net(th.as_tensor(rows)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(model.predict(rows)[0], greedy)
    clone = make(cartpole_arrays, support_threshold=1.0).learn(20)
    with th.no_grad():
        likeliest = clone.actor(th.as_tensor(rows)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(clone.predict(rows)[0], likeliest)


def test_what_it_refuses(cartpole_arrays: Arrays) -> None:
    from stable_baselines3.dqn.policies import DQNPolicy

    with pytest.raises(ValueError, match="DQNPolicy must be a child of DiscreteValuePolicy"):
        DiscreteIQL(DQNPolicy, "CartPole-v1", dataset=cartpole_arrays, **FAST)
    with pytest.raises(NotImplementedError, match=r"has no learn_online\. Collect with its policy"):
        make(cartpole_arrays).learn_online(10)
    for option in ({"expectile": 1.0}, {"beta": -1.0}, {"max_weight": 0.0}, {"support_threshold": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
            make(cartpole_arrays, **option)
