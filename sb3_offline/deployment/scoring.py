"""How unlike the data a model's states and actions are: ``fit_ood_detector`` and ``ood_score`` of every algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim

from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset
from sb3_offline.deployment.ood import OODDetector
from sb3_offline.dynamics import EnsembleDynamics
from sb3_offline.networks.observations import has_images


def fit_ood_detector(model: Any, dataset: OfflineDataset | None = None, **behavior_kwargs: Any) -> None:
    """
    Learn what (s, a) the data holds, for :meth:`ood_score`. It is saved with the model.

    :param dataset: The data; the model's own if not given.
    :param behavior_kwargs: Of the behaviour policy's fit, such as ``n_steps``.
    :raises ValueError: for other than vectors of numbers as states and actions.
    """
    dataset = model.load_dataset() if dataset is None else dataset
    detector = make_ood_detector(model)
    raw = th.as_tensor(dataset.actions, device=model.device)
    detector.fit(
        th.as_tensor(dataset.observations, device=model.device).flatten(1),
        th.as_tensor(scale_actions(dataset.actions, model.action_space), device=model.device),
        raw,
        _fitted_dynamics(model),
        generator=model.streams.cpu("ood"),
        **behavior_kwargs,
    )
    model.register_state("ood_detector", detector)
    model.has_ood_detector = True


def ood_score(model: Any, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """
    How unlike the data is it to take these actions here? The largest of three ranks among the data's own rows: of the
    state, of the action given the state, and of the dynamics model's doubt. .99: stranger than 99% of the data in one
    of these ways; 1: stranger than all of it.

    :param observations: (B, ...) or one observation, raw as the environment gives them.
    :param actions: (B, action_dim) or one action, in the environment's units, such as ``predict`` returns.
    :return: (B,), or a number for one row, in [0, 1].
    :raises RuntimeError: before :meth:`fit_ood_detector`.
    :raises ValueError: if the rows do not fit the spaces, or these are other than vectors of numbers.
    """
    _check_spaces(model)
    if not model.has_ood_detector:
        raise RuntimeError("ood_score compares with the data: call model.fit_ood_detector() once, then save the model.")
    one = np.shape(observations) == model.observation_space.shape
    observation_rows = _rows("observations", observations, model.observation_space)
    action_rows = _rows("actions", actions, model.action_space)
    if len(observation_rows) != len(action_rows):
        raise ValueError(f"{len(observation_rows)} observations, but {len(action_rows)} actions: one action a row.")
    states, scaled_actions, raw_actions = (
        th.as_tensor(rows, dtype=th.float32, device=model.device).flatten(1)
        for rows in (observation_rows, scale_actions(action_rows, model.action_space), action_rows)
    )
    ranks = model.ood_detector.ranks(states, scaled_actions, raw_actions, _fitted_dynamics(model))
    scores = ranks.amax(dim=0).cpu().numpy()
    return scores[0] if one else scores


def _rows(name: str, values: np.ndarray, space: spaces.Space) -> np.ndarray:
    array, shape = np.asarray(values), space.shape
    array = array[None] if array.shape == shape else array
    if array.shape[1:] != shape:
        raise ValueError(f"{name} must have shape {shape} or (n, {', '.join(map(str, shape or ()))}), got {array.shape}.")
    return array


def _fitted_dynamics(model: Any) -> EnsembleDynamics | None:
    dynamics = getattr(model, "dynamics", None)
    return dynamics if dynamics is not None and bool(dynamics.fitted) else None


def _check_spaces(model: Any) -> None:
    for kind, space in (("states", model.observation_space), ("actions", model.action_space)):
        if not isinstance(space, spaces.Box) or has_images(space):
            instead = (
                " How usual each action is in the data, DiscreteDROMO tells: model.networks().behavior(observations), "
                "for a tensor of states."
                if isinstance(space, spaces.Discrete)
                else ""
            )
            raise ValueError(f"ood_score needs vectors of numbers as {kind} (a Box space); this task has {space}.{instead}")


def make_ood_detector(model: Any) -> OODDetector:
    """A detector of this task's size, not fitted."""
    _check_spaces(model)
    return OODDetector(
        get_flattened_obs_dim(model.observation_space),
        get_action_dim(model.action_space),
        generator=model.streams.cpu("ood"),
    ).to(model.device)
