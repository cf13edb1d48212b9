"""Supervised learning of logged actions, whatever they are: an actor, its loss, and the episodes that are worth cloning."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_offline.arguments import Interval, check_number
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.common.validation import Validation
from sb3_offline.datasets import OfflineDataset
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call, call_plainly
from sb3_offline.networks.clones import CLONE_POLICIES, ClonePolicy
from sb3_offline.networks.networks import Batch, Logs
from sb3_offline.training.schedules import CosineSchedule


class Cloning(GradientAlgorithm):
    """
    An actor and nothing else; no reward is looked at but to choose episodes. Observations are standardised by the data,
    wherever they are vectors of floats that ``VecNormalize`` does not normalise already;
    ``policy_kwargs=dict(normalize_observations=False)`` leaves them as they are.

    :param learning_rate: A cosine to 0 over ``learn`` if not given.
    :param top_percent: Learn from this percentage of the episodes alone, those of the highest returns ("10%-BC", Chen et al.
        2021); one at least. None takes all.
    :param weights: How much each row of the data counts, (n,) numbers that are not negative, such as a column of a table: with
        twice the weight it counts as two. No file keeps them: give them again to ``load`` or ``resume``.
    """

    recipe: ClassVar = {"learning_rate": CosineSchedule(1e-3)}
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = CLONE_POLICIES
    has_critic: ClassVar[bool] = False
    standardizes: ClassVar[bool] = True
    actor: Any
    kept_rows: th.Tensor | None
    row_weights: th.Tensor | None
    is_weighted: bool = False  # saved, where the weights are not

    def __init__(
        self,
        *args: Any,
        top_percent: float | None = None,
        weights: npt.ArrayLike | None = None,
        **kwargs: Any,
    ):
        self.weights = None if weights is None else check_weights(weights)
        self.is_weighted = weights is not None
        share = Interval(0.0, 100.0, open_low=True)
        self.top_percent = None if top_percent is None else check_number("top_percent", top_percent, share)
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, ClonePolicy):
            name = type(self).__name__
            raise ValueError(
                f"{name}'s policy is an actor alone: {self.policy_class.__name__} must be a child of ClonePolicy."
            )
        super()._setup_model()
        actor: Any = self.policy.actor
        self.register_state("actor", actor, optimizer=actor.optimizer, rate="learning_rate", saved=False)
        self.register_state("kept_rows", None, saved=False)
        self.register_state("row_weights", None, saved=False)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        self.kept_rows = self.row_weights = None
        self.is_weighted = self.is_weighted or self.weights is not None  # load() may have brought them
        if self.is_weighted:
            self.row_weights = th.as_tensor(self.weights_of(dataset), device=self.device)
        if self.top_percent is not None:
            n_kept = max(1, int(dataset.n_episodes * self.top_percent / 100.0))
            kept = np.zeros(dataset.n_episodes, dtype=bool)
            kept[np.argsort(-dataset.episode_returns(), kind="stable")[:n_kept]] = True
            rows = np.flatnonzero(np.repeat(kept, dataset.episode_lengths()))
            self.kept_rows = th.as_tensor(rows, device=self.device)

    def weights_of(self, dataset: OfflineDataset) -> np.ndarray:
        """Those of a data set's rows, (n,), of mean 1."""
        name = type(self).__name__
        if self.weights is None:
            raise ValueError(f"This {name} learns with weights, which no file keeps: give {name}.load(path, weights=...).")
        weights = check_weights(self.weights)
        if len(weights) != len(dataset):
            raise ValueError(
                f"weights are of {len(weights):,} rows, and {dataset.info.dataset_id} has {len(dataset):,}: give one a row. "
                "With validation= as a share rows are missing: split the data, and give validation= the other part."
            )
        return weights / weights.mean(dtype=np.float64).astype(np.float32)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "weights", "tau"]  # the last is SB3's, of target networks

    def sampled_rows(self) -> th.Tensor:
        """Of the data, or of the episodes that are kept."""
        kept = self.kept_rows
        if kept is None:
            return super().sampled_rows()
        return kept[th.randint(len(kept), (self.batch_size,), generator=self.streams["sampling"], device=self.device)]

    def batch_of(self, rows: th.Tensor) -> Batch:
        weights = None if self.row_weights is None else self.row_weights[rows]
        return super().batch_of(rows)._replace(weights=weights)

    def actor_loss(self, nets: Any, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """The mean of what each row costs, by its weight."""
        cost = self.imitation(nets, batch)
        loss = cost.mean() if batch.weights is None else (batch.weights * cost).mean()
        return loss, {"actor_loss": loss}

    def imitation(self, nets: Any, rows: Batch | Validation) -> th.Tensor:
        """What each row's logged action costs, (B,)."""
        raise NotImplementedError

    def gradient_step(self, nets: Any, batch: Batch, noise: None, call: Call = call_plainly) -> Logs:
        """One step of the actor."""
        loss, logs = call(self.actor_loss, nets, batch, noise)
        minimize(loss, self.actor.optimizer)
        return {name: value.detach() for name, value in logs.items()}

    def held_out_figures(self, rows: Validation) -> dict[str, float]:
        """``likelihood`` of held-out actions: mean log pi(a|s), or of a deterministic actor minus its mean square."""
        return {"likelihood": -float(self.imitation(self.networks(), rows).mean())}


def check_weights(weights: npt.ArrayLike) -> np.ndarray:
    """
    :return: (n,) float32
    :raises ValueError: for what is no row of numbers, or has one that is negative or not finite, or nothing but zeros
    """
    array = np.asarray(weights)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"weights must be one number a row, (n,); got {array.dtype} of shape {array.shape}.")
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(bad) > 0:
        raise ValueError(f"weights must not be negative or infinite; row {bad[0]} has {array[bad[0]]}.")
    if not array.any():
        raise ValueError("weights must not all be 0.")
    return array.astype(np.float32)
