"""ReBRAC: target and actor's loss by hand, their fixed points by linear algebra, and the logged actions it looks up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import ReBRAC, load_dataset
from sb3_offline.common.offline_td3 import TD3Noise
from sb3_offline.networks.networks import Batch
from sb3_offline.tabular import random_mdp
from sb3_offline.training.schedules import HoldThenDecay
from tests.conftest import FAST, Arrays, maker

make = maker(ReBRAC, **FAST, check_data=False)


def rows(n: int, **columns: Any) -> Batch:
    zeros = th.zeros(n)
    return Batch(zeros, zeros, zeros, zeros, zeros, n)._replace(**columns)


# --- by hand ---


def test_the_target_by_hand(pendulum_arrays: Arrays) -> None:
    """
    r = 1, gamma = .9, min Q' = 2, beta_2 = .5, a' = (.2, .4), a'_data = (0, 1): 1 + .9 (2 - .5 x .4) = 2.62; without a'_data
    1 + .9 x 2; after the end 1.
    """
    model = make(pendulum_arrays, gamma=0.9, critic_beta=0.5, target_policy_noise=0.0)
    nets: Any = SimpleNamespace(
        target_action=lambda _: th.tensor([0.2, 0.4]).expand(3, 1, 2),
        q_target=lambda *_: th.tensor([2.0, 3.0]).reshape(2, 1, 1).expand(2, 3, 1),
    )
    batch = rows(3, rewards=th.ones(3), dones=th.tensor([0.0, 0.0, 1.0]), next_actions=th.tensor([0.0, 1.0]).expand(3, 2))
    batch = batch._replace(has_next=th.tensor([True, False, True]))
    y = model.td_target(nets, batch, TD3Noise(th.zeros(3, 1, 2)))
    th.testing.assert_close(y, th.tensor([2.62, 2.8, 1.0]))
    model.critic_beta = 0.0  # TD3
    th.testing.assert_close(model.td_target(nets, batch, TD3Noise(th.zeros(3, 1, 2))), th.tensor([2.8, 2.8, 1.0]))


def test_the_actors_loss_by_hand(pendulum_arrays: Arrays) -> None:
    """min_j Q = (1, -4): mean|Q| = 2.5, -mean Q / 2.5 = .6; squares .25 + .04 and .01, their mean .15, beta_1 = 2: .9."""
    mu = th.tensor([[[0.5, 0.2]], [[-0.5, 0.1]]])
    q = th.tensor([[[1.0], [-3.0]], [[9.0], [-4.0]]])
    nets: Any = SimpleNamespace(action=lambda _: mu, q_frozen=lambda *_: q)
    batch = rows(2, actions=th.tensor([[0.0, 0.0], [-0.5, 0.0]]))
    loss, logs = make(pendulum_arrays, actor_beta=2.0).actor_loss(nets, batch, None)
    assert (float(loss), float(logs["q_weight"]), float(logs["imitation_loss"])) == pytest.approx((0.9, 0.4, 0.15))


def test_without_penalties_it_is_td3_by_both_critics(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, actor_beta=0.0).learn(2)
    batch, weights = model.sample_batch(), [*model.actor.parameters()]
    loss, _ = model.actor_loss(model.networks(), batch, None)
    q = th.cat(model.critic(batch.observations, model.actor(batch.observations)), dim=1).amin(dim=1)
    for found, expected in zip(th.autograd.grad(loss, weights), th.autograd.grad(-q.mean(), weights), strict=True):
        th.testing.assert_close(found * q.detach().abs().mean(), expected, rtol=1e-3, atol=1e-6)


# --- the logged actions at the next states ---


def three_episodes() -> Arrays:
    """Of 4, 3 and 5 steps; the second ends, the others are cut. Actions tell their row."""
    ends = np.array([3, 6, 11])
    row = np.arange(12, dtype=np.float32)
    observations = np.stack([row, row, row], axis=1)
    return {
        "observations": observations,
        "next_observations": observations + 1,
        "actions": row[:, None] / 10 - 0.5,
        "rewards": row,
        "terminations": row == 6,
        "truncations": np.isin(row, ends[[0, 2]]),
    }


@pytest.mark.parametrize("storage", ["device", "mmap"])
def test_next_actions_are_those_of_the_next_row(storage: str, tmp_path: Any) -> None:
    from sb3_offline.datasets import save_mapped

    model = make(three_episodes())
    dataset = load_dataset(three_episodes(), observation_space=model.observation_space, action_space=model.action_space)
    if storage == "mmap":
        save_mapped(dataset, tmp_path / "data.mmap")
        model = make(str(tmp_path / "data.mmap"), storage="mmap")  # type: ignore[arg-type]
    model.learn(2)
    batch = model.sample_batch()
    row = batch.observations[:, 0].long()
    goes_on = ~th.isin(row, th.tensor([3, 6, 11]))
    assert th.equal(batch.has_next, goes_on)
    scaled = th.tensor(three_episodes()["actions"][:, 0] / 2.0)  # Pendulum's actions lie in [-2, 2]
    th.testing.assert_close(batch.next_actions[goes_on, 0], scaled[row[goes_on] + 1])
    assert batch.next_actions.isfinite().all()


def test_rows_that_arrive_online_have_their_next_actions(pendulum_arrays: Arrays) -> None:
    """In a ring that has gone round: each row's successor is the step after it, and only within its episode."""
    model = make(pendulum_arrays).learn(2)
    model.learn_online(470, buffer_size=150, learning_starts=400)
    buffer = model.replay_buffer
    online = buffer.n_offline + th.arange(150)
    following, known = buffer.next_actions(online)
    after = buffer.n_offline + (th.arange(150) + 1) % 150
    step = buffer.n_online - 1 - (buffer.n_online - 1 - th.arange(150)) % 150  # which step lies in each place
    assert th.equal(known, (step % 200 != 199) & (step != buffer.n_online - 1))
    assert int(known.sum()) == 148
    th.testing.assert_close(following[known], buffer.actions[after][known])
    # the step after it began where it ended
    th.testing.assert_close(buffer.next_observations[online][known], buffer.observations[after][known])
    _, known = buffer.next_actions(th.arange(buffer.n_offline))
    assert th.equal(known, ~th.tensor(pendulum_arrays["truncations"] | pendulum_arrays["terminations"]))
    assert model._n_updates == 2 + 70


