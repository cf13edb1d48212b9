"""The model report as pictures: PNG, a self-contained HTML page, TensorBoard."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from stable_baselines3.common.logger import Figure as FigureRecord
from stable_baselines3.common.logger import Logger

from sb3_offline.dynamics.report_figures import ERROR_LIMIT, ReportFigures
from sb3_offline.dynamics.report_words import dangers, rows
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.page import facts_table, page, verdict, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(report: ReportFigures) -> Figure:
    """
    Six panels on one figure.

    :raises ImportError: without matplotlib
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('The report\'s pictures need matplotlib: pip install "sb3-offline[plots]".') from error
    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = (_one_step, _open_loop, _calibration, _outside, _distance, _penalties)
    for axes, panel in zip(figure.subplots(2, 3).flat, panels, strict=True):
        panel(report, axes)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Dynamics model on {report.dataset_id}: suggested rollout_length {report.rollout_length}")
    return figure


def write_png(report: ReportFigures, path: Path) -> None:
    write_atomically(path, lambda file: draw(report).savefig(file, format="png", dpi=130))


def write_html(report: ReportFigures, path: Path) -> None:
    picture = io.BytesIO()
    draw(report).savefig(picture, format="png", dpi=130)
    figures = facts_table((question, answer) for question, answer in rows(report) if question != "danger")
    body = (
        f'<p class="length">Suggested <code>rollout_length</code>: <b>{report.rollout_length}</b></p>'
        f"{verdict(dangers(report), 'Nothing looks dangerous.')}"
        '<img alt="Six panels; the table below has their main figures" '
        f'src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}">{figures}'
    )
    write_page(path, page(f"Can I trust my model? {report.dataset_id}", body))


def log(report: ReportFigures, logger: Logger, step: int) -> None:
    quiet = ("stdout", "log", "json", "csv")
    logger.record("model_report/figure", FigureRecord(draw(report), close=True), exclude=quiet)
    for name, value in (
        ("gain_over_no_change", report.one_step.gain),
        ("reward_explained", report.one_step.reward_explained),
        ("calibration_error", report.calibration.debiased),
        ("elite_stability", report.elite_stability),
        ("suggested_rollout_length", report.rollout_length),
    ):
        logger.record(f"model_report/{name}", value)
    logger.dump(step)


def _one_step(report: ReportFigures, axes: Axes) -> None:
    step = report.one_step
    ratios = [error / still if still > 0 else 0.0 for error, still in zip(step.error, step.no_change, strict=True)]
    colours = ["tab:blue"] * (len(ratios) - 1) + ["tab:green"]
    axes.bar(range(len(ratios)), ratios, color=colours)
    axes.axhline(1.0, color="grey", linestyle=":")
    axes.set(title="one-step error / error of no change", xlabel="coordinate; last, in green: reward", ylim=(0, None))


def _open_loop(report: ReportFigures, axes: Axes) -> None:
    curve = report.open_loop
    axes.plot(curve.steps, curve.error, label="error")
    axes.plot(curve.steps, curve.spread, label="elites' spread", linestyle="--")
    axes.plot(curve.steps, curve.no_change, label="no change", color="grey", linestyle=":")
    axes.axhline(ERROR_LIMIT, color="tab:red", linewidth=0.8, label=f"no guide beyond {ERROR_LIMIT:g}")
    axes.set(title="open-loop error, std of the data", xlabel="steps", ylim=(0, None))
    axes.legend(frameon=False)


def _calibration(report: ReportFigures, axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.plot(report.calibration.levels, report.calibration.observed, marker=".")
    axes.set(title="calibration", xlabel="forecast's quantile", ylabel="share of truths below it", xlim=(0, 1), ylim=(0, 1))


def _outside(report: ReportFigures, axes: Axes) -> None:
    axes.plot(report.coverage.steps, report.coverage.outside)
    axes.axvline(report.rollout_length, color="tab:red", linewidth=0.8, label="suggested rollout length")
    axes.set(title="imagined states out of the data's range", xlabel="steps", ylim=(0, None))
    axes.legend(frameon=False)


def _distance(report: ReportFigures, axes: Axes) -> None:
    coverage = report.coverage
    axes.plot(coverage.steps, coverage.distance_median, label="median")
    axes.plot(coverage.steps, coverage.distance_95, label="95%", linestyle="--")
    axes.axhspan(coverage.data_median, coverage.data_95, color="grey", alpha=0.25, label="the data's own")
    axes.set(title="distance to the nearest logged state", xlabel="steps", ylim=(0, None))
    axes.legend(frameon=False)


def _penalties(report: ReportFigures, axes: Axes) -> None:
    names = list(report.penalty_correlation)
    axes.barh(names, [report.penalty_correlation[name] for name in names])
    axes.set(title="penalty's rank correlation with the error", xlim=(min(0.0, *report.penalty_correlation.values()), 1))
