"""Successors are not taken on trust: resets, fillings and mixed orders are named; tasks that jump by themselves are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.checks import Finding, check_dataset
from tests.conftest import Arrays

N, LENGTH = 6000, 20
SPACES: dict[str, Any] = {
    "observation_space": spaces.Box(-np.inf, np.inf, (3,)),
    "action_space": spaces.Box(-1, 1, (1,)),
}
KEYS = ("observations", "next_observations", "actions", "rewards", "terminations", "truncations")


def linear(n: int = N, seed: int = 0, length: int = LENGTH) -> Arrays:
    """Episodes of a stable system under random actions, each from a place of its own, all cut."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (n, 1))
    observations, following = np.zeros((n, 3)), np.zeros((n, 3))
    for t in range(n):
        observations[t] = rng.normal(size=3) if t % length == 0 else following[t - 1]
        following[t] = 0.9 * observations[t] + 0.3 * actions[t] + 0.05 * rng.normal(size=3)
    rewards = -(observations**2).sum(axis=1)
    ends = np.arange(n) % length == length - 1
    return dict(zip(KEYS, (observations, following, actions, rewards, np.zeros(n, bool), ends), strict=True))


def load(arrays: Arrays, **changes: Any) -> OfflineDataset:
    return load_dataset(arrays, **{**SPACES, **changes})


def order(dataset: OfflineDataset) -> list[Finding]:
    """What is found of successors; actions, rewards and numbers of rows are not meant here."""
    findings = check_dataset(dataset)
    return [f for f in findings if f.check == "reset_rows" or (f.key == "next_observations" and f.check != "no_next")]


def only(dataset: OfflineDataset) -> Finding:
    findings = order(dataset)
    assert len(findings) == 1, list(map(str, findings))
    return findings[0]


def vector_log(env_id: str, n_envs: int, steps: int) -> Arrays:
    """What a loop around gymnasium's vector environment logs, arrays (steps, n_envs, ...)."""
    envs = gym.make_vec(env_id, num_envs=n_envs, vectorization_mode="sync")
    envs.action_space.seed(0)
    observations, rows = envs.reset(seed=0)[0], []
    for _ in range(steps):
        actions = envs.action_space.sample()
        after, rewards, terminations, truncations, _ = envs.step(actions)
        rows.append((observations, after, actions, rewards, terminations, truncations))
        observations = after
    return dict(zip(KEYS, map(np.array, zip(*rows, strict=True)), strict=True))


def spaces_of(env_id: str) -> Arrays:
    env = gym.make(env_id)
    return {"observation_space": env.observation_space, "action_space": env.action_space}


# --- vector environments ---


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "MountainCar-v0"])
def test_reset_rows_of_vector_environments(env_id: str) -> None:
    arrays = {key: value[:, 0] for key, value in vector_log(env_id, 1, 3000).items()}
    ends = arrays["terminations"] | arrays["truncations"]
    finding = only(load(arrays, **spaces_of(env_id)))
    assert (finding.severity, finding.check, finding.count) == ("error", "reset_rows", int(ends[:-1].sum()))
    assert finding.where.startswith(f"rows {np.flatnonzero(ends)[0] + 1}, {np.flatnonzero(ends)[1] + 1}, ")
    assert "the action was ignored" in finding.what
    kept = ~np.append(False, ends[:-1])  # as the message says
    data = load({key: value[kept] for key, value in arrays.items()}, **spaces_of(env_id))
    assert order(data) == []
    assert len(data) == kept.sum()


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "MountainCar-v0"])
def test_reset_rows_without_next_observations(env_id: str, n_envs: int) -> None:
    """One environment after the other, whose last rows are cut."""
    arrays = vector_log(env_id, n_envs, 1500)
    del arrays["next_observations"]
    arrays["truncations"][-1] |= ~arrays["terminations"][-1]
    arrays = {key: np.swapaxes(value, 0, 1).reshape(-1, *value.shape[2:]) for key, value in arrays.items()}
    ends = arrays["terminations"] | arrays["truncations"]
    after = np.append(False, ends[:-1])
    after[::1500] = False
    finding = only(load(arrays, **spaces_of(env_id)))
    seen = int((after & ~ends).sum())  # one that is a log's last row is left out
    assert (finding.severity, finding.check, finding.count) == ("warning", "reset_rows", seen)
    assert "Drop them" in finding.advice
    assert order(load({key: value[~after] for key, value in arrays.items()}, **spaces_of(env_id))) == []


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_rewards_that_come_a_row_late_are_no_resets(env_id: str) -> None:
    """Zero in the first row of each episode alone, as after dm_env's reset."""
    arrays = vector_log(env_id, 1, 3000)
    arrays = {key: value[:, 0] for key, value in arrays.items() if key != "next_observations"}
    after = np.append(False, (arrays["terminations"] | arrays["truncations"])[:-1])
    arrays = {key: value[~after] for key, value in arrays.items()}
    first = np.append(True, (arrays["terminations"] | arrays["truncations"])[:-1])
    arrays["rewards"] = np.where(first, 0.0, np.roll(arrays["rewards"], 1))
    assert order(load(arrays, **spaces_of(env_id))) == []


