"""What every algorithm offers for deployment: ``export_onnx`` and ``ood_score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim

from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset
from sb3_offline.deployment.onnx import export_onnx
from sb3_offline.deployment.ood import OODDetector
from sb3_offline.networks.observations import has_images
from sb3_offline.training.rng import Streams

if TYPE_CHECKING:
    from sb3_offline.common.offline_algorithm import OfflineAlgorithm
    from sb3_offline.dynamics import EnsembleDynamics


class Deployable(OffPolicyAlgorithm):
    """Mixed into the offline algorithms; needs their ``streams`` and ``load_dataset``."""

    streams: Streams
    ood_detector: OODDetector
    has_ood_detector: bool = False  # kept by save(), so that load() knows to expect its tensors

    def load_dataset(self) -> OfflineDataset:
        raise NotImplementedError

    def export_onnx(self, path: str | Path) -> Path:
        """
        Write the deterministic policy to one ONNX file, see :func:`~sb3_offline.deployment.onnx.export_onnx`.

        :return: The path written.
        """
        return export_onnx(cast("OfflineAlgorithm", self), path)

    def fit_ood_detector(self, dataset: OfflineDataset | None = None, **behavior_kwargs: Any) -> None:
        """
        Learn what (s, a) the data holds, for :meth:`ood_score`. It is saved with the model.

        :param dataset: The data; the model's own if not given.
        :param behavior_kwargs: Of the behaviour policy's fit, such as ``n_steps``.
        :raises ValueError: for other than vectors of numbers as states and actions.
        """
        dataset = self.load_dataset() if dataset is None else dataset
        detector = self.make_ood_detector()
        raw = th.as_tensor(dataset.actions, device=self.device)
        detector.fit(
            th.as_tensor(dataset.observations, device=self.device).flatten(1),
            th.as_tensor(scale_actions(dataset.actions, self.action_space), device=self.device),
            raw,
            self._fitted_dynamics(),
            generator=self.streams.cpu("ood"),
            **behavior_kwargs,
        )
        self.register_state("ood_detector", detector)  # type: ignore[attr-defined]
        self.has_ood_detector = True

    def ood_score(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
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
        self._check_ood_spaces()
        if not self.has_ood_detector:
            raise RuntimeError("ood_score compares with the data: call model.fit_ood_detector() once, then save the model.")
        one = np.shape(observations) == self.observation_space.shape
        observation_rows = self._rows("observations", observations, self.observation_space)
        action_rows = self._rows("actions", actions, self.action_space)
        if len(observation_rows) != len(action_rows):
            raise ValueError(f"{len(observation_rows)} observations, but {len(action_rows)} actions: one action a row.")
        states, scaled_actions, raw_actions = (
            th.as_tensor(rows, dtype=th.float32, device=self.device).flatten(1)
            for rows in (observation_rows, scale_actions(action_rows, self.action_space), action_rows)
        )
        ranks = self.ood_detector.ranks(states, scaled_actions, raw_actions, self._fitted_dynamics())
        scores = ranks.amax(dim=0).cpu().numpy()
        return scores[0] if one else scores

    def _rows(self, name: str, values: np.ndarray, space: spaces.Space) -> np.ndarray:
        array, shape = np.asarray(values), space.shape
        array = array[None] if array.shape == shape else array
        if array.shape[1:] != shape:
            raise ValueError(f"{name} must have shape {shape} or (n, {', '.join(map(str, shape or ()))}), got {array.shape}.")
        return array

    def _fitted_dynamics(self) -> EnsembleDynamics | None:
        dynamics = getattr(self, "dynamics", None)
        return dynamics if dynamics is not None and bool(dynamics.fitted) else None

    def _check_ood_spaces(self) -> None:
        for kind, space in (("states", self.observation_space), ("actions", self.action_space)):
            if not isinstance(space, spaces.Box) or has_images(space):
                instead = (
                    " How usual each action is in the data, DiscreteDROMO tells: model.networks().behavior(observations), "
                    "for a tensor of states."
                    if isinstance(space, spaces.Discrete)
                    else ""
                )
                raise ValueError(
                    f"ood_score needs vectors of numbers as {kind} (a Box space); this task has {space}.{instead}"
                )

    def make_ood_detector(self) -> OODDetector:
        """A detector of this task's size, not fitted."""
        self._check_ood_spaces()
        return OODDetector(
            get_flattened_obs_dim(self.observation_space),
            get_action_dim(self.action_space),
            generator=self.streams.cpu("ood"),
        ).to(self.device)
