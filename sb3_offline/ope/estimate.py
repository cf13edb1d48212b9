"""The face that all estimators share: a policy and a data set in, a value with its interval and its doubts out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from sb3_offline.arguments import INSIDE_UNIT, Interval, check_count, check_flag, check_number
from sb3_offline.buffers.returns import returns_to_go
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.checks import refuse_broken
from sb3_offline.ope.behavior import describes, support_of
from sb3_offline.ope.policy import EvaluatedPolicy

N_RESAMPLES = 1000  # of the bootstrap over episodes


@dataclass(frozen=True, eq=False)
class Estimate:
    """
    What an estimator says of a policy: its discounted return from the log's first states, in the task's own reward.

    :param estimator: its name
    :param value: the estimate
    :param low: lower end of the interval
    :param high: upper end
    :param confidence: of the interval, two-sided; whether it holds what it promises is measured in the documentation
    :param gamma: the discount
    :param per_episode: (n_episodes,) what each logged episode says on its own; the estimate is not always their mean
    :param diagnostics: figures that tell how far to trust it, by name; see :func:`~sb3_offline.ope.doubts`
    """

    estimator: str
    value: float
    low: float
    high: float
    confidence: float
    gamma: float
    per_episode: np.ndarray
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def bound(self) -> float:
        """What policies are compared by: the lower end of the interval, or the value itself where there is none."""
        return self.low if math.isfinite(self.low) else self.value

    def __str__(self) -> str:
        return f"{self.estimator}: {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(kw_only=True)
class Estimator(ABC):
    """
    :param gamma: discount of the return that is estimated, in [0, 1); the same for all policies that are compared
    :param confidence: of the interval, two-sided
    :param deterministic: evaluate the policy as it is usually deployed, its mode; or as it samples
    :param seed: of whatever is random
    """

    name: ClassVar[str]
    gamma: float = 0.99
    confidence: float = 0.95
    deterministic: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self.gamma = check_number("gamma", self.gamma, Interval(0.0, 1.0, open_high=True))
        self.confidence = check_number("confidence", self.confidence, INSIDE_UNIT)
        check_flag("deterministic", self.deterministic)
        check_count("seed", self.seed, least=0)

    def estimate(self, policy: Any, dataset: OfflineDataset) -> Estimate:
        """
        :param policy: a model of SB3 or of this library, one of their policies, or anything with their ``predict``
        :param dataset: logged episodes; best such as the policy was not trained on
        :return: the estimate; where states are vectors its diagnostics hold the OOD score of the policy's actions
        :raises ValueError: if the data cannot be right (unless the policy is a model with ``check_data=False``), the policy
            does not fit them, or the estimator does not fit the policy
        """
        if dataset.action_masks is not None:
            raise ValueError(
                f"{dataset.info.dataset_id} has action_masks, and the estimators ask the policy without: what they would "
                "judge is another policy. Play it in its task, or leave the masks out if it chooses well without them."
            )
        if getattr(policy, "check_data", True):
            refuse_broken(dataset)
        evaluated = EvaluatedPolicy(policy, dataset, deterministic=self.deterministic, seed=self.seed)
        result = self._estimate(evaluated, dataset)
        returns = behavior_returns(dataset, result.gamma)
        result = replace(result, diagnostics=result.diagnostics | {"holds_the_log": float(holds_all(result, returns))})
        if not describes(dataset):
            return result
        return replace(result, diagnostics=result.diagnostics | support_of(dataset).score(evaluated))

    @abstractmethod
    def _estimate(self, policy: EvaluatedPolicy, dataset: OfflineDataset) -> Estimate:
        """The estimate, without the OOD score."""

    def _result(
        self, value: float, interval: tuple[float, float], per_episode: np.ndarray, diagnostics: dict[str, float]
    ) -> Estimate:
        known = {"episodes": float(len(per_episode)), **diagnostics}
        return Estimate(self.name, float(value), *interval, self.confidence, self.gamma, per_episode, known)

    def _bootstrap(self, statistic: Callable[[np.ndarray], np.ndarray], n_episodes: int) -> tuple[float, float]:
        """
        The percentile interval over resampled episodes (Efron 1979).

        :param statistic: how often each episode was drawn, (resamples, n_episodes) -> the estimate of each, (resamples,)
        """
        rng = np.random.default_rng(self.seed)
        counts = rng.multinomial(n_episodes, np.full(n_episodes, 1 / n_episodes), size=N_RESAMPLES).astype(np.float64)
        values = statistic(counts)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
        return float(low), float(high)


def first_rows(dataset: OfflineDataset) -> np.ndarray:
    """(n_episodes,) the row that each episode begins with."""
    return dataset.episode_ends - dataset.episode_lengths() + 1


_returns: WeakKeyDictionary[OfflineDataset, dict[float, np.ndarray]] = WeakKeyDictionary()


def behavior_returns(dataset: OfflineDataset, gamma: float) -> np.ndarray:
    """
    (n_episodes,) discounted return of each logged episode; one that was cut counts as if it had gone on as it was. Remembered
    while the data set lives: every estimate asks for them.
    """
    known = _returns.setdefault(dataset, {})
    if gamma not in known:
        rewards, terminations = np.asarray(dataset.rewards, dtype=np.float64), np.asarray(dataset.terminations)
        known[gamma] = returns_to_go(rewards, terminations, dataset.episode_ends, gamma)[first_rows(dataset)]
    return known[gamma]


def holds_all(estimate: Estimate, returns: np.ndarray) -> bool:
    """
    Whether an interval reaches from below the log's worst episodes to above its best, a fortieth at either end left out: then
    it does not tell the policy from either.

    :param returns: of the logged episodes
    """
    worst, best = np.quantile(returns, [0.025, 0.975])
    whole = math.isfinite(estimate.low) and math.isfinite(estimate.high) and worst < best
    return bool(whole and estimate.low < worst and best < estimate.high)


def student_quantile(probability: float, degrees: int) -> float:
    """
    The quantile of Student's t by its expansion around the normal one (Abramowitz and Stegun, 26.7.5): within 1% from 4
    degrees of freedom on, 7% below the truth at 2, exact at 1 by its own formula.
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    z, v = NormalDist().inv_cdf(probability), degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v**power for power, term in enumerate(terms, start=1))


def student_interval(values: np.ndarray, confidence: float, extra_variance: float = 0.0) -> tuple[float, float]:
    """
    The mean of a few replicates, give or take Student's quantile of their spread; infinite for a single one.

    :param values: (n,) one a replicate
    :param extra_variance: of the mean, from a source that the replicates do not show
    """
    if len(values) < 2:
        return -math.inf, math.inf
    spread = math.sqrt(float(np.var(values, ddof=1)) + extra_variance)
    half, centre = student_quantile((1 + confidence) / 2, len(values) - 1) * spread, float(np.mean(values))
    return centre - half, centre + half