def test_resets_that_are_no_jump_show_by_their_reward_alone() -> None:
    arrays = linear(length=N)  # a process that runs on
    arrays["truncations"] = np.arange(N) % LENGTH == LENGTH - 1
    assert order(load(arrays)) == []
    arrays["rewards"][LENGTH::LENGTH] = 0.0
    finding = only(load(arrays))
    assert (finding.severity, finding.check, finding.count) == ("warning", "reset_rows", N // LENGTH - 1)


def test_several_vector_environments_in_turns() -> None:
    arrays = {key: value.reshape(-1, *value.shape[2:]) for key, value in vector_log("CartPole-v1", 4, 1500).items()}
    finding = only(load(arrays, **spaces_of("CartPole-v1")))
    assert (finding.severity, finding.check) == ("error", "interleaved")
    assert "by the one 4 rows on, as if steps of 4 environments took turns" in finding.what
    arrays = {key: x.reshape(-1, 4, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape) for key, x in arrays.items()}
    arrays["truncations"][1499::1500] |= ~arrays["terminations"][1499::1500]
    assert only(load(arrays, **spaces_of("CartPole-v1"))).check == "reset_rows"
    kept = ~np.append(False, (arrays["terminations"] | arrays["truncations"])[:-1])
    assert order(load({key: value[kept] for key, value in arrays.items()}, **spaces_of("CartPole-v1"))) == []


def test_arrays_that_still_have_an_axis_of_environments() -> None:
    arrays = vector_log("CartPole-v1", 4, 50)
    with pytest.raises(ValueError, match="If these are 50 steps of 4 environments, turn every array into one environment"):
        load(arrays, **spaces_of("CartPole-v1"))
    arrays = {key: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]) for key, x in arrays.items()}
    assert len(load(arrays, **spaces_of("CartPole-v1"))) == 200


