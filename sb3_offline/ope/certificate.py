"""May this policy be deployed? Its lower bound against what the log's own behaviour earned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sb3_offline.arguments import INSIDE_UNIT, NOT_NEGATIVE, Interval, check_number
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope.estimate import Estimate, Estimator, behavior_returns
from sb3_offline.ope.fqe import FQE
from sb3_offline.ope.trust import doubts


@dataclass(frozen=True)
class Certificate:
    """
    :param granted: the lower bound reaches what is required, and nothing speaks against the estimate
    :param estimate: of the policy; its ``low`` is the one-sided bound
    :param behavior: mean discounted return of the log
    :param required: ``behavior + margin |behavior|``
    :param reasons: why it is not granted, one sentence each
    """

    granted: bool
    estimate: Estimate
    behavior: float
    required: float
    reasons: tuple[str, ...]


def behavior_value(dataset: OfflineDataset, gamma: float) -> float:
    """
    The mean discounted return of the logged episodes. One that was cut counts as if it had gone on as it was
    (:func:`~sb3_offline.buffers.returns.returns_to_go`), because that is what estimators look at, too.

    :param gamma: in [0, 1)
    """
    check_number("gamma", gamma, Interval(0.0, 1.0, open_high=True))
    return float(behavior_returns(dataset, gamma).mean())


def certify(
    policy: Any, dataset: OfflineDataset, *, margin: float = 0.05, confidence: float = 0.95, estimator: Estimator | None = None
) -> Certificate:
    """
    Does the policy beat the log's behaviour by a margin, with this confidence?

    :param policy: what :meth:`Estimator.estimate` takes
    :param dataset: logged episodes, best such as the policy was not trained on
    :param margin: share of |the behaviour's mean discounted return| by which it must be better, whatever that return's sign
    :param confidence: of the lower bound, one-sided
    :param estimator: :class:`FQE` if not given; its own ``confidence`` is not used
    :raises ValueError: for a margin below 0, or a confidence that is not above 0.5 and below 1
    """
    check_number("margin", margin, NOT_NEGATIVE)
    check_number("confidence", confidence, INSIDE_UNIT)
    if confidence <= 0.5:
        raise ValueError(f"confidence must lie in (0.5, 1): a lower bound below the estimate itself; got {confidence!r}.")
    judge = replace(FQE() if estimator is None else estimator, confidence=2 * confidence - 1)
    estimate = judge.estimate(policy, dataset)
    behavior = behavior_value(dataset, estimate.gamma)
    required = behavior + margin * abs(behavior)
    reasons = []
    if estimate.value < required:
        reasons.append(
            f"The policy is estimated at {estimate.value:.4g}, below the {required:.4g} required: the log's {behavior:.4g} "
            f"and {margin:.0%} of its size. Train another one."
        )
    elif not estimate.low >= required:
        reasons.append(
            f"The estimate, {estimate.value:.4g}, is above the {required:.4g} required, but its {confidence:.0%} lower bound, "
            f"{estimate.low:.4g}, is not. More episodes make the bound tighter."
        )
    reasons += doubts(estimate)
    return Certificate(not reasons, estimate, behavior, required, tuple(reasons))
