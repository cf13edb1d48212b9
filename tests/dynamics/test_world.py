"""Which rows each fit sees."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_offline import load_dataset
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import DynamicsConfig
from sb3_offline.dynamics import world as world_module
from sb3_offline.dynamics.world import build_dynamics, fit_world, held_out_rows, split_episodes
from sb3_offline.training.rng import Streams

CPU = th.device("cpu")
OPTIONS = {"hidden_sizes": (8,), "n_members": 2, "max_epochs": 1, "batch_size": 64}


@pytest.fixture
def dataset(pendulum_arrays: dict[str, np.ndarray]) -> OfflineDataset:
    """Every reward is its own row number: what a fit saw can be read off."""
    return load_dataset(pendulum_arrays | {"rewards": np.arange(1000.0)}, env_id="Pendulum-v1")


def fit(dataset: OfflineDataset, **options: Any) -> Any:
    config = DynamicsConfig.from_kwargs(OPTIONS | options)
    streams = Streams(0, CPU)
    model = build_dynamics(dataset.observations.shape[1], dataset.actions.shape[1], config, streams, CPU)
    fit_world(model, dataset, config, streams)
    return model


def test_calibration_and_test_rows_are_kept_from_the_fit(dataset: OfflineDataset, monkeypatch: Any) -> None:
    seen: dict[str, set[int]] = {}
    original_fit, original_residuals = world_module.fit_ensemble, world_module.standardized_residuals

    def spy_fit(model: Any, optimizer: Any, *columns: th.Tensor, **kwargs: Any) -> Any:
        seen["fit"] = set(columns[3].int().tolist())
        return original_fit(model, optimizer, *columns, **kwargs)

    def spy_residuals(model: Any, columns: Any) -> th.Tensor:
        seen["calibration"] = set(columns.rewards.int().tolist())
        return original_residuals(model, columns)

    monkeypatch.setattr(world_module, "fit_ensemble", spy_fit)
    monkeypatch.setattr(world_module, "standardized_residuals", spy_residuals)
    model = fit(dataset, calibration="std", calibration_fraction=0.25, test_fraction=0.4)
    test = set(split_episodes(dataset, 2)[1].tolist())
    assert test == {*range(200), *range(400, 600), *range(800, 1000)}  # every second of five episodes
    assert len(seen["calibration"]) == 100
    assert len(seen["fit"]) == 300
    assert not seen["calibration"] & seen["fit"]
    assert seen["calibration"] | seen["fit"] | test == set(range(1000))
    assert set(held_out_rows(model, dataset).tolist()) <= seen["fit"]
    assert len(held_out_rows(model, dataset)) == 60  # holdout_fraction .2 of 300
    assert int(model.test_every) == 2


def test_held_out_rows_are_rows_of_the_dataset(dataset: OfflineDataset) -> None:
    model = fit(dataset)
    rows = held_out_rows(model, dataset)
    assert len(rows) == len(set(rows)) == 200
    targets = np.concatenate([dataset.next_observations - dataset.observations, dataset.rewards[:, None]], axis=1)[rows]
    mean, _ = model(th.as_tensor(dataset.observations[rows]), th.as_tensor(dataset.actions[rows]))
    residuals = mean.mean(0).detach().numpy() - targets
    assert model.residual_std.numpy() == pytest.approx(np.sqrt((residuals**2).mean(0)), rel=1e-3)


def test_other_data_are_all_held_out(dataset: OfflineDataset) -> None:
    model = fit(dataset)
    model.holdout_rows[0] = 5000
    rows = held_out_rows(model, dataset)
    assert rows.tolist() == list(range(1000))


def test_too_little_data_is_refused(dataset: OfflineDataset, pendulum_arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="needs at least 60 rows of its own, and has 50"):
        fit(dataset, calibration="std", calibration_fraction=0.05)
    short = {name: values[:200] for name, values in pendulum_arrays.items()}
    with pytest.raises(ValueError, match=r"test_fraction=0\.1 sets whole episodes aside, but the data hold 1"):
        fit(load_dataset(short, env_id="Pendulum-v1"), test_fraction=0.1)


@pytest.mark.parametrize("calibration", ["std", "isotonic", "scaling-binning"])
def test_zero_rewards_and_huge_scales_calibrate(pendulum_arrays: dict[str, np.ndarray], calibration: str) -> None:
    scale = np.array([1e-4, 1.0, 1e4])
    names = ("observations", "next_observations")
    arrays = pendulum_arrays | {name: pendulum_arrays[name] * scale for name in names} | {"rewards": np.zeros(1000)}
    box = gym.spaces.Box(-1e6, 1e6, (3,), np.float32)
    data = load_dataset(arrays, observation_space=box, action_space=gym.make("Pendulum-v1").action_space)
    model = fit(data, calibration=calibration)
    sample = model.sample(th.as_tensor(data.observations), th.as_tensor(data.actions), th.Generator().manual_seed(0))
    assert th.isfinite(sample.next_observations).all()
    assert (sample.rewards.abs() < 1e-9).all()
    assert th.isfinite(model.calibration.table).all()
    assert (model.calibration.scale > 0).all()


def test_few_rows_are_fitted_in_small_batches(dataset: OfflineDataset) -> None:
    """200 rows hold two batches of 256 no more: 40 are held out, and 160 are four batches of 50, the last one smaller."""
    few = dataset.take_episodes(np.array([0]))
    steps: list[int] = []
    original_step = th.optim.Adam.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(th.optim.Adam, "step", lambda self, *args: (steps.append(1), original_step(self, *args))[1])
        model = fit(few, batch_size=None, termination="never")
    assert len(few) == 200
    assert bool(model.fitted)
    assert len(steps) == 4
    with pytest.raises(ValueError, match=r"200 transitions are too few.*change batch_size"):
        fit(few, batch_size=256)
