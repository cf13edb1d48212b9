"""What held-out episodes say of a model while it learns: figures that can turn while those of the training go on falling."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_offline.arguments import INSIDE_UNIT, check_number
from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.buffers.returns import returns_to_go
from sb3_offline.common.belonging import Belonging
from sb3_offline.datasets import OfflineDataset, open_dataset
from sb3_offline.datasets.sources import Source
from sb3_offline.networks.choices import Choices
from sb3_offline.networks.observations import map_observations, to_tensors

MAX_ROWS = 2000  # spread over the held-out data; they cost about as much as a few gradient steps


def hold_out(
    model: Any, dataset: OfflineDataset, validation: Source | float | None
) -> tuple[OfflineDataset, OfflineDataset | None]:
    """
    What to learn from, and what to validate on.

    :param validation: a share of the data's episodes, which then take no part in any fit; or data of their own; None for none
    :raises ValueError: for a share that is not in (0, 1), or data of other spaces
    """
    if validation is None:
        return dataset, None
    if isinstance(validation, (int, float)):
        share = check_number("validation", validation, INSIDE_UNIT)
        return dataset.split(share, seed=0 if model.seed is None else model.seed)
    spaces_of = {"observation_space": model.observation_space, "action_space": model.action_space}
    return dataset, open_dataset(validation, **spaces_of, env_spec=dataset.env_spec).load()


class HeldOutValues(NamedTuple):
    """
    What networks make of n held-out rows, (n,) each: Q of the logged actions and of the policy's (means over the critics), the
    target's value of what follows, and how likely the policy finds the logged actions.
    """

    q: th.Tensor
    q_policy: th.Tensor
    next_value: th.Tensor
    likelihood: th.Tensor


class Validation(Belonging):
    """
    Held-out rows on the model's device.

    :param model: an offline algorithm, whose ``held_out_figures`` says what its networks make of them
    :param held_out: episodes that no fit sees
    """

    def __init__(self, model: Any, held_out: OfflineDataset):
        super().__init__(model)
        rows = np.unique(np.linspace(0, len(held_out) - 1, min(MAX_ROWS, len(held_out))).astype(int))
        rewards = model.reward_factor * np.asarray(held_out.rewards, dtype=np.float64) + model.reward_shift
        returns = returns_to_go(rewards, np.asarray(held_out.terminations), held_out.episode_ends, model.gamma)
        columns = (rewards, np.asarray(held_out.terminations), returns)
        self.rewards, self.dones, self.returns = (self._tensor(column[rows].astype(np.float32)) for column in columns)
        self.actions = self._tensor(scale_actions(np.asarray(held_out.actions[rows]), model.action_space))
        self.observations, self.next_observations = (
            map_observations(to_tensors(np.array(part[rows])), lambda column: column.to(model.device))
            for part in (held_out.observations, held_out.next_observations)
        )

        self.masks, self.next_masks = (
            None if masks is None else self._tensor(Choices(model.action_space).combined(np.asarray(masks[rows])))
            for masks in (held_out.action_masks, held_out.next_action_masks)
        )

    def _tensor(self, column: np.ndarray) -> th.Tensor:
        return th.as_tensor(column, device=self.model.device)

    @cached_property
    @th.no_grad()
    def names(self) -> tuple[str, ...]:
        """
        Of the figures.

        :raises ValueError: for a model that has none
        """
        return tuple(self.model.held_out_figures(self))

    @th.no_grad()
    def figures(self) -> dict[str, float]:
        """What the model says of them (``held_out_figures``); the training goes on as it would without."""
        return self.model.held_out_figures(self)

    def of_critic(self, values: HeldOutValues) -> dict[str, float]:
        """
        ``td_error``: root mean square of r + gamma (1 - done) Q'(s', pi) - Q(s, a). ``likelihood`` of the logged actions: mean
        log-density, or the share that the greedy policy would take; of an actor without a density minus its actions' mean
        squared distance. ``conservative_gap``: Q of the policy's actions above Q of the data's. ``q_bias``: Q of the data's
        actions above their Monte-Carlo returns. In the rewards that the model learns from.
        """
        q, q_policy, next_value, likelihood = values
        target = self.rewards + self.model.gamma * (1.0 - self.dones) * next_value
        return {
            "td_error": float((target - q).square().mean().sqrt()),
            "likelihood": float(likelihood.mean()),
            "conservative_gap": float((q_policy - q).mean()),
            "q_bias": float((q - self.returns).mean()),
        }
