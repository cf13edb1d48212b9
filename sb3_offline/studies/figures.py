"""The pictures of a study: learning curves, pooled scores, performance profiles, probability of improvement."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from sb3_offline.studies.results import Results
from sb3_offline.studies.statistics import profile, profile_band

COLOURS = ("#33669a", "#b86b00", "#3a9d3a", "#8a4f9e", "#b02a37", "#5b6770", "#1b9e9e", "#d45fa5")
_DASHES = ("-", "--", ":", "-.")  # where there are more names than colours
_QUIET = "#5b6770"


def pictures(results: Results) -> dict[str, bytes]:
    """PNG images by their names: learning curves one a data set, all as narrow as a phone can show."""
    drawn: dict[str, Any] = {f"curves_{n}": _curves(results, dataset) for n, dataset in enumerate(results.datasets, start=1)}
    if results.pooled:
        drawn |= {"scores": _scores(results), "profiles": _profiles(results)}
    if results.improvement:
        drawn["improvement"] = _improvement(results)
    return {name: _png(figure) for name, figure in drawn.items()}


def _axes(height: float = 3.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, height), layout="constrained")
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    return figure, axis


def _colour(results: Results, name: str) -> str:
    return COLOURS[results.names.index(name) % len(COLOURS)]


def line_of(results: Results, name: str) -> dict[str, str]:
    """How a name's line is drawn: no two alike, up to 32 names."""
    dashes = _DASHES[results.names.index(name) // len(COLOURS) % len(_DASHES)]
    return {"color": _colour(results, name), "linestyle": dashes, "label": name}


def _unit(results: Results) -> str:
    return "normalised score" if results.normalized else "return"


def _curves(results: Results, dataset: str) -> Any:
    figure, axis = _axes()
    lines = [line for (_, of), line in results.lines.items() if of == dataset]
    for line in lines:
        steps, mean, low, high = line.curve
        colour = _colour(results, line.name)
        axis.plot(steps, mean, marker="o" if len(steps) < 3 else None, **line_of(results, line.name))
        axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    data = [line.data_score for line in lines if math.isfinite(line.data_score)]
    if data:
        axis.axhline(float(np.mean(data)), color=_QUIET, linestyle="--", linewidth=1, label="the data")
    if results.normalized:
        axis.axhline(100.0, color=_QUIET, linestyle=":", linewidth=1, label="reference (100)")
    axis.set_xlabel("gradient steps", fontsize=8)
    axis.set_ylabel(_unit(results), fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _scores(results: Results) -> Any:
    figure, axis = _axes(1.0 + 0.45 * len(results.names))
    ranked = sorted(results.names, key=lambda name: results.pooled[name].value)
    for row, name in enumerate(ranked):
        value, low, high = results.pooled[name]
        colour = _colour(results, name)
        if math.isfinite(low):
            axis.plot([low, high], [row, row], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
        axis.plot([value], [row], "o", color=colour)
    data = [results.lines[results.names[0], dataset].data_score for dataset in results.shared]
    if all(map(math.isfinite, data)):
        axis.axvline(float(np.mean(data)), color=_QUIET, linestyle="--", linewidth=1)
        axis.annotate(
            "the data",
            (float(np.mean(data)), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color=_QUIET,
            fontsize=8,
            ha="center",
        )
    axis.set_yticks(range(len(ranked)), ranked, fontsize=9)
    axis.set_ylim(-0.6, len(ranked) - 0.4)
    axis.set_xlabel(f"interquartile mean of the {_unit(results)}, 95 % interval", fontsize=8, loc="right")
    return figure


def _profiles(results: Results) -> Any:
    figure, axis = _axes(3.0 + 0.1 * len(results.names) / 3)
    every = np.concatenate([scores for name in results.names for scores in results.scores(name)])
    margin = 0.05 * (np.ptp(every) or 1.0)
    thresholds = np.linspace(every.min() - margin, every.max() + margin, 201)
    for name in results.names:
        scores, colour = results.scores(name), _colour(results, name)
        axis.plot(thresholds, profile(scores, thresholds), **line_of(results, name))
        if all(len(runs) > 1 for runs in scores):
            axis.fill_between(thresholds, *profile_band(scores, thresholds), color=colour, alpha=0.15, linewidth=0)
    axis.set_xlabel(f"{_unit(results)} (tau)", fontsize=8)
    axis.set_ylabel("share of runs above tau", fontsize=8)
    axis.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _improvement(results: Results) -> Any:
    pairs = [pair for pair in results.improvement if pair[0] < pair[1]]
    figure, axis = _axes(1.0 + 0.4 * len(pairs))
    for row, pair in enumerate(reversed(pairs)):
        value, low, high = results.improvement[pair]
        if math.isfinite(low):
            axis.plot([low, high], [row, row], color=COLOURS[0], linewidth=7, alpha=0.35, solid_capstyle="butt")
        axis.plot([value], [row], "o", color=COLOURS[0])
    axis.axvline(0.5, color=_QUIET, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(pairs)), [f"{one} beats {two}" for one, two in reversed(pairs)], fontsize=9)
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.6, len(pairs) - 0.4)
    axis.set_xlabel("probability of improvement, 95 % interval", fontsize=8, loc="right")
    return figure


def _png(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=130)
    return written.getvalue()
