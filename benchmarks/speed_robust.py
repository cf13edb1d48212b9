"""
What DROMO's robust term costs: its updates beside COMBO's, by turns, all at their defaults.

    python -m benchmarks.speed_robust --clock cpu

Batches of 256 random rows of 11+3 dims. Seconds an update, rollouts left out, go to ``results/speed_robust.json``, all turns
and their medians, beside each median over COMBO's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.speed_beside import compare, parser_of
from sb3_offline.dromo.robustness import Std

SMALL_ROLLOUTS: dict[str, Any] = {"rollout_batch_size": 100}
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "COMBO": ("COMBO", SMALL_ROLLOUTS),
    "DROMO": ("DROMO", SMALL_ROLLOUTS),
    "DROMO, the term at all states": ("DROMO", {"robustness": Std(n_states=None), **SMALL_ROLLOUTS}),
}


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser_of(__doc__, "speed_robust.json", threads=1, updates=20).parse_args(argv)
    compare(arguments, CONTENDERS, "times_combo", "COMBO's")


if __name__ == "__main__":
    main()
