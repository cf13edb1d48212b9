"""The means of an update's logs: summed on the device, read when they are written."""

from __future__ import annotations

from collections.abc import Mapping

import torch as th

from sb3_offline.training.health import LossWatch


class LogSums:
    """Sums of log terms over gradient steps, and the watch that says when one of them stopped being a number."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.sums: dict[str, th.Tensor] = {}
        self.counts: dict[str, int] = {}  # steps in which each term was added
        self.watch = LossWatch()
        self.unseen = False  # whether a step was added since a callback's log line

    @th.no_grad()
    def add(self, logs: Mapping[str, th.Tensor]) -> None:
        """
        Add the terms of one gradient step, of any shape of one number each. A term that is not computed at every step, such as
        a delayed actor's loss, is left out of the steps in which it was not.
        """
        seen = [name for name in logs if name in self.sums]
        if seen:
            th._foreach_add_([self.sums[name] for name in seen], [logs[name] for name in seen])
        self.sums |= {name: value.detach().clone() for name, value in logs.items() if name not in self.sums}
        for name in logs:
            self.counts[name] = self.counts.get(name, 0) + 1
        self.watch.step(self.sums)
        self.unseen = True

    def mean(self, name: str) -> float:
        """Of one term over the steps that added it; 0 if none did. Waits for the device."""
        return float(self.sums[name]) / self.counts[name] if name in self.sums else 0.0

    def means(self) -> dict[str, float]:
        """Of each term over the steps that added it. Waits for the device once."""
        if not self.sums:
            return {}
        totals = th.stack([total.mean() for total in self.sums.values()]).tolist()
        return {name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)}
