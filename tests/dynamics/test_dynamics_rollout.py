"""Rollouts of a model whose every step is known: the first observation counts up, the second doubles."""

import pytest
import torch as th

from sb3_offline.dynamics import EnsembleDynamics, resolve_termination, rollout


@pytest.fixture
def counter() -> EnsembleDynamics:
    """Next observation = (s_0 + 1 + 10 a, 2 s_1), reward = s_0, without noise."""
    model = EnsembleDynamics(2, 1, n_members=3, n_elites=2, hidden_sizes=())
    with th.no_grad():
        model.weights[0].zero_()
        model.weights[0][:, 2, 0] = 10.0
        model.weights[0][:, 1, 1] = 1.0
        model.weights[0][:, 0, 2] = 1.0
        model.biases[0][:, 0, 0] = 1.0
        model.biases[0][:, 0, 3:] = -400.0
        model.min_logvar.fill_(-300.0)  # a std that float32 rounds to 0
    model.fitted.fill_(True)
    return model


class CountingPolicy:
    """Always 0, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []

    def __call__(self, observations: th.Tensor) -> th.Tensor:
        self.asked.append(observations[:, 0].tolist())
        return th.zeros(len(observations), 1)


def from_three(_obs, _act, next_obs):
    return next_obs[:, 0] >= 3


def roll(model, starts, policy, termination=from_three, horizon=5):
    starts = th.tensor([[s, 0.0] if isinstance(s, float) else list(s) for s in starts])
    termination = resolve_termination(termination, None, has_terminations=False)
    return rollout(model, starts, policy, termination, horizon, th.Generator().manual_seed(0))


def test_ended_rows_are_never_stepped_again(counter):
    policy = CountingPolicy()
    result = roll(counter, [0.0, 2.0, -10.0], policy)
    # 0 -> 1 -> 2 -> 3 ends; 2 -> 3 ends; -10 reaches the horizon
    assert policy.asked == [[0, 2, -10], [1, -9], [2, -8], [-7], [-6]]
    assert result.lengths.tolist() == [3, 1, 5]
    assert result.n_non_finite == 0
    assert result.starts.tolist() == [0, 1, 2, 0, 2, 0, 2, 2, 2]
    assert result.observations[:, 0].tolist() == [0, 2, -10, 1, -9, 2, -8, -7, -6]
    assert result.next_observations[:, 0].tolist() == [1, 3, -9, 2, -8, 3, -7, -6, -5]
    assert result.rewards.tolist() == [0, 2, -10, 1, -9, 2, -8, -7, -6]
    assert result.terminations.tolist() == [False, True, False, False, False, True, False, False, False]
    assert result.actions.shape == (9, 1)


def test_it_stops_when_every_row_has_ended(counter):
    policy = CountingPolicy()
    result = roll(counter, [2.0, 2.5], policy, horizon=100)
    assert len(policy.asked) == 1
    assert result.lengths.tolist() == [1, 1]


def test_actions_are_given_to_the_model_in_env_units(counter):
    result = roll(counter, [0.0], lambda observations: th.full((len(observations), 1), -2.0), horizon=2)
    assert result.next_observations[:, 0].tolist() == [-19, -38]
    assert result.actions.tolist() == [[-2], [-2]]


def test_rows_that_leave_the_finite_numbers_are_dropped_and_counted(counter):
    policy = CountingPolicy()
    result = roll(counter, [(0.0, 1.0), (-1.0, 1e38), (-2.0, -3e38)], policy, termination="never", horizon=3)
    # 1e38 doubles once, -3e38 never: those transitions are not recorded, and the rows end
    assert result.lengths.tolist() == [3, 1, 0]
    assert result.n_non_finite == 2
    assert policy.asked == [[0, -1, -2], [1, 0], [2]]
    assert th.isfinite(result.next_observations).all()


def test_nothing_is_left_when_all_rows_are_lost(counter):
    result = roll(counter, [(0.0, 3e38)], CountingPolicy(), termination="never")
    assert result.lengths.tolist() == [0]
    assert result.observations.shape == (0, 2)
    assert result.n_non_finite == 1


def test_the_callable_sees_what_is_recorded(counter):
    seen = []

    def remember(obs, act, next_obs):
        seen.append((obs, act, next_obs))
        return next_obs[:, 0] >= 3

    result = roll(counter, [0.0, 1.0], CountingPolicy(), termination=remember)
    for i, column in enumerate((result.observations, result.actions, result.next_observations)):
        assert th.equal(th.cat([call[i] for call in seen]), column)


def test_same_generator_same_rollout():
    model = EnsembleDynamics(2, 1, generator=th.Generator().manual_seed(0))
    model.fitted.fill_(True)
    results = [roll(model, [0.0, 1.0, 2.0] * 5, CountingPolicy(), termination="never") for _ in range(2)]
    assert th.equal(results[0].next_observations, results[1].next_observations)
    assert results[0].lengths.tolist() == [5] * 15


def test_an_unfitted_model_and_a_horizon_of_zero_are_refused(counter):
    with pytest.raises(ValueError, match="horizon"):
        roll(counter, [0.0], CountingPolicy(), horizon=0)
    counter.fitted.fill_(False)
    with pytest.raises(ValueError, match="not fitted"):
        roll(counter, [0.0], CountingPolicy())
