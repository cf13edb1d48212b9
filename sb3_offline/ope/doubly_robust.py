"""Doubly robust estimation (Jiang and Li 2016, arXiv 1511.03722): FQE, corrected by importance weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sb3_offline.arguments import Interval, check_number
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope.estimate import Estimate, Estimator
from sb3_offline.ope.fqe import FQE
from sb3_offline.ope.importance import log_ratios
from sb3_offline.ope.policy import EvaluatedPolicy
from sb3_offline.ope.weights import doubly_robust, effective_size, episodes_of, pad


@dataclass(kw_only=True)
class DR(Estimator):
    """
    Right if either the behaviour policy or Q is. Meaningful mostly for discrete actions, as all importance weights are.

    :param clip: no cumulative weight exceeds it
    :param q: the fit of Q; its gamma, seed and choice of actions are this estimator's
    """

    name: ClassVar[str] = "DR"
    clip: float = 100.0
    q: FQE = field(default_factory=FQE)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.clip = check_number("clip", self.clip, Interval(1.0))
        self.q.gamma, self.q.seed, self.q.deterministic = self.gamma, self.seed, self.deterministic

    def _estimate(self, policy: EvaluatedPolicy, dataset: OfflineDataset) -> Estimate:
        episodes = episodes_of(dataset, log_ratios(policy, dataset), self.gamma, self.clip)
        fitted, lengths, ends = self.q.fit(policy, dataset), dataset.episode_lengths(), dataset.episode_ends
        q = pad(fitted.q(dataset.observations, dataset.actions).mean(axis=0), lengths, 0.0)
        v = np.pad(pad(fitted.v(dataset.observations).mean(axis=0), lengths, 0.0), ((0, 0), (0, 1)))
        cut = ~np.asarray(dataset.terminations[ends])
        if cut.any():  # an episode that was cut goes on unseen
            v[cut, lengths[cut]] = fitted.v(dataset.next_observations[ends[cut]]).mean(axis=0)
        values = doubly_robust(episodes.weights, episodes.rewards, q, v, self.gamma)
        interval = self._bootstrap(lambda counts: counts @ values / len(values), len(values))
        last = episodes.weights[:, -1]
        diagnostics = {"effective_episodes": effective_size(last), "clipped_share": float((last >= self.clip).mean())}
        return self._result(values.mean(), interval, values, diagnostics | {"td_error": fitted.td_error(dataset)})
