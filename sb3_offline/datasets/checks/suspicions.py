"""What probably is not right: each check yields findings with numbers, or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_offline.datasets.bounded import is_bound
from sb3_offline.datasets.checks.behavior import action_noise
from sb3_offline.datasets.checks.findings import Finding, name_dimensions, name_rows
from sb3_offline.datasets.checks.statistics import Statistics
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import parts_of

FEW_ROWS = 5000
#: Ends at one length are suspect if so many episodes have it, that part of all terminated ones, and it is no shorter.
SAME_LENGTH_EPISODES, SAME_LENGTH_SHARE, SAME_LENGTH_ROWS = 3, 0.05, 10
DUPLICATE_SHARE = 0.01
BOUND_SHARE = 0.3
COVERED_SHARE = 0.25
ZERO_REWARD_SHARE = 0.9
REWARD_SCALES = (1e-2, 1e2)
OBSERVATION_SCALES = 1e6
#: Median distance of actions from a local linear fit, in parts of the action space's span.
DETERMINISTIC_NOISE = 2e-3
#: How near to a signature of wrong scaling the extent of actions must come, in parts of it.
EXTENT_TOLERANCE = 0.02


def check_suspicions(dataset: OfflineDataset, statistics: Statistics) -> Iterator[Finding]:
    """Everything that is warned of, but for the order of rows (:mod:`~sb3_offline.datasets.checks.succession`)."""
    yield from _rows(dataset, statistics)
    yield from _episodes(dataset)
    yield from _actions(dataset, statistics)
    yield from _observations(dataset, statistics)
    yield from _rewards(dataset)


def _warning(check: str, key: str, where: str, count: int, total: int, what: str, advice: str, unit: str = "rows") -> Finding:
    return Finding("warning", check, key, where, int(count), int(total), unit, what, advice)


def _rows(dataset: OfflineDataset, statistics: Statistics) -> Iterator[Finding]:
    n, repeated = len(dataset), statistics.duplicates
    if n < FEW_ROWS:
        yield _warning(
            "few_rows",
            "data",
            "",
            n,
            FEW_ROWS,
            "few transitions",
            "Bring more if you can, and hold CQL, IQL or TD3BC beside what learns a dynamics model from so few.",
            "rows wanted",
        )
    measured = isinstance(dataset.observation_space, spaces.Box | spaces.Dict)  # states that can be counted come back
    if measured and len(repeated) > DUPLICATE_SHARE * n:
        yield _warning(
            "duplicates",
            "data",
            name_rows(dataset, repeated),
            len(repeated),
            n,
            "repeat an earlier transition",
            "Were parts concatenated twice? Drop them: a held-out part of the data then says nothing.",
        )
    missing = np.flatnonzero(~dataset.valid_next)
    if len(missing):
        yield _warning(
            "no_next",
            "next_observations",
            name_rows(dataset, missing),
            len(missing),
            n,
            "terminal rows without a next observation",
            "A dynamics model does not learn from them. Log them.",
        )


def _episodes(dataset: OfflineDataset) -> Iterator[Finding]:
    if dataset.n_episodes == 1:
        yield _warning(
            "one_episode",
            "truncations",
            "",
            len(dataset),
            len(dataset),
            "one single episode",
            "If it is several, mark their ends in terminations and truncations.",
        )
    ends, lengths = dataset.episode_ends, dataset.episode_lengths()
    terminated = dataset.terminations[ends]
    limit = None if dataset.env_spec is None else dataset.env_spec.max_episode_steps
    known = limit is not None and bool((terminated & (lengths == limit)).any())
    length = limit if known and limit is not None else int(lengths.max())
    same = terminated & (lengths == length)
    enough = SAME_LENGTH_EPISODES <= same.sum() > SAME_LENGTH_SHARE * terminated.sum() and length >= SAME_LENGTH_ROWS
    if known or enough:
        longest = f"the task's time limit, {length} rows" if known else f"the longest length of all, {length} rows"
        yield _warning(
            "terminated_at_limit",
            "terminations",
            name_rows(dataset, ends[same]),
            same.sum(),
            terminated.sum(),
            f"end an episode exactly at {longest}",
            "If they were cut by a time limit, mark them as truncations: the value beyond a termination is taken for zero.",
            "terminated episodes",
        )


def _actions(dataset: OfflineDataset, statistics: Statistics) -> Iterator[Finding]:
    n, columns, space = len(dataset), statistics.actions, dataset.action_space
    if isinstance(space, spaces.Discrete) and statistics.coverage[0] < 1:
        unused = round((1 - statistics.coverage[0]) * int(space.n))
        yield _warning(
            "unused_actions",
            "actions",
            "",
            unused,
            int(space.n),
            "never taken",
            "Nothing is known of them: is the action space right?",
            "actions",
        )
    if not isinstance(space, spaces.Box):
        return
    constant = columns.constant
    if constant.any():
        yield _warning(
            "constant_actions",
            "actions",
            name_dimensions(np.flatnonzero(constant)),
            constant.sum(),
            len(constant),
            "never change",
            "Their effect cannot be learned: is the right column logged?",
            "dimensions",
        )
    yield from _scaling(space, statistics)
    for i, share in enumerate(statistics.saturation):
        if share > BOUND_SHARE and not constant[i]:
            yield _warning(
                "saturated_actions",
                "actions",
                f"dimension {i}",
                round(share * n),
                n,
                "at a bound of the action space",
                "The behaviour policy's density is hard to fit there. Were larger actions clipped before they were logged?",
            )
    for i, share in enumerate(statistics.coverage):
        if share < COVERED_SHARE and not constant[i]:
            yield _warning(
                "narrow_actions",
                "actions",
                f"dimension {i}",
                round(share * 20),
                20,
                f"stay between {columns.low[i]:.3g} and {columns.high[i]:.3g}, a small part of the action space",
                "Nothing is known of other actions: keep to a larger conservative_weight.",
                "bins of its range hold a row",
            )
    noise = action_noise(dataset, statistics)
    if noise is not None and noise < DETERMINISTIC_NOISE:
        yield _warning(
            "deterministic_policy",
            "actions",
            "",
            n,
            n,
            f"a function of the observation, to {noise:.2%} of their range, as one deterministic policy makes them",
            "No other action is known at any state, so DROMO's variance and CQL's support say little: add data with noise.",
        )


def _scaling(space: spaces.Box, statistics: Statistics) -> Iterator[Finding]:
    """In a symmetric space of half-width h, actions that fill exactly what a wrong scaling maps [-h, h] to."""
    half, columns = space.high.reshape(-1).astype(np.float64), statistics.actions
    bounded = is_bound(half)
    for i, h in enumerate(half):
        symmetric = bounded[i] and h == -space.low.reshape(-1)[i]
        if not symmetric or abs(h - 1) < 2 * EXTENT_TOLERANCE or columns.constant[i]:
            continue
        signatures = {"divided by it twice": 1 / h, "scaled to [-1, 1]": 1.0} if h > 1 else {"multiplied by it twice": h * h}
        for how, extent in signatures.items():
            if max(abs(columns.high[i] - extent), abs(columns.low[i] + extent)) <= EXTENT_TOLERANCE * extent:
                yield _warning(
                    "wrong_scale",
                    "actions",
                    f"dimension {i}",
                    1,
                    len(half),
                    f"fill {columns.low[i]:.3g} to {columns.high[i]:.3g} of -{h:g} to {h:g}, as if {how}",
                    "Actions are needed in the environment's own units: undo the scaling if there was one.",
                    "dimensions",
                )


def _observations(dataset: OfflineDataset, statistics: Statistics) -> Iterator[Finding]:
    columns = statistics.observations
    space = dataset.observation_space
    members = space.values() if isinstance(space, spaces.Dict) else [space]
    pixels = [is_image_space(member) for member in members]  # many never change, and their spread says nothing
    sizes = [part.size for part in parts_of(dataset.observations[:1])]
    numbers = ~np.repeat(pixels, sizes)
    constant = columns.constant & numbers
    if constant.any():
        yield _warning(
            "constant_observations",
            "observations",
            name_dimensions(np.flatnonzero(constant)),
            constant.sum(),
            len(constant),
            "never change",
            "Leave them out, or make sure that they are constant in the task, too.",
            "dimensions",
        )
    moving = np.flatnonzero(~columns.constant & numbers)
    if len(moving) < 2:
        return
    spread = columns.std[moving]
    if spread.max() > OBSERVATION_SCALES * spread.min():
        small, large = moving[spread.argmin()], moving[spread.argmax()]
        yield _warning(
            "observation_scales",
            "observations",
            f"dimensions {small} and {large}",
            2,
            len(constant),
            f"differ in spread by a factor of {spread.max() / spread.min():.0e}",
            "Use VecNormalize(norm_obs=True, norm_reward=False), or other units.",
            "dimensions",
        )


def _rewards(dataset: OfflineDataset) -> Iterator[Finding]:
    rewards, n = dataset.rewards, len(dataset)
    survival = rewards[0] != 0 and dataset.terminations.any()  # one reward a step, as in CartPole: its end is the signal
    if rewards.min() == rewards.max() and not survival:
        yield _warning(
            "constant_rewards",
            "rewards",
            "",
            n,
            n,
            f"all {rewards[0]:g}",
            "There is nothing to learn: is the right column logged?",
        )
        return
    zeros = int((rewards == 0).sum())
    if zeros > ZERO_REWARD_SHARE * n:
        yield _warning("sparse_rewards", "rewards", "", zeros, n, "zero", "Sparse rewards need long horizons: look at gamma.")
    scale = float(np.sqrt(np.square(rewards, dtype=np.float64).sum() / (n - zeros)))
    if not REWARD_SCALES[0] <= scale <= REWARD_SCALES[1]:
        size, harm = ("large", "critics diverge") if scale > 1 else ("small", "the entropy term outweighs them")
        factor = 10.0 ** -round(math.log10(scale))
        yield _warning(
            "reward_scale",
            "rewards",
            "",
            n - zeros,
            n,
            f"{size}: {scale:.3g} in root mean square where not zero, about {100 * scale:.2g} for Q at gamma=0.99",
            f"At this scale {harm}: give the algorithm reward_scale={factor:g}, unless it has it already.",
        )
