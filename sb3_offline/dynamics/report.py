"""Can I trust my model? What was measured, what looks dangerous, and how far to roll out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch as th

from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import measures
from sb3_offline.dynamics.actions import encode_actions
from sb3_offline.dynamics.calibration_metrics import CalibrationError
from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.dynamics.measures import Coverage, OneStep, OpenLoop, PolicyFn, TerminationAgreement
from sb3_offline.dynamics.termination import TerminationFn
from sb3_offline.dynamics.termination_head import TerminationReport
from sb3_offline.dynamics.world import Columns, held_out_rows, split_episodes

if TYPE_CHECKING:
    from rich.table import Table
    from stable_baselines3.common.logger import Logger

ERROR_LIMIT = 0.5  # standard deviations of the data: an open-loop prediction worse than this is no guide
OUTSIDE_LIMIT = 0.05

HeldOut = Literal["test episodes", "held-out rows"]


@dataclass(frozen=True)
class ModelReport:
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

    def dangers(self) -> list[str]:
        """What looks dangerous, in words; empty if nothing does."""
        from sb3_offline.dynamics.report_words import dangers

        return dangers(self)

    def to_table(self) -> Table:
        """For ``rich.print``."""
        from sb3_offline.dynamics.report_words import table

        return table(self)

    def to_png(self, path: str | Path) -> None:
        """
        :raises ImportError: without matplotlib
        """
        from sb3_offline.dynamics.report_page import write_png

        write_png(self, Path(path))

    def to_html(self, path: str | Path) -> None:
        """
        One self-contained page.

        :raises ImportError: without matplotlib
        """
        from sb3_offline.dynamics.report_page import write_html

        write_html(self, Path(path))

    def log(self, logger: Logger, step: int = 0) -> None:
        """
        Figures and numbers for TensorBoard, under ``model_report/``.

        :raises ImportError: without matplotlib
        """
        from sb3_offline.dynamics.report_page import log

        log(self, logger, step)


def model_report(
    model: EnsembleDynamics,
    dataset: OfflineDataset,
    termination: TerminationFn,
    policy: PolicyFn | None = None,
    *,
    horizon: int = 50,
    seed: int = 0,
) -> ModelReport:
    """
    Measure a fitted model.

    :param termination: what ends imagined episodes
    :param policy: (B, observation_dim) -> (B, action_dim), environment units, acts in rollouts; None is the data's own
        behaviour, the logged action at the nearest state
    :param horizon: most steps of open-loop predictions and rollouts
    :param seed: of the rows that are drawn and of the rollouts
    :raises ValueError: if the model is not fitted
    """
    if not bool(model.fitted):
        raise ValueError("The dynamics model is not fitted yet: call fit_dynamics() (or learn()) before the report.")
    rng = np.random.default_rng(seed)
    _, test = split_episodes(dataset, int(model.test_every))
    fresh = len(test) > 0
    rows = rng.permutation(test)[:2000] if fresh else held_out_rows(model, dataset)
    columns = Columns.of(dataset, rows, model.device)
    known = np.flatnonzero(dataset.valid_next)
    everything = Columns.of(dataset, test if fresh else known, model.device)
    observations = th.as_tensor(dataset.observations, device=model.device)
    if policy is None:
        order, logged = (
            rng.permutation(len(dataset)),
            th.as_tensor(encode_actions(dataset.actions, dataset.action_space), device=model.device),
        )
        policy = measures.neighbour_policy(observations[order], logged[order])
    generator = th.Generator(device=model.device).manual_seed(seed)
    return ModelReport(
        dataset_id=dataset.info.dataset_id,
        held_out="test episodes" if fresh else "held-out rows",
        n_rows=len(rows),
        one_step=measures.one_step(model, columns),
        open_loop=measures.open_loop(model, dataset, test if fresh else known, horizon, rng),
        calibration=measures.calibration(model, columns),
        penalty_correlation=measures.penalty_correlations(model, columns),
        termination=measures.termination_agreement(termination, everything),
        termination_head=None if model.termination_head is None else model.termination_head.report(),
        coverage=measures.coverage(model, observations, policy, termination, horizon, generator),
        elites=tuple(model.elites.tolist()),
        n_members=model.n_members,
        elite_stability=measures.elite_stability(model, columns, rng),
    )


def _leading(good: Iterable[bool]) -> int:
    """How many of a run of truths come before the first falsehood."""
    count = 0
    for value in good:
        if not value:
            break
        count += 1
    return count
