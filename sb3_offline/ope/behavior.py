"""Who acted in the log, and which actions it supports: the behaviour policy of a data set, fitted once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_offline.behavior.behavior_fit import fit_behavior_policy
from sb3_offline.behavior.behavior_policy import BehaviorPolicy
from sb3_offline.behavior.discrete_behavior_policy import DiscreteBehaviorPolicy
from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.mapped import blocks
from sb3_offline.dynamics.actions import encode_actions, encoded_action_dim
from sb3_offline.networks.choices import CHOICE_SPACES
from sb3_offline.networks.observations import has_images

if TYPE_CHECKING:
    from sb3_offline.ope.policy import EvaluatedPolicy

MAX_ROWS = 10_000  # of the data, at which a policy's actions are scored
STRANGE = 0.99  # an action that ranks above is unlike the data
FIT_STEPS = 4000  # at most, of the behaviour policy

_fitted: WeakKeyDictionary[OfflineDataset, Support] = WeakKeyDictionary()


def describes(dataset: OfflineDataset) -> bool:
    """Whether there is a behaviour policy for such data: vectors as states, vectors or numbers as actions."""
    vectors = isinstance(dataset.observation_space, spaces.Box) and not has_images(dataset.observation_space)
    return vectors and isinstance(dataset.action_space, (spaces.Box, *CHOICE_SPACES)) and len(dataset) > 1


def support_of(dataset: OfflineDataset) -> Support:
    """
    The data set's behaviour policy; the fit is remembered while the data set lives.

    :raises ValueError: for images and dict observations
    """
    if not describes(dataset):
        raise ValueError(
            f"A behaviour policy is fitted to vectors; {dataset.info.dataset_id} holds {dataset.observation_space}. "
            "FQE needs none."
        )
    if dataset not in _fitted:
        _fitted[dataset] = Support(dataset)
    return _fitted[dataset]


class Support:
    """
    pi_beta, learned by maximum likelihood from a data set, and how likely it finds the data's own actions.

    :param dataset: with vectors as states
    """

    def __init__(self, dataset: OfflineDataset):
        self.action_space = dataset.action_space
        generator = th.Generator().manual_seed(0)
        width = int(np.prod(dataset.observation_space.shape))  # type: ignore[arg-type]
        discrete = isinstance(dataset.action_space, CHOICE_SPACES)
        network = DiscreteBehaviorPolicy if discrete else BehaviorPolicy
        self.policy = network(width, encoded_action_dim(dataset.action_space), generator=generator)
        optimizer = th.optim.Adam(self.policy.parameters(), lr=1e-3)
        states = np.array(dataset.observations, dtype=np.float32).reshape(len(dataset), -1)
        actions = self._encode(dataset.actions)
        fit_behavior_policy(self.policy, optimizer, states, actions, generator=generator, n_steps=FIT_STEPS)
        self.log_probs = self.log_prob(dataset.observations, dataset.actions)
        self._levels = np.sort(-self.log_probs)
        self._rows = np.unique(np.linspace(0, len(dataset) - 1, min(MAX_ROWS, len(dataset))).astype(int))
        self._states = np.array(dataset.observations[self._rows])

    def _encode(self, actions: np.ndarray) -> np.ndarray:
        if isinstance(self.action_space, CHOICE_SPACES):
            return encode_actions(np.asarray(actions), self.action_space)
        return scale_actions(np.asarray(actions), self.action_space).reshape(len(actions), -1)

    @th.no_grad()
    def log_prob(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """log pi_beta(a|s), (n,): probabilities, or densities over actions scaled to [-1, 1]."""
        parts = []
        for rows in blocks(len(actions)):
            states = np.asarray(observations[rows], dtype=np.float32).reshape(len(actions[rows]), -1)
            parts.append(self.policy.log_prob(th.from_numpy(states), th.as_tensor(self._encode(actions[rows]))))
        return th.cat(parts).double().numpy()

    def ranks(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """(n,) the share of the data's own actions that are more usual in their states than these are here, in [0, 1]."""
        below = np.searchsorted(self._levels, -self.log_prob(observations, actions), side="left")
        return below / len(self._levels)

    def score(self, policy: EvaluatedPolicy) -> dict[str, float]:
        """
        How unlike the data's are a policy's actions, in states of the data? ``ood_score`` is their mean rank (the data's own
        have 0.5), ``ood_share`` the share that is stranger than 99% of the data.
        """
        ranks = self.ranks(self._states, policy.actions(self._states))
        return {"ood_score": float(ranks.mean()), "ood_share": float((ranks > STRANGE).mean())}
