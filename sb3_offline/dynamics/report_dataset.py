"""A model report for data alone: fit a model with episodes kept apart, and measure it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.utils import get_device

from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics.actions import encoded_action_dim
from sb3_offline.dynamics.config import DynamicsConfig
from sb3_offline.dynamics.report import ModelReport, model_report
from sb3_offline.dynamics.termination import resolve_termination
from sb3_offline.dynamics.world import build_dynamics, fit_world
from sb3_offline.training.rng import Streams


def report_dataset(
    dataset: OfflineDataset,
    dynamics_kwargs: Mapping[str, Any] | None = None,
    *,
    horizon: int = 50,
    seed: int = 0,
    device: th.device | str = "auto",
    progress_bar: bool = False,
) -> ModelReport:
    """
    Fit the dynamics model that an algorithm would fit, but without every tenth episode (unless ``dynamics_kwargs`` says
    otherwise), and report on it. Its rollouts take the logged action at the nearest state of the data.

    :raises ValueError: if the data are too few
    """
    config = DynamicsConfig.from_kwargs(
        {"test_fraction": 0.1 if dataset.n_episodes > 1 else 0.0} | dict(dynamics_kwargs or {})
    )
    device = get_device(device)
    streams = Streams(seed, device)
    sizes = get_flattened_obs_dim(dataset.observation_space), encoded_action_dim(dataset.action_space)
    model = build_dynamics(*sizes, config, streams, device)
    fit_world(model, dataset, config, streams, progress_bar=progress_bar)
    has_terminations = bool(dataset.terminations.any())
    termination = resolve_termination(config.termination, dataset.env_spec, has_terminations, model.termination_head)
    return model_report(model, dataset, termination, horizon=horizon, seed=seed)
