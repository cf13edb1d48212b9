"""The data card as one HTML file that needs nothing else: its plots are inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from sb3_offline.datasets.checks.statistics import DimensionStatistics
from sb3_offline.files.page import facts_table, figures_table, page
from sb3_offline.shell.card import DataCard, Histogram
from sb3_offline.shell.card_text import facts

_STYLE = "rect { fill: var(--blue); } circle { fill: var(--blue); fill-opacity: .4; }"
_W, _H, _PAD = 280, 150, 18


def card_html(card: DataCard) -> str:
    """The whole page. Text from the data is escaped."""
    found = "".join(f'<p class="{f.severity}">{f.severity.capitalize()}: {escape(str(f))}</p>' for f in card.findings)
    statistics = card.statistics
    plots = [_figure(title, _bars(histogram)) for title, histogram in card.histograms.items()]
    plots.append(_figure("return by episode, in the order of the log", _scatter(np.arange(len(card.returns)), card.returns)))
    if len(card.plane):
        plots.append(_figure("states: first two principal components", _scatter(card.plane[:, 0], card.plane[:, 1])))
    body = f"""<p>{escape(card.description)}</p>
{facts_table(facts(card))}
<h2>Errors and warnings</h2>{found or "<p>None.</p>"}
<h2>Plots</h2><div class="plots">{"".join(plots)}</div>
<h2>Observations</h2>{_table(statistics.observations)}
<h2>Actions</h2>{_table(statistics.actions, {"at a bound": statistics.saturation, "range covered": statistics.coverage})}"""
    return page(str(card.summary["dataset"]), body, _STYLE)


def _figure(title: str, body: str) -> str:
    name = escape(title)
    picture = f'<svg viewBox="0 0 {_W} {_H}" width="{_W}" height="{_H}" role="img" aria-label="{name}">{body}</svg>'
    return f"<figure>{picture}<figcaption>{name}</figcaption></figure>"


def _bars(histogram: Histogram) -> str:
    top, width = max(int(histogram.counts.max()), 1), (_W - 2 * _PAD) / len(histogram.counts)
    bars = []
    for i, count in enumerate(histogram.counts):
        height = (_H - 2 * _PAD) * count / top
        x, y = _PAD + i * width, _H - _PAD - height
        bars.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height:.1f}"/>')
    return "".join(bars) + _ticks(histogram.edges[0], histogram.edges[-1], f"{top}")


def _scatter(x: np.ndarray, y: np.ndarray) -> str:
    rows = np.unique(np.linspace(0, len(x) - 1, 1000).astype(int))
    x, y = x[rows], y[rows]

    def place(values: np.ndarray, size: int) -> np.ndarray:
        span = max(float(values.max() - values.min()), 1e-12)
        return _PAD + (size - 2 * _PAD) * (values - values.min()) / span

    points = zip(place(x, _W), _H - place(y, _H), strict=True)
    dots = "".join(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="1.6"/>' for px, py in points)
    return dots + _ticks(float(x.min()), float(x.max()), f"{y.min():.3g} to {y.max():.3g}")


def _ticks(low: float, high: float, top: str) -> str:
    return (
        f'<text x="{_PAD}" y="{_H - 4}">{low:.3g}</text><text x="{_W - _PAD}" y="{_H - 4}" text-anchor="end">{high:.3g}</text>'
        f'<text x="4" y="12">{escape(top)}</text>'
    )


def _table(columns: DimensionStatistics, shares: Mapping[str, np.ndarray] | None = None) -> str:
    shares = {name: values for name, values in (shares or {}).items() if len(values)}
    rows = []
    for i, figures in enumerate(zip(columns.mean, columns.std, columns.low, columns.high, strict=True)):
        cells = [str(i), *(f"{value:.4g}" for value in figures), *(f"{values[i]:.0%}" for values in shares.values())]
        rows.append(cells)
    return figures_table(("", "mean", "std", "min", "max", *shares), rows)
