"""IQL: its losses by hand, its fixed points against exact expectile iteration, and its third network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import IQL
from sb3_offline.iql.expectile import expectile_loss
from sb3_offline.networks.networks import Batch
from sb3_offline.tabular import FiniteMDP, policy_evaluation, random_mdp
from sb3_offline.training.schedules import CosineSchedule
from tests.conftest import FAST, Arrays, maker

make = maker(IQL, **FAST, check_data=False)


def test_the_expectile_loss_by_hand() -> None:
    """u = (-1, 2), tau = .7: .3 x 1 and .7 x 4."""
    th.testing.assert_close(expectile_loss(th.tensor([-1.0, 2.0]), 0.7), th.tensor([0.3, 2.8]))


@pytest.mark.parametrize(("expectile", "value"), [(0.5, 1.0), (0.7, 1.3076923), (0.9, 1.7272727)])
def test_expectiles_of_three_numbers(expectile: float, value: float, pendulum_arrays: Arrays) -> None:
    """Of {0, 1, 2}: where the gradient of value_loss is 0."""
    model = make(pendulum_arrays, expectile=expectile)
    v = th.tensor(value, dtype=th.float64, requires_grad=True)
    q = th.tensor([[[0.0], [1.0], [2.0]], [[5.0], [5.0], [5.0]]], dtype=th.float64)  # the minimum is taken
    nets: Any = SimpleNamespace(q_target=lambda *_: q, value=lambda _: v.expand(3))
    loss, _ = model.value_loss(nets, Batch(None, th.zeros(3, 1), None, th.zeros(3), th.zeros(3), 3), None)
    (slope,) = th.autograd.grad(loss, v)
    assert float(slope) == pytest.approx(0.0, abs=1e-6)


def test_the_target_and_the_actors_weights_by_hand(pendulum_arrays: Arrays) -> None:
    """beta = 3, A = (-1, .5, 2): exp(-3), exp(1.5), and exp(6) = 403 clipped at 100."""
    model = make(pendulum_arrays, gamma=0.9, beta=3.0)
    q = th.tensor([[[0.0], [1.5], [3.0]], [[9.0], [9.0], [9.0]]])
    log_prob = th.tensor([[-1.0], [-2.0], [-3.0]], requires_grad=True)
    nets: Any = SimpleNamespace(q_target=lambda *_: q, value=lambda _: th.ones(3), log_prob=lambda *_: log_prob)
    batch = Batch(None, th.zeros(3, 1), None, th.tensor([1.0, 2.0, 3.0]), th.tensor([0.0, 0.0, 1.0]), 3)
    th.testing.assert_close(model.td_target(nets, batch, None), th.tensor([1.9, 2.9, 3.0]))
    loss, _ = model.actor_loss(nets, batch, None)
    (slope,) = th.autograd.grad(loss, log_prob)
    th.testing.assert_close(-3 * slope.flatten(), th.tensor([0.0497871, 4.4816891, 100.0]))
    assert float(loss.detach()) == pytest.approx((0.0497871 + 2 * 4.4816891 + 300.0) / 3)


# --- the fixed points of V and Q, in tables ---


class Tables:
    """Q (1, S, A) and V (S,) in the place of the networks, both learned; states and actions are indices."""

    def __init__(self, n_states: int, n_actions: int):
        self.table = th.zeros(1, n_states, n_actions, dtype=th.float64, requires_grad=True)
        self.v = th.zeros(n_states, dtype=th.float64, requires_grad=True)

    def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.table[:, observations.long(), actions[..., 0].long()]

    def q_target(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.q(observations, actions).detach()

    def value(self, observations: th.Tensor) -> th.Tensor:
        return self.v[observations[:, 0].long()]


def logged(mdp: FiniteMDP, counts: np.ndarray) -> Batch:
    """Rows (s, a, s') as often as they were logged, (S, A, S) counts."""
    s, a, s_next = np.nonzero(counts)
    n = counts[s, a, s_next]
    s, a, s_next = (np.repeat(column, n) for column in (s, a, s_next))
    columns = [th.tensor(column, dtype=th.float64).unsqueeze(1) for column in (s, a, s_next)]
    rewards = th.tensor(mdp.rewards[s, a])
    return Batch(*columns, rewards, th.zeros_like(rewards), n_real=len(rewards))


def minimise(parameter: th.Tensor, loss_of: Any) -> None:
    """A few Newton steps on a loss whose Hessian is diagonal and piecewise constant: exact once no sign changes."""
    for _ in range(30):
        (slope,) = th.autograd.grad(loss_of(), parameter, create_graph=True)
        (curvature,) = th.autograd.grad(slope.sum(), parameter)
        with th.no_grad():
            parameter -= th.where(curvature > 0, slope / curvature, 0.0)
        if float(slope.detach().abs().max()) < 1e-12:
            break


def expectile_of(values: np.ndarray, weights: np.ndarray, tau: float) -> float:
    """By bisection on sum w |tau - 1(x < m)| (x - m), apart from the losses."""
    low, high = values.min(), values.max()
    for _ in range(100):
        middle = 0.5 * (low + high)
        pull = weights * np.where(values < middle, 1 - tau, tau) * (values - middle)
        low, high = (middle, high) if pull.sum() > 0 else (low, middle)
    return 0.5 * (low + high)


def empirical(seed: int, gamma: float) -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """An MDP that is its own data, with the counts of the rows and pi_beta; one action of each state was never logged."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, size=(4, 3, 4))
    counts[:, :2, 0] += 1
    counts[np.arange(4), rng.integers(0, 3, size=4)] = 0
    pairs = counts.sum(axis=2)
    uniform = np.full((4, 3, 4), 0.25)
    mdp = FiniteMDP(
        np.where(pairs[..., None] > 0, counts / np.maximum(pairs, 1)[..., None], uniform),
        random_mdp(rng, 4, 3, gamma).rewards,
        gamma,
        np.full(4, 0.25),
    )
    return mdp, counts, pairs / pairs.sum(axis=1, keepdims=True)


def solve(model: Any, mdp: FiniteMDP, counts: np.ndarray) -> Tables:
    """The fixed point of training: the minima of value_loss and critic_loss in turns."""
    nets, batch = Tables(mdp.n_states, mdp.n_actions), logged(mdp, counts)
    for _ in range(60):
        minimise(nets.v, lambda: model.value_loss(nets, batch, None)[0])
        minimise(nets.table, lambda: model.critic_loss(nets, batch, None)[0])
    return nets


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_the_fixed_point_is_exact_expectile_iteration(tau: float, seed: int, pendulum_arrays: Arrays) -> None:
    gamma = 0.7
    mdp, counts, pi_beta = empirical(seed, gamma)
    nets = solve(make(pendulum_arrays, gamma=gamma, expectile=tau), mdp, counts)
    v = np.zeros(4)
    for _ in range(200):
        q = mdp.rewards + gamma * mdp.transitions @ v
        v = np.array([expectile_of(q[s][pi_beta[s] > 0], pi_beta[s][pi_beta[s] > 0], tau) for s in range(4)])
    np.testing.assert_allclose(nets.v.detach().numpy(), v, atol=1e-4)
    np.testing.assert_allclose(nets.table.detach().numpy()[0][pi_beta > 0], q[pi_beta > 0], atol=1e-4)
    if tau == 0.5:  # the mean: the value of the policy that logged
        exact = policy_evaluation(mdp, pi_beta)
        np.testing.assert_allclose(nets.v.detach().numpy(), (pi_beta * exact).sum(axis=1), atol=1e-4)


def test_a_high_expectile_is_the_best_logged_action(pendulum_arrays: Arrays) -> None:
    """Value iteration over the actions of the data, within what a tau of .9999 leaves."""
    gamma = 0.7
    mdp, counts, pi_beta = empirical(0, gamma)
    nets = solve(make(pendulum_arrays, gamma=gamma, expectile=0.9999), mdp, counts)
    v = np.zeros(4)
    for _ in range(200):
        v = np.where(pi_beta > 0, mdp.rewards + gamma * mdp.transitions @ v, -np.inf).max(axis=1)
    np.testing.assert_allclose(nets.v.detach().numpy(), v, atol=5e-3)


# --- the networks ---


def test_the_actor_follows_a_cosine_and_v_the_critics_rate(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, learning_rate=CosineSchedule(3e-4), qf_learning_rate=1e-3).learn(5)
    assert model.value_net.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    rate = 0.5 * 3e-4 * (1 + np.cos(np.pi * 0.8))  # at the fifth of five steps
    assert float(model.actor.optimizer.param_groups[0]["lr"]) == pytest.approx(rate)


def test_the_recipes_weights_do_not_change_with_the_rewards_scale(pendulum_arrays: Arrays) -> None:
    """By default beta A is the same for rewards in other units, as they are divided by their root mean square."""
    weights = []
    for unit in (1.0, 1000.0):
        model = make({**pendulum_arrays, "rewards": unit * pendulum_arrays["rewards"]}, seed=0).learn(3)
        assert (model.beta, model.reward_scale) == (0.5, "auto")
        batch = model.sample_batch()
        weights.append(model.actor_loss(model.networks(), batch, None)[1]["actor_weight"])
    th.testing.assert_close(*weights, rtol=1e-3, atol=0.0)


def test_v_is_as_the_policy_says(pendulum_arrays: Arrays) -> None:
    kwargs = {"net_arch": {"pi": [8], "qf": [16, 4]}, "normalize_observations": True, "ortho_init": True}
    model = make(pendulum_arrays, policy_kwargs=kwargs).learn(2)
    assert [layer.out_features for layer in model.value_net.v_network if isinstance(layer, th.nn.Linear)] == [16, 4, 1]
    rows = th.as_tensor(pendulum_arrays["observations"])
    np.testing.assert_allclose(model.value_net.features_extractor.mean, rows.mean(dim=0), atol=1e-4)
    assert model.networks().value(rows[:7]).shape == (7,)


def test_it_goes_on_online(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(5)
    model.learn_online(30, learning_starts=10)
    assert model._n_updates == 5 + 20


@pytest.mark.parametrize("options", [{"expectile": 1.0}, {"expectile": 0}, {"beta": -1.0}, {"max_weight": 0.0}])
def test_options_that_cannot_be_are_refused(options: dict[str, float], pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        make(pendulum_arrays, **options)


def test_a_policy_without_v_is_refused(pendulum_arrays: Arrays) -> None:
    from sb3_offline.networks.policies import GaussianPolicy

    with pytest.raises(ValueError, match="GaussianPolicy must be a child of ValuePolicy"):
        IQL(GaussianPolicy, "Pendulum-v1", dataset=pendulum_arrays, **FAST)
