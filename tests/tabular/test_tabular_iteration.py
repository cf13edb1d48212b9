"""Fixed points and policy iteration."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_offline.tabular import (
    FiniteMDP,
    OfflineProblem,
    boltzmann,
    combo_rule,
    cql_h_rule,
    cql_rule,
    dromo_rule,
    dromo_update,
    evaluate,
    fixed_point,
    from_toy_text,
    greedy,
    occupancy,
    plain_rule,
    policy_evaluation,
    policy_iteration,
    random_mdp,
    random_policy,
    strict_dromo_rule,
    strict_dromo_update,
)


def problem_and_policies(seed, target_weights="constant", f=0.5):
    rng = np.random.default_rng(seed)
    data, model = random_mdp(rng), random_mdp(rng)
    pi_beta, pi = random_policy(rng, 6, 3), random_policy(rng, 6, 3)
    d = occupancy(data, pi_beta)
    return OfflineProblem(data, model, d, pi_beta, 100 * d.sum(1), f, target_weights), pi


def test_plain_policy_iteration_finds_the_optimum():
    mdp = from_toy_text(gym.make("FrozenLake-v1", is_slippery=True), gamma=0.95)
    uniform = np.full((16, 4), 0.25)
    problem = OfflineProblem(mdp, mdp, occupancy(mdp, uniform), uniform, np.ones(16), 0.5)
    result = policy_iteration(problem, plain_rule(), uniform)
    optimal = np.zeros((16, 4))
    for _ in range(2000):  # value iteration
        optimal = mdp.rewards + 0.95 * mdp.kernel @ optimal.max(axis=1)
    assert result.converged
    assert result.q == pytest.approx(optimal, abs=1e-10)
    assert result.q.max(1) == pytest.approx((result.policy * optimal).sum(1), abs=1e-10)


@pytest.mark.parametrize("target_weights", ["constant", "sample"])
def test_every_rule_reaches_a_fixed_point_of_itself(target_weights):
    problem, pi = problem_and_policies(0, target_weights)
    rho = occupancy(problem.model, pi)
    rules = [
        plain_rule(), cql_rule(0.1), cql_h_rule(0.1), combo_rule(0.1), dromo_rule(0.1, 0.5), strict_dromo_rule(0.1, 0.5)
    ]  # fmt: skip
    for rule in rules:
        result = evaluate(problem, rule, pi)
        assert result.converged
        assert rule(problem, result.q, pi, rho) == pytest.approx(result.q, abs=1e-11)


def test_combo_fixed_point_is_one_linear_solve():
    problem, pi = problem_and_policies(1, f=0.3)
    rho = occupancy(problem.model, pi)
    d_f = 0.3 * problem.d + 0.7 * rho
    kernel = 0.3 * problem.data.kernel + 0.7 * problem.model.kernel
    rewards = 0.3 * problem.data.rewards + 0.7 * problem.model.rewards - 0.2 * (rho - problem.d) / d_f
    pairs = np.einsum("sat,tb->satb", kernel, pi).reshape(18, 18)
    expected = np.linalg.solve(np.eye(18) - 0.9 * pairs, rewards.ravel()).reshape(6, 3)
    assert evaluate(problem, combo_rule(0.2), pi).q == pytest.approx(expected, abs=1e-10)


def test_dromo_without_its_weight_is_combo_and_cql_uses_the_data_alone():
    problem, pi = problem_and_policies(2)
    combo = evaluate(problem, combo_rule(0.2), pi).q
    assert evaluate(problem, dromo_rule(0.2, 0.0), pi).q == pytest.approx(combo, abs=1e-12)
    assert evaluate(problem, strict_dromo_rule(0.2, 0.0), pi).q == pytest.approx(combo, abs=1e-12)
    lowered = policy_evaluation(problem.data, pi, problem.data.rewards - 0.2 * pi / problem.pi_beta)
    assert evaluate(problem, cql_rule(0.2), pi).q == pytest.approx(lowered, abs=1e-10)


def test_rules_hand_over_the_problem():
    problem, pi = problem_and_policies(4, f=0.3)
    q, rho = np.random.default_rng(0).normal(size=(6, 3)), occupancy(problem.model, pi)
    y = problem.target(q, pi, rho)
    pi_f = 0.3 * problem.pi_beta + 0.7 * pi
    expected = dromo_update(y, problem.d, rho, problem.counts, pi_f, 0.3, 0.1, 2.0, q=q)
    assert dromo_rule(0.1, 2.0)(problem, q, pi, rho) == pytest.approx(expected, abs=0)
    expected = strict_dromo_update(y, problem.d, rho, 100, 0.3, 0.1, 2.0, q=q)  # n = |D| = 100
    assert strict_dromo_rule(0.1, 2.0)(problem, q, pi, rho) == pytest.approx(expected, abs=1e-14)


def test_flags_tell_when_there_was_no_convergence():
    problem, pi = problem_and_policies(3)
    capped = evaluate(problem, combo_rule(0.1), pi, max_iterations=3)
    assert (capped.converged, capped.iterations) == (False, 3)
    assert not policy_iteration(problem, combo_rule(0.1), pi, max_policies=1).converged
    with np.errstate(over="ignore", invalid="ignore"):
        blown = fixed_point(lambda q: -3 * q, np.ones((1, 1)), max_iterations=5000)
    assert not blown.converged
    assert blown.iterations < 5000


def test_policy_iteration_with_each_rule():
    mdp = random_mdp(np.random.default_rng(7))
    pi_beta = np.full((6, 3), 1 / 3)
    problem = OfflineProblem(mdp, mdp, occupancy(mdp, pi_beta), pi_beta, np.full(6, 50.0), 0.5)

    def soft(q):
        return boltzmann(q, 0.3)

    rules = [
        plain_rule(), cql_rule(0.05), cql_h_rule(0.05), combo_rule(0.05), dromo_rule(0.05, 0.1),
        strict_dromo_rule(0.05, 0.1),
    ]  # fmt: skip
    for rule in rules:
        result = policy_iteration(problem, rule, pi_beta, soft)
        assert result.converged
        assert soft(result.q) == pytest.approx(result.policy, abs=1e-9)
        rho = occupancy(mdp, result.policy)
        assert rule(problem, result.q, result.policy, rho) == pytest.approx(result.q, abs=1e-10)


def test_greedy_improvement_under_a_penalty_runs_in_a_circle_and_says_so():
    # Two actions worth 0 and -.1; CQL takes .5 off whichever of them the policy takes, so the other looks better.
    mdp = FiniteMDP(np.ones((1, 2, 1)), np.array([[0.0, -0.1]]), 0.5, np.ones(1))
    half = np.array([[0.5, 0.5]])
    problem = OfflineProblem(mdp, mdp, half, half, np.ones(1), 0.5)
    assert not policy_iteration(problem, cql_rule(0.25), np.array([[1.0, 0.0]])).converged
    assert policy_iteration(problem, cql_rule(0.01), np.array([[0.0, 1.0]])).converged


def test_greedy_keeps_to_the_allowed_actions():
    q = np.array([[3.0, 1.0, 2.0]])
    assert greedy(q).tolist() == [[1, 0, 0]]
    assert greedy(q, np.array([[False, True, True]])).tolist() == [[0, 0, 1]]
    assert boltzmann(q, 0.5) == pytest.approx(np.exp(2 * q) / np.exp(2 * q).sum())
    assert boltzmann(1e5 * q, 1.0) == pytest.approx(greedy(q))
