"""Each check of the gate: data that trigger it, with the rows and numbers that it must name, and data just beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.catalogue import BUILTIN_TASKS
from sb3_offline.datasets import DatasetInfo, OfflineDataset, load_dataset
from sb3_offline.datasets.checks import Finding, check_dataset
from sb3_offline.datasets.checks.behavior import action_noise
from sb3_offline.datasets.checks.statistics import describe, hash_rows, measure

N = 6000
ACTIONS = spaces.Box(-2.0, 2.0, (2,), np.float32)


def sound(n: int = N, length: int = 100, **changes: Any) -> OfflineDataset:
    """Episodes of ``length`` rows, each a random walk about a place of its own, all cut; uniform actions."""
    rng = np.random.default_rng(0)
    place = np.repeat(rng.normal(size=(n // length + 1, 3)), length, axis=0)[:n]
    observations = (place + 0.05 * rng.normal(size=(n, 3))).astype(np.float32)
    last = np.arange(n) % length == length - 1
    next_observations = np.roll(observations, -1, axis=0)
    next_observations[last] = observations[last] + np.float32(0.01)
    arrays = {
        "observations": observations,
        "actions": rng.uniform(-2, 2, size=(n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "next_observations": next_observations,
        "terminations": np.zeros(n, dtype=bool),
        "truncations": last,
        "valid_next": np.ones(n, dtype=bool),
    }
    box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    return OfflineDataset(DatasetInfo("data", box, ACTIONS), **{**arrays, **changes})


def transitions(n: int = N, **changes: Any) -> OfflineDataset:
    """Single transitions: every row is an episode that was cut."""
    return sound(n, length=1, **changes)


def found(dataset: OfflineDataset, check: str) -> Finding | None:
    return next((finding for finding in check_dataset(dataset) if finding.check == check), None)


def numbers(dataset: OfflineDataset, check: str) -> tuple[str, str, str, int, int]:
    finding = found(dataset, check)
    assert finding is not None
    return finding.severity, finding.key, finding.where, finding.count, finding.total


def test_sound_data_have_no_findings() -> None:
    assert check_dataset(sound()) == []
    assert check_dataset(transitions()) == []


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_packaged_data_have_no_findings(name: str) -> None:
    assert check_dataset(load_dataset(name)) == []


def test_a_finding_is_one_line() -> None:
    data = sound()
    data.rewards[:] = 3.0
    data.terminations[:] = False
    assert str(found(data, "constant_rewards")) == (
        "rewards: all 3 (6,000 of 6,000 rows). There is nothing to learn: is the right column logged?"
    )


# --- errors: the order of rows ---


def test_rows_that_do_not_lead_on() -> None:
    data = sound()
    data.next_observations[[17, 3, 250, 4000], 1] += 0.01
    data.next_observations[99] += 3.0  # the last row of an episode leads where it likes
    assert numbers(data, "broken") == ("error", "next_observations", "rows 3, 17, 250, ...", 4, 5940)


def test_rounding_is_no_break() -> None:
    data = sound()
    spread = float(data.observations[:, 1].std())
    data.next_observations[3, 1] += 0.8e-4 * spread
    assert check_dataset(data) == []
    data.next_observations[3, 1] += 0.6e-4 * spread
    assert numbers(data, "broken")[2:4] == ("row 3", 1)


def test_a_gap_that_is_marked_as_a_cut_is_no_break() -> None:
    data = sound()
    kept = np.ones(N, dtype=bool)
    kept[[40, 41, 207]] = False  # subsampled
    data = replace(data, **{name: getattr(data, name)[kept] for name in ("observations", "actions", "rewards")})
    data = replace(data, **{name: getattr(data, name)[kept] for name in ("next_observations", "terminations", "truncations")})
    data = replace(data, valid_next=data.valid_next[kept])
    assert numbers(data, "broken")[2:4] == ("rows 39, 204", 2)
    data.truncations[[39, 204]] = True  # as the message says
    assert check_dataset(data) == []


def test_without_any_cut_marked_a_break_is_taken_for_one() -> None:
    data = sound(truncations=np.zeros(N, dtype=bool), terminations=np.arange(N) % 200 == 199)
    assert numbers(data, "unmarked_cuts") == ("warning", "next_observations", "rows 99, 299, 499, ...", 30, 5970)
    assert found(data, "broken") is None


def test_next_observations_that_were_not_shifted() -> None:
    data = sound()
    data.next_observations[:] = data.observations
    assert numbers(data, "unshifted") == ("error", "next_observations", "rows 0, 1, 2, ...", 5940, 5940)
    assert found(data, "broken") is None


def test_next_observations_that_cross_episodes() -> None:
    data = sound()
    data.next_observations[[99, 1299]] = data.observations[[100, 1300]]
    assert numbers(data, "crossing") == ("error", "next_observations", "rows 99, 1299", 2, 59)
    data.terminations[99], data.truncations[99] = True, False
    assert numbers(data, "crossing")[3] == 2
    data.valid_next[99] = False  # then nobody looks at it
    assert numbers(data, "crossing")[2:4] == ("row 1299", 1)


def test_a_process_that_runs_on_after_a_cut_does_not_cross() -> None:
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(size=(N + 1, 3)), axis=0).astype(np.float32)
    data = sound(observations=walk[:-1], next_observations=walk[1:])  # a log in daily parts
    assert [finding.check for finding in check_dataset(data)] == []


def test_where_every_row_ends_an_episode_a_step_is_long_beside_the_spread_of_the_data() -> None:
    data = transitions()
    data.next_observations[:-1] = data.observations[1:]  # a bandit's next context is another episode's
    assert numbers(data, "crossing")[3:] == (N - 1, N - 1)
    walk = np.cumsum(np.random.default_rng(1).normal(size=(N + 1, 3)), axis=0).astype(np.float32)
    data = transitions(observations=walk[:-1], next_observations=walk[1:])
    assert check_dataset(data) == []  # a process of which every row was marked as cut


def test_short_episodes_that_are_alike_took_no_turns() -> None:
    """Three steps an episode, always the same states: three rows on is the next episode, not what follows."""
    step, states = np.arange(N) % 3, np.eye(4, 3, dtype=np.float32)
    columns = {"observations": states[step], "next_observations": states[step + 1]}
    alike = sound(**columns, terminations=step == 2, truncations=np.zeros(N, dtype=bool))
    assert not [finding for finding in check_dataset(alike) if finding.severity == "error"]


def test_a_single_row() -> None:
    assert {finding.check for finding in check_dataset(sound(1)) if finding.severity == "error"} == set()


def test_numbers_near_the_largest() -> None:
    data = sound()
    for array in (data.observations, data.next_observations):
        array *= np.float32(3e38) / np.abs(array).max()
    data.next_observations[3] *= -1
    assert numbers(data, "broken")[2:4] == ("row 3", 1)


def test_a_bandit_whose_observation_never_changes_does_not_cross() -> None:
    ones = np.ones((N, 3), np.float32)
    data = transitions(observations=ones, next_observations=ones)
    assert [finding.check for finding in check_dataset(data)] == ["constant_observations"]


def test_rows_of_a_list_are_named_by_their_source() -> None:
    data = sound()
    broken = replace(data, next_observations=data.next_observations.copy())
    broken.next_observations[7] += 1.0
    joint = load_dataset([data, [data, broken]])
    assert numbers(joint, "broken")[2] == f"row {2 * N + 7} (row {N + 7} of source 2, data + data)"
    finding = found(load_dataset([data, data, broken]), "broken")
    assert finding is not None
    assert finding.where == f"row {2 * N + 7} (row 7 of source 3, data)"


# --- warnings: rows ---


@pytest.mark.parametrize("copies", [7, 6])
def test_duplicates(copies: int) -> None:
    data = transitions(600)
    for name in ("observations", "actions", "rewards", "next_observations"):
        getattr(data, name)[500 : 500 + copies] = getattr(data, name)[:copies]
    data.observations[0, 0], data.observations[500, 0] = 0.0, -0.0  # equal numbers
    finding = found(data, "duplicates")
    assert (finding is None) == (copies == 6)  # 1% is tolerated
    if finding is not None:
        assert (finding.where, finding.count, finding.total) == ("rows 500, 501, 502, ...", 7, 600)
    data.rewards[500:] += 1.0  # the same state and action once more is no duplicate
    assert found(data, "duplicates") is None


def test_states_that_can_be_counted_come_back() -> None:
    data = transitions(observations=np.zeros(N, np.int64), next_observations=np.zeros(N, np.int64))
    data.actions[:] = data.actions[0]
    data.rewards[:] = 1.0
    data = replace(data, info=replace(data.info, observation_space=spaces.Discrete(4)))
    assert len(measure(data).duplicates) == N - 1
    assert found(data, "duplicates") is None


def test_few_rows() -> None:
    assert numbers(sound(4999), "few_rows")[3] == 4999
    assert found(sound(5000), "few_rows") is None


def test_terminal_rows_without_a_next_observation() -> None:
    data = sound()
    data.terminations[[99, 299]], data.truncations[[99, 299]] = True, False
    assert found(data, "no_next") is None
    data.valid_next[[99, 299]] = False
    assert numbers(data, "no_next")[2:4] == ("rows 99, 299", 2)


# --- warnings: episodes ---


def test_one_single_episode() -> None:
    data = sound(length=N)
    assert numbers(data, "one_episode")[3:] == (N, N)
    data.truncations[50] = True
    assert found(data, "one_episode") is None


def of_lengths(lengths: list[int], **changes: Any) -> OfflineDataset:
    """Episodes that all terminate, and one of 5 rows that is cut."""
    ends = np.cumsum(lengths) - 1
    n = int(ends[-1]) + 6
    terminations, truncations = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    terminations[ends], truncations[-1] = True, True
    return transitions(n, terminations=terminations, truncations=truncations, **changes)


@pytest.mark.parametrize(
    ("lengths", "count"),
    [
        ([20] * 8, 8),  # all at one length
        ([12, 17, 20, 15, 20, 20], 3),
        ([12, 17, 20, 15, 20, 19], None),  # two may happen
        ([*range(10, 67), 70, 70, 70], None),  # 5% of 60
        ([*range(10, 66), 70, 70, 70], 3),
        ([9] * 8, None),  # short tasks end so
        ([20] * 8 + [21], None),  # it is not the longest
    ],
)
def test_terminations_at_the_longest_length(lengths: list[int], count: int | None) -> None:
    finding = found(of_lengths(lengths), "terminated_at_limit")
    assert (None if finding is None else finding.count) == count
    if finding is not None:
        assert finding.total == len(lengths)
        assert finding.where.startswith(
            f"row{'s' if finding.count > 1 else ''} {np.cumsum(lengths)[lengths.index(max(lengths))] - 1}"
        )


def test_a_termination_at_the_tasks_own_time_limit() -> None:
    data = of_lengths([40, 200, 60])
    pendulum = replace(data, info=replace(data.info, env_spec=gym.spec("Pendulum-v1")))
    assert numbers(pendulum, "terminated_at_limit")[1:] == ("terminations", "row 239", 1, 3)
    assert found(data, "terminated_at_limit") is None


# --- warnings: actions ---


def test_constant_actions() -> None:
    data = sound()
    data.actions[:, 1] = 0.1
    assert numbers(data, "constant_actions") == ("warning", "actions", "dimension 1", 1, 2)
    assert [finding.check for finding in check_dataset(data)] == ["constant_actions"]
    data.actions[77, 1] = 0.2
    assert found(data, "constant_actions") is None


@pytest.mark.parametrize(("rows", "warned"), [(1801, True), (1800, False)])
def test_saturated_actions(rows: int, warned: bool) -> None:
    data = sound()
    data.actions[:, 1] = np.clip(data.actions[:, 1], -1.99, 1.99)  # the bounds, +-2, take in 1e-3 of the span
    data.actions[:rows, 1] = np.where(np.arange(rows) % 2 == 0, 1.997, -1.997)
    finding = found(data, "saturated_actions")
    assert (finding is not None) == warned
    if finding is not None:
        assert (finding.where, finding.count) == ("dimension 1", 1801)


@pytest.mark.parametrize(("high", "bins"), [(-1.21, 4), (-1.19, 5)])
def test_narrow_actions(high: float, bins: int) -> None:
    data = sound()
    data.actions[:, 0] = np.random.default_rng(0).uniform(-2.0, high, size=N)  # a bin is 0.2 wide
    finding = found(data, "narrow_actions")
    assert (finding is not None) == (bins < 5)
    if finding is not None:
        assert (finding.where, finding.count, finding.total) == ("dimension 0", 4, 20)


@pytest.mark.parametrize(
    ("half_width", "extent", "how"),
    [
        (2.0, 1.0, "scaled to [-1, 1]"),
        (2.0, 0.981, "scaled to [-1, 1]"),
        (2.0, 0.979, None),
        (2.0, 1.021, None),
        (2.0, 0.5, "divided by it twice"),
        (2.0, 0.51, "divided by it twice"),
        (2.0, 0.489, None),
        (0.4, 0.16, "multiplied by it twice"),
        (0.4, 0.2, None),
        (1.0, 1.0, None),
    ],
)
def test_actions_in_other_units(half_width: float, extent: float, how: str | None) -> None:
    actions = np.random.default_rng(0).uniform(-extent, extent, size=(N, 2)).astype(np.float32)
    actions[[5, 6], 0] = -extent, extent
    actions[:, 1] *= half_width / extent
    data = sound(actions=actions)
    space = spaces.Box(-half_width, half_width, (2,), np.float32)
    finding = found(replace(data, info=replace(data.info, action_space=space)), "wrong_scale")
    assert (finding is None) == (how is None)
    if finding is not None:
        assert finding.where == "dimension 0"
        assert str(how) in finding.what


@pytest.mark.parametrize(("noise", "warned"), [(0.0, True), (0.004, True), (0.02, False)])
def test_a_deterministic_policy(noise: float, warned: bool) -> None:
    """``noise`` is a standard deviation; the actions' range is 4, so 0.2% of it is 0.008."""
    data = sound(actions=np.zeros((N, 2), np.float32))
    rng = np.random.default_rng(3)
    for dimension, weights in enumerate(([0.5, -1.0, 0.2], [0.0, 0.3, 1.0])):
        data.actions[:, dimension] = 1.8 * np.tanh(data.observations @ weights) + noise * rng.normal(size=N)
    measured = action_noise(data, measure(data))
    assert measured is not None
    expected = 0.6745 * noise / 4  # the median distance of a normal from its mean
    assert expected <= measured <= 1.5 * expected + 1e-3
    assert (found(data, "deterministic_policy") is not None) == warned


