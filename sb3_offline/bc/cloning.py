"""Supervised learning of logged actions, whatever they are: an actor, its loss, and the episodes that are worth cloning."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from sb3_offline.arguments import Interval, check_number
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.common.validation import Validation
from sb3_offline.datasets import OfflineDataset
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call, call_plainly
from sb3_offline.networks.clones import CLONE_POLICIES, ClonePolicy
from sb3_offline.networks.networks import Batch, Logs
from sb3_offline.training.schedules import CosineSchedule

CLONING_RATE = CosineSchedule(1e-3)


class Cloning(GradientAlgorithm):
    """
    An actor and nothing else; no reward is looked at but to choose episodes. Observations are standardised by the data,
    wherever they are vectors of floats that ``VecNormalize`` does not normalise already;
    ``policy_kwargs=dict(normalize_observations=False)`` leaves them as they are.

    :param learning_rate: A cosine to 0 over ``learn`` if not given.
    :param top_percent: Learn from this percentage of the episodes alone, those of the highest returns ("10%-BC", Chen et al.
        2021); one at least. None takes all.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = CLONE_POLICIES
    has_critic: ClassVar[bool] = False
    standardizes: ClassVar[bool] = True
    actor: Any
    kept_rows: th.Tensor | None

    def __init__(
        self,
        *args: Any,
        learning_rate: float | Schedule = CLONING_RATE,
        top_percent: float | None = None,
        **kwargs: Any,
    ):
        share = Interval(0.0, 100.0, open_low=True)
        self.top_percent = None if top_percent is None else check_number("top_percent", top_percent, share)
        super().__init__(*args, learning_rate=learning_rate, **kwargs)

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

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        self.kept_rows = None
        if self.top_percent is not None:
            n_kept = max(1, int(dataset.n_episodes * self.top_percent / 100.0))
            kept = np.zeros(dataset.n_episodes, dtype=bool)
            kept[np.argsort(-dataset.episode_returns(), kind="stable")[:n_kept]] = True
            rows = np.flatnonzero(np.repeat(kept, dataset.episode_lengths()))
            self.kept_rows = th.as_tensor(rows, device=self.device)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "tau"]  # SB3's, of target networks

    def sample_batch(self) -> Batch:
        """Of the data, or of the episodes that are kept."""
        if self.kept_rows is None:
            return super().sample_batch()
        drawn = th.randint(len(self.kept_rows), (self.batch_size,), generator=self.streams["sampling"], device=self.device)
        return Batch.of(self.replay_buffer._get_samples(self.kept_rows[drawn]))

    def actor_loss(self, nets: Any, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """What the actor descends: a scalar, and what to log."""
        raise NotImplementedError

    def gradient_step(self, nets: Any, batch: Batch, noise: None, call: Call = call_plainly) -> Logs:
        """One step of the actor."""
        loss, logs = call(self.actor_loss, nets, batch, noise)
        minimize(loss, self.actor.optimizer)
        return {name: value.detach() for name, value in logs.items()}

    def held_out_figures(self, rows: Validation) -> dict[str, float]:
        """``likelihood`` of held-out actions, mean log pi(a|s)."""
        raise NotImplementedError
