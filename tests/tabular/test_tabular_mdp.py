"""MDPs, operators and occupancies against computations that share no code with the package."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_offline.tabular import (
    FiniteMDP,
    bellman,
    data_weight,
    empirical_mdp,
    from_toy_text,
    greedy,
    mixed_target,
    occupancy,
    policy_evaluation,
    random_mdp,
    random_policy,
    side_by_side,
)


def test_evaluation_of_two_states_by_hand():
    # 0 -> 1 with reward 1, 1 -> 1 with reward 2: V(1) = 2/(1 - .5) = 4, V(0) = 1 + .5 * 4 = 3.
    kernel = np.array([[[0.0, 1.0]], [[0.0, 1.0]]])
    mdp = FiniteMDP(kernel, np.array([[1.0], [2.0]]), 0.5, np.array([1.0, 0.0]))
    assert policy_evaluation(mdp, np.ones((2, 1))) == pytest.approx(np.array([[3.0], [4.0]]), abs=1e-14)
    assert occupancy(mdp, np.ones((2, 1))) == pytest.approx(np.array([[0.5], [0.5]]), abs=1e-14)


@pytest.mark.filterwarnings("ignore:.*latest versioned")
@pytest.mark.parametrize("env_id", ["FrozenLake", "CliffWalking", "Taxi"])
def test_toy_text_tables_agree_with_a_sweep_over_the_raw_table(env_id):
    env = gym.make(env_id)
    mdp = from_toy_text(env, gamma=0.9)
    policy = random_policy(np.random.default_rng(0), mdp.n_states, mdp.n_actions)
    q = np.random.default_rng(1).normal(size=(mdp.n_states, mdp.n_actions))
    expected = np.zeros_like(q)
    for s, actions in env.unwrapped.P.items():
        for a, outcomes in actions.items():
            for probability, s_next, reward, done in outcomes:
                expected[s, a] += probability * (reward + 0.9 * (not done) * policy[s_next] @ q[s_next])
    assert bellman(mdp, q, policy) == pytest.approx(expected, abs=1e-12)
    true = policy_evaluation(mdp, policy)
    assert bellman(mdp, true, policy) == pytest.approx(true, abs=1e-10)


def test_frozen_lake_optimal_value_is_the_published_one():
    # 4x4, slippery, undiscounted success is 0.8235; at gamma = .99 V*(start) = 0.5420.
    mdp = from_toy_text(gym.make("FrozenLake-v1"), gamma=0.99)
    q = np.zeros((16, 4))
    for _ in range(3000):
        q = bellman(mdp, q, greedy(q))
    assert q[0].max() == pytest.approx(0.5420, abs=1e-4)


@pytest.mark.parametrize("terminating", [False, True])
def test_occupancy_is_the_discounted_sum_of_state_distributions(terminating):
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 5, 3, gamma=0.8)
    if terminating:
        mdp = FiniteMDP(mdp.transitions, mdp.rewards, 0.8, mdp.initial, rng.uniform(0.5, 1, (5, 3, 5)))
    policy = random_policy(rng, 5, 3)
    visits, state = np.zeros(5), mdp.initial
    for t in range(300):
        visits += 0.8**t * state
        state = np.einsum("s,sa,sat->t", state, policy, mdp.kernel)
    expected = (visits / visits.sum())[:, None] * policy
    assert occupancy(mdp, policy) == pytest.approx(expected, abs=1e-12)


def test_occupancy_weighs_rewards_into_the_return():
    rng = np.random.default_rng(3)
    mdp, policy = random_mdp(rng), random_policy(rng, 6, 3)
    value = (mdp.initial[:, None] * policy * policy_evaluation(mdp, policy)).sum()
    assert (occupancy(mdp, policy) * mdp.rewards).sum() / (1 - mdp.gamma) == pytest.approx(value, abs=1e-12)


def test_islands_do_not_see_each_other():
    rng = np.random.default_rng(0)
    parts = [random_mdp(rng, 3, 2), random_mdp(rng, 4, 2)]
    policies = [random_policy(rng, 3, 2), random_policy(rng, 4, 2)]
    whole, policy = side_by_side(parts), np.concatenate(policies)
    each = np.concatenate([policy_evaluation(m, p) for m, p in zip(parts, policies, strict=True)])
    assert policy_evaluation(whole, policy) == pytest.approx(each, abs=1e-12)
    each = np.concatenate([occupancy(m, p) / 2 for m, p in zip(parts, policies, strict=True)])
    assert occupancy(whole, policy) == pytest.approx(each, abs=1e-14)


def test_target_weights():
    assert data_weight([[0.8]], [[0.2]], 0.5, "sample") == pytest.approx(0.8, abs=1e-15)
    assert data_weight([[0.8]], [[0.2]], 0.5, "constant") == pytest.approx(0.5)
    assert data_weight([[0.0, 0.5]], [[0.0, 0.5]], 0.3, "sample") == pytest.approx(0.3)
    with pytest.raises(ValueError, match="target_weights"):
        data_weight([[0.8]], [[0.2]], 0.5, "sampled")  # type: ignore[arg-type]


def test_sample_weight_minimises_the_sampled_loss():
    # E over the mixture of data samples (target T~Q) and model samples (target T^Q), minimised entry by entry.
    rng = np.random.default_rng(0)
    data, model = random_mdp(rng), random_mdp(rng)
    d, rho = rng.dirichlet(np.ones(18), 2).reshape(2, 6, 3)
    q, policy, f = rng.normal(size=(6, 3)), random_policy(rng, 6, 3), 0.3
    y = mixed_target(data, model, q, policy, data_weight(d, rho, f, "sample"))
    gradient = f * d * (y - bellman(data, q, policy)) + (1 - f) * rho * (y - bellman(model, q, policy))
    assert np.abs(gradient).max() < 1e-15


def test_empirical_mdp_counts():
    data = empirical_mdp(
        states=[0, 0, 0, 1], actions=[1, 1, 0, 0], rewards=[1.0, 3.0, 0.0, 5.0], next_states=[1, 0, 1, 1],
        dones=[False, False, False, True], n_states=3, n_actions=2, gamma=0.9,
    )  # fmt: skip
    assert data.pair_counts.tolist() == [[1, 2], [1, 0], [0, 0]]
    assert data.counts.tolist() == [3, 1, 0]
    assert data.d.tolist() == [[0.25, 0.5], [0.25, 0], [0, 0]]
    assert data.pi_beta == pytest.approx(np.array([[1 / 3, 2 / 3], [1, 0], [0.5, 0.5]]))
    assert data.mdp.transitions[0, 1].tolist() == [0.5, 0.5, 0]
    assert data.mdp.rewards[0, 1] == 2.0
    q = np.full((3, 2), 10.0)
    values = bellman(data.mdp, q, data.pi_beta)
    assert values == pytest.approx(np.array([[9, 11], [5, 0], [0, 0]]))  # terminal: 5; never seen: 0
    other = random_mdp(np.random.default_rng(0), 3, 2)
    filled = empirical_mdp([0], [0], [1.0], [1], [False], 3, 2, 0.9, unvisited=other)
    assert filled.mdp.transitions[1] == pytest.approx(other.transitions[1])
    assert filled.mdp.transitions[0, 0].tolist() == [0, 1, 0]


def test_bad_mdps_are_refused_by_name():
    good = random_mdp(np.random.default_rng(0), 3, 2)
    broken = good.transitions.copy()
    broken[2, 1] *= 0.9
    with pytest.raises(ValueError, match=r"transitions must sum to 1.*0\.9 at state 2, action 1"):
        FiniteMDP(broken, good.rewards, 0.9, good.initial)
    broken = good.transitions.copy()
    broken[0, 1] = [-0.5, 1.5, 0]
    with pytest.raises(ValueError, match=r"transitions is negative.*state 0, action 1, next state 0"):
        FiniteMDP(broken, good.rewards, 0.9, good.initial)
    for gamma in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="gamma"):
            FiniteMDP(good.transitions, good.rewards, gamma, good.initial)
    with pytest.raises(ValueError, match="initial"):
        FiniteMDP(good.transitions, good.rewards, 0.9, np.ones(3))
    with pytest.raises(ValueError, match="rewards is not finite at state 0, action 1"):
        FiniteMDP(good.transitions, np.array([[0, np.nan], [0, 0], [0, 0]]), 0.9, good.initial)
    with pytest.raises(TypeError, match="toy-text"):
        from_toy_text(gym.make("CartPole-v1"), 0.9)
    with pytest.raises(ValueError, match=r"states\[1\] = 3 lies outside 0\.\.2"):
        empirical_mdp([0, 3], [0, 0], [0, 0], [0, 0], [0, 0], 3, 2, 0.9)
    with pytest.raises(ValueError, match="length"):
        empirical_mdp([0, 1], [0, 0], [0], [0, 0], [0, 0], 3, 2, 0.9)