def test_whether_a_policy_is_deterministic_cannot_be_told() -> None:
    data = sound()
    few = sound(60)
    assert action_noise(few, measure(few)) is None  # there are no rows apart
    at_bounds = replace(data, actions=np.full((N, 2), 2.0, np.float32))
    assert action_noise(at_bounds, measure(at_bounds)) is None
    unbounded = replace(data, info=replace(data.info, action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32)))
    assert action_noise(unbounded, measure(unbounded)) is None
    discrete = replace(data, actions=np.arange(N) % 3, info=replace(data.info, action_space=spaces.Discrete(3)))
    assert [finding.check for finding in check_dataset(discrete)] == []


def test_discrete_actions_that_are_never_taken() -> None:
    data = sound(actions=np.arange(N) % 3)
    five = replace(data, info=replace(data.info, action_space=spaces.Discrete(5)))
    assert numbers(five, "unused_actions")[1:] == ("actions", "", 2, 5)


# --- warnings: observations and rewards ---


def test_constant_observations() -> None:
    data = sound()
    data.observations[:, [0, 2]] = data.next_observations[:, [0, 2]] = 0.1
    assert numbers(data, "constant_observations") == ("warning", "observations", "dimensions 0, 2", 2, 3)


@pytest.mark.parametrize(("factor", "warned"), [(1.02e6, True), (0.98e6, False)])
def test_observation_scales(factor: float, warned: bool) -> None:
    data = sound()
    spread = data.observations.std(axis=0)
    for array in (data.observations, data.next_observations):
        array *= np.array([1.0, 10.0, factor], np.float32) / spread.astype(np.float32)
    finding = found(data, "observation_scales")
    assert (finding is not None) == warned
    if finding is not None:
        assert finding.where == "dimensions 0 and 2"
        assert "1e+06" in finding.what


