"""What a model report holds: the figures, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sb3_offline.dynamics.calibration_metrics import CalibrationError
from sb3_offline.dynamics.measures import Coverage, OneStep, OpenLoop, TerminationAgreement
from sb3_offline.dynamics.termination_head import TerminationReport

ERROR_LIMIT = 0.5  # standard deviations of the data: an open-loop prediction worse than this is no guide
OUTSIDE_LIMIT = 0.05

HeldOut = Literal["test episodes", "held-out rows"]


@dataclass(frozen=True)
class ReportFigures:
    """
    A dynamics model against data. ``held_out`` says what one-step figures were measured on: whole episodes that no fit saw
    (``test_fraction``), or the rows of the early stopping. Open-loop figures need whole episodes: without test episodes, they
    come from episodes whose other rows the model was fitted to.
    """

    dataset_id: str
    held_out: HeldOut
    n_rows: int
    one_step: OneStep
    open_loop: OpenLoop
    calibration: CalibrationError
    penalty_correlation: dict[str, float]
    termination: TerminationAgreement | None
    termination_head: TerminationReport | None
    coverage: Coverage
    elites: tuple[int, ...]
    n_members: int
    elite_stability: float

    @property
    def coverage_of_90(self) -> float:
        """Share of held-out rows inside the central 90% intervals."""
        return self.calibration.observed[-1] - self.calibration.observed[0]

    @property
    def accurate_steps(self) -> int:
        """Steps up to which the open-loop error stays below half a standard deviation, and below that of no change."""
        curve = self.open_loop
        return _leading(
            error < ERROR_LIMIT and error < still for error, still in zip(curve.error, curve.no_change, strict=True)
        )

    @property
    def covered_steps(self) -> int:
        """Steps up to which at most 5% of imagined states leave the data's range, and half have the data's own neighbours."""
        c = self.coverage
        return _leading(
            out <= OUTSIDE_LIMIT and near <= c.data_95 for out, near in zip(c.outside, c.distance_median, strict=True)
        )

    @property
    def rollout_length(self) -> int:
        """The suggestion: as far as predictions are accurate and rollouts stay with the data, at least 1."""
        return max(1, min(self.accurate_steps, self.covered_steps))


def _leading(good: Iterable[bool]) -> int:
    """How many of a run of truths come before the first falsehood."""
    count = 0
    for value in good:
        if not value:
            break
        count += 1
    return count
