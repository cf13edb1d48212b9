"""Can I trust my model? What was measured, what looks dangerous, and how far to roll out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch as th

from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import measures, report_page, report_words
from sb3_offline.dynamics.actions import encode_actions
from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.dynamics.measures import PolicyFn
from sb3_offline.dynamics.report_figures import ReportFigures
from sb3_offline.dynamics.termination import TerminationFn
from sb3_offline.dynamics.world import Columns, held_out_rows, split_episodes

if TYPE_CHECKING:
    from rich.table import Table
    from stable_baselines3.common.logger import Logger


@dataclass(frozen=True)
class ModelReport(ReportFigures):
    """The figures of :class:`~sb3_offline.dynamics.report_figures.ReportFigures`, in words, as a table, a page or a log."""

    def dangers(self) -> list[str]:
        """What looks dangerous, in words; empty if nothing does."""
        return report_words.dangers(self)

    def to_table(self) -> Table:
        """For ``rich.print``."""
        return report_words.table(self)

    def to_png(self, path: str | Path) -> None:
        """
        :raises ImportError: without matplotlib
        """
        report_page.write_png(self, Path(path))

    def to_html(self, path: str | Path) -> None:
        """
        One self-contained page.

        :raises ImportError: without matplotlib
        """
        report_page.write_html(self, Path(path))

    def log(self, logger: Logger, step: int = 0) -> None:
        """
        Figures and numbers for TensorBoard, under ``model_report/``.

        :raises ImportError: without matplotlib
        """
        report_page.log(self, logger, step)


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
    columns = Columns.of(dataset, rows, model.device, model.end_reward)
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
