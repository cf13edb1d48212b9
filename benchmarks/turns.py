"""Contenders that take turns, so that what else the machine does meets all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Say = Callable[[str], None]


@dataclass
class Contender:
    """
    One of those that take turns.

    :param peer: d3rlpy's algorithm that it is held against.
    :param run: n -> the seconds of n updates.
    :param refresh: The seconds of a round of rollouts, of which there is one in ``rollout_freq`` updates.
    :param flops: Of the matrix products of an update, and of a second at this machine's best.
    """

    name: str
    work: str
    peer: str
    precision: str
    execution: str
    run: Callable[[int], float]
    refresh: Callable[[], float] | None = None
    rollout_freq: int = 1
    flops: float | None = None
    peak: float | None = None
    block: int = 0
    update_times: list[float] = field(default_factory=list)
    refresh_times: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.name} {self.precision} {self.execution}"

    def warm_up(self, block_seconds: float, n_updates: int | None) -> None:
        """Allocate and capture; then find how many updates a turn has."""
        self.run(5)
        self.block = n_updates or max(3, round(block_seconds / (self.run(3) / 3)))

    def take_turn(self) -> None:
        self.update_times.append(self.run(self.block) / self.block)
        if self.refresh is not None:
            self.refresh_times.append(self.refresh())

    def figures(self) -> dict[str, Any]:
        """Medians over the turns; ``per_second`` is end to end, a round of rollouts spread over ``rollout_freq`` updates."""
        update = statistics.median(self.update_times)
        rollouts = statistics.median(self.refresh_times) / self.rollout_freq if self.refresh_times else 0.0
        floor = None if self.flops is None or self.peak is None else self.flops / self.peak
        return {
            **{name: getattr(self, name) for name in ("name", "work", "peer", "precision", "execution", "block", "flops")},
            "update_seconds": update,
            "rollout_seconds_per_update": rollouts,
            "per_second": 1.0 / (update + rollouts),
            "floor_seconds": floor,
            "raw": {"updates": self.update_times, "rollouts": self.refresh_times},
        }


def take_turns(
    contenders: Sequence[Contender],
    repeats: int,
    block_seconds: float,
    n_updates: int | None,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """All of them, one after the other, ``repeats`` times: what else the machine does meets all alike."""
    for contender in contenders:
        contender.warm_up(block_seconds, n_updates)
        say(f"{contender.key}: {contender.block} updates a turn")
    for repeat in range(repeats):
        for contender in contenders:
            contender.take_turn()
        say(f"turn {repeat + 1} of {repeats} done")
    return [contender.figures() for contender in contenders]
