"""What the end of an episode pays by itself is paid where imagined episodes end, each end what it is worth."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_offline import load_dataset
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import DynamicsConfig
from sb3_offline.dynamics.end_reward import MAX_ENDS, EndReward
from sb3_offline.dynamics.rollout import rollout
from sb3_offline.dynamics.world import build_dynamics, fit_end_reward, fit_world
from sb3_offline.training.rng import Streams

CPU = th.device("cpu")
OPTIONS = {"hidden_sizes": (32, 32), "n_members": 3, "max_epochs": 60, "batch_size": None}


def corridor(right: float, left: float = 0.0, n_episodes: int = 60, noise: float = 0.3) -> OfflineDataset:
    """
    A walk from 0 by steps of about .1, every other one to the left, that ends beyond .8 on either side, where the right and
    the left pay more than a step does; a step pays -.4 with some noise.
    """
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    }
    for episode in range(n_episodes):
        x, ended, side = 0.0, False, 1.0 if episode % 2 else -1.0
        while not ended:
            action = side * rng.uniform(0.2, 1.0)
            following = x + 0.1 * action + rng.normal(0.0, 0.01)
            ended = abs(following) > 0.8
            paid = -0.4 + noise * rng.normal() + ((right if side > 0 else left) if ended else 0.0)
            for name, value in zip(rows, ([x], [action], paid, [following], ended, False), strict=True):
                rows[name].append(value)
            x = following
    return load_dataset(
        {name: np.asarray(values, dtype=np.float32) for name, values in rows.items()},
        observation_space=gym.spaces.Box(-2.0, 2.0, (1,), np.float32),
        action_space=gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
    )


def fit(dataset: OfflineDataset, **options: Any) -> Any:
    config = DynamicsConfig.from_kwargs(OPTIONS | options)
    streams = Streams(0, CPU)
    model = build_dynamics(1, 1, config, streams, CPU)
    fit_world(model, dataset, config, streams)
    return model


def pays(end_reward: EndReward, *places: float) -> list[float]:
    return end_reward.at(th.tensor(places)[:, None]).tolist()


def fitted(dataset: OfflineDataset, rows: np.ndarray | None = None, **options: Any) -> EndReward:
    end_reward = EndReward(1)
    rows = np.arange(len(dataset)) if rows is None else rows
    fit_end_reward(end_reward, dataset, rows, DynamicsConfig.from_kwargs(options))
    return end_reward


@pytest.mark.parametrize(
    ("right", "left"),
    [(10.0, 10.0), (-100.0, -100.0), (10.0, 0.0), (100.0, -100.0), (1.0, 4.0)],
    ids=["a prize", "a fine", "a prize on one side", "a prize and a fine whose mean is 0", "two prizes"],
)
def test_each_end_pays_what_ends_there_pay(right: float, left: float) -> None:
    """Five ends, with a step's noise of .3 on each: the standard deviation of their mean is .13."""
    found = pays(fitted(corridor(right, left)), 0.85, -0.85)
    assert found == pytest.approx([right, left], abs=0.5)


def test_nothing_is_kept_where_no_end_stands_out_or_none_is_imagined() -> None:
    assert int(fitted(corridor(0.5, 0.5)).n_ends) == 0  # less than three standard deviations of .3
    data = corridor(10.0)
    assert int(fitted(data, termination="never").n_ends) == 0
    for rows in (np.flatnonzero(~data.terminations), np.flatnonzero(data.terminations)):
        assert int(fitted(data, rows).n_ends) == 0
    assert pays(EndReward(1), 0.85) == [0.0]


def test_rows_that_go_on_are_paid_nothing() -> None:
    end_reward = fitted(corridor(10.0, 10.0))
    assert end_reward(th.tensor([[0.7], [0.85]]), th.tensor([False, True])).tolist() == pytest.approx([0.0, 10.0], abs=0.5)


def test_of_many_ends_so_many_are_kept() -> None:
    where = th.linspace(-1.0, 1.0, 3 * MAX_ENDS)[:, None]
    end_reward = EndReward(1)
    end_reward.fit(where, 10.0 * where[:, 0], th.zeros(10))
    assert int(end_reward.n_ends) == MAX_ENDS
    assert pays(end_reward, -1.0, 0.0, 0.5) == pytest.approx([-10.0, 0.0, 5.0], abs=0.1)


def test_a_constant_observation_does_not_count() -> None:
    """Its spread of 0 is not divided by: the nearest are those by the other dimension."""
    where = th.tensor([[3.0, x] for x in (-1.0, -0.9, -0.8, -0.7, -0.6, 0.6, 0.7, 0.8, 0.9, 1.0)])
    end_reward = EndReward(2)
    end_reward.fit(where, th.tensor([-10.0] * 5 + [10.0] * 5), th.zeros(10))
    assert end_reward.at(th.tensor([[3.0, 0.5], [3.0, -0.5]])).tolist() == [10.0, -10.0]


def test_imagined_episodes_are_paid_for_their_end_once() -> None:
    """From just ahead of the ends: whatever is paid more than a step's noise allows comes with the end, and all ends pay."""
    model = fit(corridor(10.0, -50.0))
    starts = th.cat([th.linspace(0.55, 0.79, 500), th.linspace(-0.79, -0.55, 500)])[:, None]
    imagined = rollout(
        model, starts, lambda o: 0.3 * o.sign(), lambda _, __, n: n[:, 0].abs() > 0.8, 20, th.Generator().manual_seed(0)
    )
    ended, right = imagined.terminations, imagined.next_observations[:, 0] > 0
    assert ended.sum() == 1000
    assert imagined.rewards[~ended].abs().max() < 3.0
    assert imagined.rewards[ended & right].mean() == pytest.approx(9.6, abs=0.3)
    assert imagined.rewards[ended & ~right].mean() == pytest.approx(-50.4, abs=0.3)
    assert imagined.rewards[ended & right].min() > 7.0
    assert imagined.rewards[ended & ~right].max() < -47.0


def test_models_of_earlier_versions() -> None:
    """Which knew no reward of ending, or the same for all ends."""
    model = fit(corridor(10.0), max_epochs=1)
    known = {name: value for name, value in model.state_dict().items() if not name.startswith("end_reward.")}
    model.load_state_dict(known)
    assert pays(model.end_reward, 0.85) == [0.0]
    model.load_state_dict({**known, "end_reward": th.tensor(7.0)})
    assert pays(model.end_reward, 0.85, -0.85) == [7.0, 7.0]
