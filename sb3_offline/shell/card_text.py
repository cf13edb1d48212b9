"""The data card for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_offline.datasets.checks.statistics import DimensionStatistics
from sb3_offline.shell.card import DataCard, Histogram

_WIDTH = 40
_MAX_ROWS = 20


def print_card(card: DataCard, console: Console) -> None:
    """Print figures, histograms of returns, the dimensions, and the findings last."""
    summary = card.summary
    console.print(f"[bold]{escape(summary['dataset'])}[/bold]  {escape(card.description)}")
    figures = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in facts(card):
        figures.add_row(name, escape(value))
    console.print(figures)
    console.print("\n[bold]Episode returns[/bold]")
    for line in _bars(card.histograms["episode return"]):
        console.print(line, highlight=False)
    console.print()
    statistics = card.statistics
    console.print(_dimensions("Observations", statistics.observations))
    use = {"at a bound": statistics.saturation, "range covered": statistics.coverage}
    console.print(_dimensions("Actions", statistics.actions, use))
    if not card.findings:
        console.print("[green]No warnings.[/green]")
    for finding in card.findings:
        color = "red" if finding.severity == "error" else "yellow"
        console.print(f"[{color}]{finding.severity.capitalize()}:[/{color}] {escape(str(finding))}")


def facts(card: DataCard) -> list[tuple[str, str]]:
    """The figures that are one line each, by name."""
    summary = card.summary
    quartiles = np.percentile(card.returns, [25, 50, 75])
    score = summary["mean_normalized_score"]
    return [
        ("task", str(summary["env"] or "not named")),
        ("observations", summary["observation_space"]),
        ("actions", summary["action_space"]),
        ("transitions", f"{summary['transitions']:,}"),
        (
            "episodes",
            f"{summary['episodes']:,}: {summary['terminated_episodes']:,} terminated, "
            f"{summary['truncated_episodes']:,} truncated",
        ),
        ("length", f"{card.lengths.mean():.1f} (from {card.lengths.min()} to {card.lengths.max()})"),
        (
            "return",
            f"{summary['mean_return']:.1f} +/- {card.returns.std():.1f}, from {summary['min_return']:.1f} to "
            f"{summary['max_return']:.1f}; quartiles {quartiles[0]:.1f}, {quartiles[1]:.1f}, {quartiles[2]:.1f}",
        ),
        ("normalised score", "no reference returns" if score is None else f"{score:.1f} (0 random, 100 reference)"),
        ("duplicates", f"{card.duplicates:.2%} of the rows"),
        ("states vary in", f"{card.effective_dimensions:.1f} of {len(card.statistics.observations.mean)} directions"),
        ("fingerprint", summary["fingerprint"][:16]),
        *(("read", line) for line in card.reading),
    ]


def _bars(histogram: Histogram) -> list[str]:
    top = max(int(histogram.counts.max()), 1)
    return [
        f"{low:>10.1f} .. {high:>10.1f} {'#' * round(_WIDTH * count / top):<{_WIDTH}} {count}"
        for low, high, count in zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True)
    ]


def _dimensions(title: str, columns: DimensionStatistics, shares: Mapping[str, np.ndarray] | None = None) -> Table:
    """One row a dimension; shares that were not measured (empty) have no column."""
    shares = {name: values for name, values in (shares or {}).items() if len(values)}
    hidden = len(columns.mean) - _MAX_ROWS
    table = Table(title=title, caption=f"and {hidden} more" if hidden > 0 else None)
    for column in ["", "mean", "std", "min", "max", *shares]:
        table.add_column(column, justify="right")
    for i in range(min(len(columns.mean), _MAX_ROWS)):
        figures = (columns.mean[i], columns.std[i], columns.low[i], columns.high[i])
        table.add_row(str(i), *(f"{value:.4g}" for value in figures), *(f"{values[i]:.0%}" for values in shares.values()))
    return table
