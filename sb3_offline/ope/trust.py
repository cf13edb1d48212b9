"""What may be trusted of an estimate, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sb3_offline.ope.estimate import Estimate

MANY_STRANGE = 0.2  # of a policy's actions, that are unlike the data
FEW_EPISODES = 20
FEW_EFFECTIVE = 10.0
MUCH_AT_BOUND = 0.05
OFTEN_OUTSIDE = 0.1


def doubts(estimate: Estimate) -> list[str]:
    """One sentence for each reason not to believe an estimate; none, if nothing speaks against it."""
    return list(_doubts(estimate))


def _doubts(estimate: Estimate) -> Iterator[str]:
    known = estimate.diagnostics
    if known.get("ood_share", 0.0) > MANY_STRANGE:
        yield (
            f"{known['ood_share']:.0%} of its actions are stranger than 99% of the log's: there the estimate is a guess, and "
            "usually too high."
        )
    if known.get("holds_the_log", 0.0) > 0:
        yield (
            f"The interval, {estimate.low:.4g} to {estimate.high:.4g}, holds all that the log's episodes earned, from the "
            "worst to the best: the estimate says nothing of this policy."
        )
    if known.get("episodes", np.inf) < FEW_EPISODES:
        yield f"Only {known['episodes']:.0f} episodes were logged: the interval is itself a guess."
    if known.get("effective_episodes", np.inf) < FEW_EFFECTIVE:
        yield f"The weights leave {known['effective_episodes']:.1f} effective episodes: a few logged ones decide."
    if known.get("at_a_bound", 0.0) > MUCH_AT_BOUND:
        yield f"{known['at_a_bound']:.0%} of the values reach what no policy can earn: the fit has run away."
    if known.get("outside_share", 0.0) > OFTEN_OUTSIDE:
        yield f"{known['outside_share']:.0%} of the imagined states leave the log's range, where the learned world guesses."
    if known.get("broken_share", 0.0) > 0:
        yield f"{known['broken_share']:.0%} of the imagined episodes broke off: the learned world is not to be trusted here."