@pytest.mark.parametrize("n_envs", [2, 7, 64])
def test_inferred_successors_of_environments_in_turns(n_envs: int) -> None:
    parts = [linear(N // n_envs // LENGTH * LENGTH, seed) for seed in range(n_envs)]
    turns = {key: np.stack([part[key] for part in parts], axis=1) for key in KEYS}
    turns = {key: value.reshape(-1, *value.shape[2:]) for key, value in turns.items() if key != "next_observations"}
    finding = only(load(turns))
    assert (finding.severity, finding.check) == ("error", "interleaved")
    assert f"by the one {n_envs} rows on" in finding.what
    back = {key: x.reshape(-1, n_envs, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape) for key, x in turns.items()}
    assert order(load(back)) == []


def test_an_observation_that_was_not_taken_up_after_a_reset() -> None:
    arrays = linear()
    starts = np.arange(LENGTH, N, LENGTH)
    arrays["observations"][starts] = arrays["next_observations"][starts - 1]  # obs = next_obs, also after a reset
    finding = only(load(arrays))
    assert (finding.severity, finding.check, finding.count) == ("error", "reset_rows", len(starts))
    assert "as if env.reset()'s observation had not been taken up" in finding.what
    kept = ~np.isin(np.arange(N), starts)
    assert order(load({key: value[kept] for key, value in arrays.items()})) == []


def test_next_observations_after_a_reset_where_states_are_counted() -> None:
    arrays = {key: value[:, 0] for key, value in vector_log("FrozenLake-v1", 1, 3000).items()}
    kept = ~np.append(False, (arrays["terminations"] | arrays["truncations"])[:-1])
    arrays = {key: value[kept] for key, value in arrays.items()}
    ends = arrays["terminations"] | arrays["truncations"]
    arrays["next_observations"][ends] = 0  # FrozenLake begins there
    finding = only(load(arrays, **spaces_of("FrozenLake-v1")))
    assert (finding.severity, finding.check, finding.count) == ("error", "crossing", int(ends[:-1].sum()))


# --- next observations at ends ---


@pytest.mark.parametrize("value", [0.0, -1.0, 7.0])
@pytest.mark.parametrize("part", [1.0, 0.4])
def test_a_constant_in_place_of_the_last_observation(value: float, part: float) -> None:
    arrays = linear()
    ends = np.flatnonzero(arrays["truncations"])
    ends = ends[: int(part * len(ends))]
    arrays["next_observations"][ends] = value
    finding = only(load(arrays))
    assert (finding.severity, finding.check, finding.count, finding.total) == ("error", "filled_ends", len(ends), 300)
    assert finding.where == "rows 19, 39, 59, ..."
    assert f"all {value:g} in truncated rows" in finding.what
    arrays["next_observations"][ends] = np.nan  # as the message says
    with pytest.warns(UserWarning, match=f"NaN in {len(ends)} rows"):
        data = load(arrays)
    assert order(data) == []
    assert len(data) == N - len(ends)
    del arrays["next_observations"]
    assert len(load(arrays)) == N - 300


def test_the_rows_own_observation_in_place_of_the_last_one() -> None:
    arrays = linear()
    ends = arrays["truncations"]
    arrays["next_observations"][ends] = arrays["observations"][ends]
    finding = only(load(arrays))
    assert (finding.severity, finding.check, finding.count) == ("warning", "repeated_ends", 300)


def test_a_filling_that_the_task_could_reach_is_warned_of() -> None:
    arrays = linear()
    arrays["observations"] *= 0.1  # slow, about zero
    arrays["next_observations"] = 0.1 * arrays["next_observations"]
    ends = arrays["truncations"]
    arrays["observations"][ends] = 1e-3 * np.random.default_rng(1).normal(size=(300, 3))
    arrays["next_observations"][np.flatnonzero(ends) - 1] = arrays["observations"][ends]
    arrays["next_observations"][ends] = 0.0
    finding = only(load(arrays))
    assert (finding.severity, finding.check, finding.count) == ("warning", "filled_ends", 300)


def test_an_episode_that_is_played_again_in_every_detail_ends_alike() -> None:
    once = linear(LENGTH)
    arrays = {key: np.concatenate([value] * 300) for key, value in once.items()}
    assert order(load(arrays)) == []


def test_what_reset_returned_in_place_of_the_last_observation() -> None:
    arrays = linear()
    ends = np.flatnonzero(arrays["truncations"])
    arrays["next_observations"][ends] = 1.5 * np.random.default_rng(5).normal(size=(300, 3))
    finding = only(load(arrays))
    assert (finding.severity, finding.check, finding.count) == ("warning", "jumps_at_ends", 300)
    assert "perhaps what env.reset() returned" in finding.what


def test_terminal_rows_that_are_filled_are_for_no_dynamics_model() -> None:
    arrays = linear()
    ends = arrays["truncations"].copy()
    arrays["terminations"], arrays["truncations"] = ends, np.zeros(N, bool)
    arrays["next_observations"][ends] = 0.0
    finding = only(load(arrays))
    assert (finding.severity, finding.check, finding.count) == ("warning", "filled_ends", 300)
    data = load({**arrays, "valid_next": ~ends})  # as the message says
    assert (int(data.terminations.sum()), order(data)) == (300, [])


# --- ends that nobody marked ---


def test_unmarked_ends_at_one_distance() -> None:
    arrays = linear(length=50)
    del arrays["next_observations"]
    arrays["truncations"][:] = False
    finding = only(load(arrays))
    assert (finding.severity, finding.check) == ("warning", "unmarked_ends")
    assert "50 rows or a multiple of that apart" in finding.what
    assert finding.where.startswith("rows 49, 99, ")


def test_unmarked_ends_that_lead_to_one_place() -> None:
    data = load_dataset("CartPole-medium-replay-v0")
    arrays = {key: getattr(data, key) for key in ("observations", "actions", "rewards", "terminations")}
    finding = only(load_dataset(arrays, env_id="CartPole-v1"))
    assert (finding.severity, finding.check) == ("warning", "unmarked_ends")
    rows = np.flatnonzero(data.truncations)
    assert finding.count <= len(rows)
    assert int(finding.where.split()[1].strip(",")) in rows


def test_rows_in_no_order() -> None:
    arrays = linear()
    mixed = np.random.default_rng(0).permutation(N)
    shuffled = {key: value[mixed] for key, value in arrays.items() if key != "next_observations"}
    finding = only(load(shuffled))
    assert (finding.severity, finding.check) == ("warning", "unrelated_rows")
    singles = {key: value[mixed] for key, value in arrays.items()} | {"truncations": np.ones(N, bool)}
    assert order(load(singles)) == []  # with their own next observations: single transitions


# --- tasks that jump by themselves ---


def swing(state: np.ndarray, action: float, rng: np.random.Generator) -> np.ndarray:
    """Back and forth, with a period of four steps."""
    return np.array([-state[1], state[0], 0.5 * state[2]]) + 0.1 * action + 0.02 * rng.normal(size=3)


def demand(state: np.ndarray, action: float, rng: np.random.Generator) -> np.ndarray:
    """A stock that is ordered for; the demand of each day is drawn afresh, and so is the price."""
    return np.array([max(state[0] + 2 * action - state[1], 0.0), rng.exponential(), rng.normal()])


def renewal(state: np.ndarray, action: float, rng: np.random.Generator) -> np.ndarray:
    """Wear grows until the action is to renew."""
    return np.zeros(3) if action > 0.9 else state + rng.exponential(size=3)


def shocks(state: np.ndarray, action: float, rng: np.random.Generator) -> np.ndarray:
    """Rare large jumps."""
    return 0.9 * state + 0.1 * action + 0.05 * rng.normal(size=3) + (rng.random() < 0.02) * 5 * rng.normal(size=3)


def heavy(state: np.ndarray, action: float, rng: np.random.Generator) -> np.ndarray:
    return 0.9 * state + 0.1 * action + 0.1 * np.clip(rng.standard_cauchy(3), -50, 50)


def regimes(state: np.ndarray, action: float, rng: np.random.Generator) -> np.ndarray:
    """A mode that flips, and a level that it sets."""
    mode = -state[0] if rng.random() < 0.05 else (state[0] or 1.0)
    return np.array([mode, 0.5 * state[1] + mode, action + 0.1 * rng.normal()])


def coarse(state: np.ndarray, action: float, rng: np.random.Generator) -> np.ndarray:
    """Sensors that show whole numbers and often stay."""
    return np.round(np.clip(state + action * (rng.random() < 0.3), -5, 5))


def draws(_state: np.ndarray, _action: float, rng: np.random.Generator) -> np.ndarray:
    """A context of each step, of which nothing leads to the next."""
    return rng.normal(size=3)


TASKS: list[Callable[..., np.ndarray]] = [swing, demand, renewal, shocks, heavy, regimes, coarse, draws]


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("step", TASKS)
def test_tasks_that_jump_by_themselves(step: Callable[..., np.ndarray], reset: bool) -> None:
    """
    :param reset: each episode from a fresh draw; otherwise the process runs on and only the log is cut
    """
    rng = np.random.default_rng(0)
    arrays = linear()
    for t in range(N):
        fresh = t == 0 or (reset and t % LENGTH == 0)
        arrays["observations"][t] = 3 + rng.normal(size=3) if fresh else arrays["next_observations"][t - 1]
        state, action = arrays["observations"][t], float(arrays["actions"][t, 0])
        arrays["next_observations"][t] = step(state, action, rng)
    if step is not draws or reset:  # drawn afresh, the next episode's first row is a context as any other
        assert order(load(arrays)) == []
    del arrays["next_observations"]
    if step is not draws:
        assert order(load(arrays)) == []


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CliffWalking-v1", "MountainCarContinuous-v0", "Blackjack-v1"])
def test_logs_of_small_tasks_are_sound(env_id: str) -> None:
    env = gym.make(env_id)
    if isinstance(env.observation_space, spaces.Tuple):
        env = gym.wrappers.TransformObservation(env, lambda o: np.array(o, np.float32), spaces.Box(0, 99, (3,)))
    env.action_space.seed(0)
    observation, rows = env.reset(seed=0)[0], []
    for _ in range(3000):
        action = env.action_space.sample()
        after, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, after, action, reward, terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else after
    arrays = dict(zip(KEYS, map(np.array, zip(*rows, strict=True)), strict=True))
    chosen = {"observation_space": env.observation_space, "action_space": env.action_space}
    assert order(load(arrays, **chosen)) == []


@pytest.mark.parametrize(("n_envs", "steps"), [(4, 50), (3, 25), (8, 10)])
@pytest.mark.parametrize("marked", [True, False])
def test_fragments_of_environments_in_turns(n_envs: int, steps: int, marked: bool) -> None:
    """As workers of RLlib hand them over; following the advice leaves nothing to say."""
    rows = 4000 // (n_envs * steps) * steps
    parts = [{key: value[:rows] for key, value in linear(6000, seed, 100).items()} for seed in range(n_envs)]
    turns = {key: np.stack([part[key].reshape(-1, steps, *part[key].shape[1:]) for part in parts], axis=1) for key in KEYS}
    arrays = {key: value.reshape(-1, *value.shape[3:]) for key, value in turns.items() if key != "next_observations"}
    if not marked:
        arrays["truncations"][:] = False
    finding = only(load(arrays))
    assert (finding.severity, finding.check) == ("error", "interleaved")
    assert f"by the one {(n_envs - 1) * steps + 1} rows on, as if fragments of {steps} steps of {n_envs} env" in finding.what
    back = {key: x.reshape(-1, n_envs, steps, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape) for key, x in arrays.items()}
    back["truncations"][rows - 1 :: rows] = True
    if marked:
        assert order(load(back)) == []


def test_a_shock_at_one_time_of_every_episode_is_the_tasks_own() -> None:
    arrays = linear(length=100)
    rng = np.random.default_rng(0)
    for t in range(N):
        fresh = t % 100 == 0
        state = rng.normal(size=3) if fresh else arrays["next_observations"][t - 1]
        shock = 5 * rng.normal(size=3) if t % 100 == 49 else 0.0
        arrays["observations"][t] = state
        arrays["next_observations"][t] = 0.9 * state + 0.3 * arrays["actions"][t] + 0.05 * rng.normal(size=3) + shock
    del arrays["next_observations"]
    assert order(load(arrays)) == []
