"""Importance sampling: logged returns, weighed by how likely the policy would have acted so."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sb3_offline.arguments import Interval, check_number
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope.behavior import support_of
from sb3_offline.ope.estimate import Estimate, Estimator
from sb3_offline.ope.policy import EvaluatedPolicy
from sb3_offline.ope.weights import (
    Episodes,
    effective_size,
    episodes_of,
    per_decision,
    per_decision_weighted,
    weighted,
)


def log_ratios(policy: EvaluatedPolicy, dataset: OfflineDataset) -> np.ndarray:
    """log pi(a|s) - log pi_beta(a|s) of every row, (n,), against the learned behaviour policy."""
    return policy.log_prob(dataset.observations, dataset.actions) - support_of(dataset).log_probs


@dataclass(kw_only=True)
class _Importance(Estimator):
    """
    Weights against the learned behaviour policy; meaningful mostly for discrete actions. Where actions are continuous, they
    are those of the sampling policy whatever ``deterministic`` says, and in most data of almost no episode: look at
    ``effective_episodes`` before you believe the value. The return is that of the log's own episodes, cut where they were.

    :param clip: no cumulative weight exceeds it
    """

    clip: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.clip = check_number("clip", self.clip, Interval(1.0))

    def _estimate(self, policy: EvaluatedPolicy, dataset: OfflineDataset) -> Estimate:
        episodes = episodes_of(dataset, log_ratios(policy, dataset), self.gamma, self.clip)
        last = episodes.weights[:, -1]
        n = len(last)
        value = float(self._value(episodes, np.ones((1, n)))[0])
        if not np.isfinite(value):
            raise ValueError(
                f"{self.name}: the policy gives every one of the {n} logged episodes the weight 0, so they say nothing of it. "
                "Use FQE, or deterministic=False for a policy that samples."
            )
        diagnostics = {
            "effective_episodes": effective_size(last),
            "clipped_share": float((last >= self.clip).mean()),
            "mean_weight": float(last.mean()),
        }
        interval = self._bootstrap(lambda counts: self._value(episodes, counts), n)
        return self._result(value, interval, episodes.discounted.sum(axis=1), diagnostics)

    @abstractmethod
    def _value(self, episodes: Episodes, counts: np.ndarray) -> np.ndarray:
        """The estimate (B,) when the episodes count so often, (B, E)."""


@dataclass(kw_only=True)
class WIS(_Importance):
    """Weighted importance sampling of whole episodes (Precup et al. 2000)."""

    name: ClassVar[str] = "WIS"

    def _value(self, episodes: Episodes, counts: np.ndarray) -> np.ndarray:
        return weighted(episodes.weights[:, -1], episodes.discounted.sum(axis=1), counts)


@dataclass(kw_only=True)
class PDIS(_Importance):
    """Per-decision importance sampling: unbiased, and wild (Precup et al. 2000)."""

    name: ClassVar[str] = "PDIS"

    def _value(self, episodes: Episodes, counts: np.ndarray) -> np.ndarray:
        return per_decision(episodes, counts)


@dataclass(kw_only=True)
class PDWIS(_Importance):
    """Per-decision weighted importance sampling: of these the least variable."""

    name: ClassVar[str] = "PDWIS"

    def _value(self, episodes: Episodes, counts: np.ndarray) -> np.ndarray:
        return per_decision_weighted(episodes, counts)