# --- the fixed points ---


class Tables:
    """Q (1, S, A) of actions that are points of a plane, and a policy mu that takes one of them in each state."""

    def __init__(self, points: np.ndarray, mu: np.ndarray, n_states: int):
        self.points, self.mu = th.tensor(points), th.tensor(mu)
        self.table = th.zeros(1, n_states, len(points), dtype=th.float64, requires_grad=True)

    def target_action(self, states: th.Tensor) -> th.Tensor:
        return self.points[self.mu[states[:, 0].long()]].unsqueeze(1)

    def q(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        which = th.cdist(actions.squeeze(1), self.points).argmin(dim=1)
        return self.table[:, states[:, 0].long(), which].unsqueeze(-1)

    def q_target(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.q(states, actions).detach()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_critics_fixed_point_is_a_linear_system(beta: float, seed: int, pendulum_arrays: Arrays) -> None:
    """
    Q = R + gamma P (Q(s', mu) - beta E|mu(s') - a'|^2 over what was logged at s'), on trajectories: each row's own next
    action, none at the ends. Solved apart from the losses.
    """
    rng, gamma, n_states, n_rows = np.random.default_rng(seed), 0.8, 4, 240
    points = np.array([[0.0, 0.0], [0.5, -0.5], [-0.25, 0.75]])
    rewards = random_mdp(rng, n_states, 3, gamma).rewards
    s, a = rng.integers(0, n_states, size=n_rows + 1), rng.integers(0, 3, size=n_rows + 1)
    s[:12], a[:12] = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)  # every pair is there
    ends = np.arange(n_rows) % 20 == 19
    mu = rng.integers(0, 3, size=n_states)

    pair, pairs = s[:-1] * 3 + a[:-1], n_states * 3
    matrix, right = np.eye(pairs), rewards.flatten().astype(np.float64)
    counts = np.bincount(pair, minlength=pairs)
    for row in range(n_rows):
        following = s[row + 1]
        matrix[pair[row], following * 3 + mu[following]] -= gamma / counts[pair[row]]
        if not ends[row]:
            distance = ((points[mu[following]] - points[a[row + 1]]) ** 2).sum()
            right[pair[row]] -= gamma * beta * distance / counts[pair[row]]
    exact = np.linalg.solve(matrix, right).reshape(n_states, 3)

    model = make(pendulum_arrays, gamma=gamma, critic_beta=beta)
    state = th.tensor(s, dtype=th.float64).unsqueeze(1)
    nothing = th.zeros(n_rows, dtype=th.float64)
    batch = Batch(state[:-1], th.tensor(points[a[:-1]]), state[1:], th.tensor(rewards[s[:-1], a[:-1]]), nothing, n_rows)
    batch = batch._replace(next_actions=th.tensor(points[a[1:]]), has_next=th.tensor(~ends))
    nets, noise = Tables(points, mu, n_states), TD3Noise(th.zeros(n_rows, 1, 2, dtype=th.float64))
    weight = th.tensor(counts.reshape(n_states, 3) / n_rows)
    for _ in range(120):  # each a step to the minimum of the loss: its Hessian is 2 d(s, a)
        loss, _ = model.critic_loss(nets, batch, noise)
        (slope,) = th.autograd.grad(loss, nets.table)
        with th.no_grad():
            nets.table -= slope / (2 * weight)
    np.testing.assert_allclose(nets.table.detach().numpy()[0], exact, atol=1e-4)


def test_the_actors_fixed_point_is_a_weighted_mean(pendulum_arrays: Arrays) -> None:
    """
    Q = -10 - 2 |a - c|^2 at one state: mu = (2 lambda c + beta mean(a)) / (2 lambda + beta), lambda = 1/(10 + 2 |mu - c|^2).
    """
    c, logged, beta = np.array([0.6, -0.2]), np.array([[0.0, 0.5], [-0.4, 0.1], [0.2, 0.3]]), 0.3
    exact = logged.mean(axis=0)
    for _ in range(200):
        weight = 2.0 / (10 + 2 * ((exact - c) ** 2).sum())
        exact = (weight * c + beta * logged.mean(axis=0)) / (weight + beta)
    mu = th.zeros(2, dtype=th.float64, requires_grad=True)
    center = th.tensor(c)

    def q(_: Any, actions: th.Tensor) -> th.Tensor:
        return -(10 + 2 * (actions - center).square().sum(dim=-1)).unsqueeze(0)

    nets: Any = SimpleNamespace(action=lambda _: mu.expand(3, 1, 2), q_frozen=q)
    model = make(pendulum_arrays, actor_beta=beta)
    for _ in range(2000):
        loss, _ = model.actor_loss(nets, rows(3, actions=th.tensor(logged)), None)
        (slope,) = th.autograd.grad(loss, mu)
        with th.no_grad():
            mu -= 0.5 * slope
    np.testing.assert_allclose(mu.detach(), exact, atol=1e-4)
    assert np.abs(exact - c).max() > 0.1 < np.abs(exact - logged.mean(axis=0)).max()


# --- the rest ---


def test_its_networks_and_rates(pendulum_arrays: Arrays) -> None:
    model = ReBRAC("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, device="cpu", seed=0, check_data=False).learn(2)
    layers = [type(layer).__name__ for layer in model.critic.q_networks[0]]
    assert layers == ["Linear", "LayerNorm", "ReLU"] * 2 + ["Linear"]
    assert [type(layer).__name__ for layer in model.actor.mu] == ["Linear", "ReLU"] * 2 + ["Linear", "Tanh"]
    assert (model.batch_size, model.tau, model.gamma, model.averaging_rate) == (256, 0.02, 0.995, 0.001)
    assert model.learning_rate == model.qf_learning_rate == HoldThenDecay(3e-4)
    mean = pendulum_arrays["observations"].mean(axis=0)
    np.testing.assert_allclose(model.actor.features_extractor.mean, mean, atol=1e-4)


@pytest.mark.parametrize("options", [{"actor_beta": -1.0}, {"critic_beta": float("nan")}])
def test_weights_that_cannot_be_are_refused(options: dict[str, float], pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        make(pendulum_arrays, **options)
