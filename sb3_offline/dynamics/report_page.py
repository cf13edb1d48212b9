"""The model report as pictures: PNG, a self-contained HTML page, TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stable_baselines3.common.logger import Figure as FigureRecord
from stable_baselines3.common.logger import Logger

from sb3_offline.dynamics.report_figures import ERROR_LIMIT, ReportFigures
from sb3_offline.dynamics.report_words import dangers, rows
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.page import facts_table, page, pictures, verdict, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Panel = Callable[[ReportFigures, Axes], None]

_BLUE, _ORANGE, _GREEN, _RED, _QUIET = "#33669a", "#b86b00", "#3a9d3a", "#b02a37", "#5b6770"  # the pages' own


def _figure(width: float, height: float) -> Figure:
    """:raises ImportError: without matplotlib"""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('The report\'s pictures need matplotlib: pip install "sb3-offline[plots]".') from error
    return Figure(figsize=(width, height), layout="constrained")


def draw(report: ReportFigures) -> Figure:
    """
    Six panels on one figure.

    :raises ImportError: without matplotlib
    """
    figure = _figure(12, 7)
    for axes, (panel, caption) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        panel(report, axes)
        axes.set_title(caption)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Dynamics model on {report.dataset_id}: suggested rollout_length {report.rollout_length}")
    return figure


def _draw_one(report: ReportFigures, panel: Panel) -> bytes:
    figure, picture = _figure(4.2, 2.8), io.BytesIO()
    axes = figure.add_subplot()
    panel(report, axes)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def write_png(report: ReportFigures, path: Path) -> None:
    write_atomically(path, lambda file: draw(report).savefig(file, format="png", dpi=130))


def write_html(report: ReportFigures, path: Path) -> None:
    figures = facts_table((question, answer) for question, answer in rows(report) if question != "danger")
    body = (
        f'<p class="length">Suggested <code>rollout_length</code>: <b>{report.rollout_length}</b></p>'
        f"{verdict(dangers(report), 'Nothing looks dangerous.')}"
        f"{pictures((_draw_one(report, panel), caption) for panel, caption in _PANELS)}<h2>All figures</h2>{figures}"
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


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _one_step(report: ReportFigures, axes: Axes) -> None:
    step = report.one_step
    ratios = [error / still if still > 0 else 0.0 for error, still in zip(step.error, step.no_change, strict=True)]
    colours = [_BLUE] * (len(ratios) - 1) + [_GREEN]
    axes.bar(range(len(ratios)), ratios, color=colours)
    axes.axhline(1.0, color=_QUIET, linestyle=":")
    axes.set(xlabel="coordinate; last, in green: reward", ylim=(0, None))
    _whole_numbers(axes)


def _open_loop(report: ReportFigures, axes: Axes) -> None:
    curve = report.open_loop
    axes.plot(curve.steps, curve.error, color=_BLUE, label="error")
    axes.plot(curve.steps, curve.spread, label="elites' spread", color=_ORANGE, linestyle="--")
    axes.plot(curve.steps, curve.no_change, label="no change", color=_QUIET, linestyle=":")
    axes.axhline(ERROR_LIMIT, color=_RED, linewidth=0.8, label=f"no guide beyond {ERROR_LIMIT:g}")
    axes.set(xlabel="steps", ylim=(0, None))
    _whole_numbers(axes)
    axes.legend(frameon=False)


def _calibration(report: ReportFigures, axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=_QUIET, linestyle=":")
    axes.plot(report.calibration.levels, report.calibration.observed, color=_BLUE, marker=".")
    axes.set(xlabel="forecast's quantile", ylabel="share of truths below it", xlim=(0, 1), ylim=(0, 1))


def _outside(report: ReportFigures, axes: Axes) -> None:
    axes.plot(report.coverage.steps, report.coverage.outside, color=_BLUE)
    axes.axvline(report.rollout_length, color=_RED, linewidth=0.8, label="suggested rollout length")
    axes.set(xlabel="steps", ylim=(0, None))
    _whole_numbers(axes)
    axes.legend(frameon=False)


def _distance(report: ReportFigures, axes: Axes) -> None:
    coverage = report.coverage
    axes.plot(coverage.steps, coverage.distance_median, color=_BLUE, label="median")
    axes.plot(coverage.steps, coverage.distance_95, color=_ORANGE, label="95%", linestyle="--")
    axes.axhspan(coverage.data_median, coverage.data_95, color=_QUIET, alpha=0.25, label="the data's own")
    axes.set(xlabel="steps", ylim=(0, None))
    _whole_numbers(axes)
    axes.legend(frameon=False)


def _penalties(report: ReportFigures, axes: Axes) -> None:
    names = list(report.penalty_correlation)
    axes.barh(names, [report.penalty_correlation[name] for name in names], color=_BLUE)
    axes.set(xlim=(min(0.0, *report.penalty_correlation.values()), 1))


_PANELS: tuple[tuple[Panel, str], ...] = (
    (_one_step, "one-step error / error of no change"),
    (_open_loop, "open-loop error, std of the data"),
    (_calibration, "calibration"),
    (_outside, "imagined states out of the data's range"),
    (_distance, "distance to the nearest logged state"),
    (_penalties, "penalty's rank correlation with the error"),
)
