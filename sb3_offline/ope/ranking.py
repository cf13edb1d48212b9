"""Several policies, judged by the same estimators on the same data, the best first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope.estimate import Estimate, Estimator
from sb3_offline.ope.fqe import FQE
from sb3_offline.ope.trust import doubts


@dataclass(frozen=True)
class Ranked:
    """
    A policy and what was said of it.

    :param name: as it was given
    :param estimates: by estimator's name, in the order in which they were asked
    """

    name: str
    estimates: dict[str, Estimate]

    @property
    def estimate(self) -> Estimate:
        """The first one's."""
        return next(iter(self.estimates.values()))

    @property
    def bound(self) -> float:
        """What ranks: the mean of the estimates' lower bounds."""
        return fmean(estimate.bound for estimate in self.estimates.values())

    @property
    def doubts(self) -> list[str]:
        """Of all its estimates, each once; and whether two of them contradict each other."""
        said = [sentence for estimate in self.estimates.values() for sentence in doubts(estimate)]
        apart = (
            f"{one.estimator} and {other.estimator} contradict each other: {one.low:.4g} to {one.high:.4g}, and "
            f"{other.low:.4g} to {other.high:.4g}. At least one of them guesses."
            for one, other in itertools.combinations(self.estimates.values(), 2)
            if one.high < other.low or other.high < one.low
        )
        return list(dict.fromkeys([*said, *apart]))


def rank(
    models: Mapping[str, Any] | Iterable[Any], dataset: OfflineDataset, estimators: Sequence[Estimator] | None = None
) -> list[Ranked]:
    """
    Estimate every policy, and put the one of the highest lower bound first: of many estimates the highest is more often the
    one that errs upwards, and errs most where the log shows least, where the interval is wide. Without an interval (a single
    critic) the value itself ranks. Of several estimators' bounds the mean does: a policy that one of them takes for too good
    has to please the others, too.

    :param models: policies by name; names are made up (``model 0``, ...) for a plain list
    :param dataset: logged episodes, best such as no policy was trained on
    :param estimators: :class:`FQE` if not given
    :raises ValueError: if there is no policy, or no estimator
    """
    named = dict(models) if isinstance(models, Mapping) else {f"model {i}": model for i, model in enumerate(models)}
    asked = [FQE()] if estimators is None else list(estimators)
    if not named or not asked:
        raise ValueError(f"rank needs at least one model and one estimator, got {len(named)} and {len(asked)}.")
    ranked = [Ranked(name, {each.name: each.estimate(model, dataset) for each in asked}) for name, model in named.items()]
    return sorted(ranked, key=lambda one: one.bound, reverse=True)