@pytest.mark.parametrize(("zeros", "warned"), [(5401, True), (5400, False)])
def test_sparse_rewards(zeros: int, warned: bool) -> None:
    data = sound()
    data.rewards[:] = 1.0
    data.rewards[:zeros] = 0.0
    assert [finding.check for finding in check_dataset(data)] == (["sparse_rewards"] if warned else [])
    if warned:
        assert numbers(data, "sparse_rewards")[3] == 5401


@pytest.mark.parametrize(
    ("scale", "advice"),
    [(101.0, "reward_scale=0.01"), (99.0, None), (0.0101, None), (0.0099, "reward_scale=100"), (3e5, "reward_scale=1e-05")],
)
def test_reward_scale(scale: float, advice: str | None) -> None:
    data = sound()
    data.rewards[:] = np.where(np.arange(N) % 2 == 0, scale, -scale)
    data.rewards[:2000] = 0.0  # rewards that are not there have no scale
    finding = found(data, "reward_scale")
    assert (finding is None) == (advice is None)
    if finding is not None:
        assert str(advice) in finding.advice
        assert finding.count == 4000


# --- the figures below the checks ---


def test_moments_are_those_of_numpy_over_many_slices() -> None:
    values = np.random.default_rng(0).normal(5.0, [1e-3, 1.0, 100.0], size=(200_000, 3)).astype(np.float32)
    columns = describe(values)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(columns.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(columns.std, exact.std(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(columns.low, exact.min(axis=0))
    np.testing.assert_array_equal(columns.high, exact.max(axis=0))


def test_hashes_are_equal_where_rows_are() -> None:
    """Against numpy's own count, on few-valued data of odd width, where a weak hash would collide."""
    rng = np.random.default_rng(0)
    values, flags = rng.integers(0, 4, size=(50_000, 5)) * 0.25, rng.integers(0, 2, size=50_000).astype(bool)
    images = rng.integers(0, 2, size=(50_000, 3)).astype(np.uint8)
    rows = np.column_stack([values, flags, images])
    hashes = hash_rows(values.astype(np.float32), flags, images)
    _, by_rows = np.unique(rows, axis=0, return_inverse=True)
    _, by_hash = np.unique(hashes, return_inverse=True)
    assert (
        len(np.unique(np.column_stack([by_rows.ravel(), by_hash.ravel()]), axis=0)) == by_rows.max() + 1 == by_hash.max() + 1
    )


def test_memory_mapped_arrays_are_read_only_and_give_the_same_findings(tmp_path: Any) -> None:
    data = sound()
    data.next_observations[[3, 17]] += 1.0
    data.rewards[:] = 2.0
    mapped = {}
    for name in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations", "valid_next"):
        np.save(tmp_path / name, getattr(data, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    assert check_dataset(replace(data, **mapped)) == check_dataset(data)
    assert len(check_dataset(data)) == 2
