"""The selection as one page: for whoever must decide, and has not trained the models."""

from __future__ import annotations

from html import escape

from sb3_offline.files.page import figures_table, page, verdict
from sb3_offline.shell.selection import HEAD, Selection, rows

_STYLE = """
svg { width: 44rem; } svg text.name { fill: var(--ink); font-size: 13px;
  paint-order: stroke; stroke: var(--ground); stroke-width: 4px; }
.interval { stroke: var(--blue); stroke-width: 3; } .value { fill: var(--blue); }
.behavior { stroke: var(--orange); stroke-width: 2; stroke-dasharray: 5 4; }
"""
_WIDTH, _ROW, _TOP, _PAD = 440, 40, 26, 12
_MOST = 20  # policies drawn


def selection_html(selection: Selection) -> str:
    """The whole page. Text from files is escaped."""
    best, estimate = selection.best, selection.best.ranked.estimate
    gain = estimate.value - selection.behavior
    share = f" ({abs(gain / selection.behavior):.0%})" if selection.behavior else ""
    trend = "above" if gain >= 0 else "below"
    body = f"""<p class="length">The highest lower bound has <b>{escape(best.ranked.name)}</b>: it is estimated at
{estimate.value:.4g}, with {estimate.confidence:.0%} confidence between {estimate.low:.4g} and {estimate.high:.4g}. That is
{abs(gain):.4g}{share} {trend} what the log itself earned, {selection.behavior:.4g}. {_above(selection)}</p>
{verdict(list(selection.sentences()), "Nothing speaks against it. Try it on a small scale first all the same.")}
<figure>{_plot(selection)}
<figcaption>Estimated return of each policy with its interval; dashed: the log itself.</figcaption></figure>
<h2>All policies</h2>{figures_table(HEAD, rows(selection))}
<h2>How to read this</h2>
<ul><li>Every figure is an estimate from {selection.episodes:,} logged episodes ({escape(selection.dataset_id)}); nothing was
tried out. Returns are discounted by {estimate.gamma:g} a step.</li>
<li>The order is that of the intervals' lower ends: the highest of many estimates is more often one that errs upwards, and
errors are largest where the log shows least.</li>
<li>The interval says how far the estimate would move with other episodes of the same kind. It does not cover what the log
has never seen: that is what the OOD score is for. 0.5 is usual for the log's own actions, near 1 is unlike all of them.</li>
<li>"own Q" is what the policy's own critic expects. It was trained together with the policy, and usually hopes for
too much.</li>
<li>Estimates of this kind have been held against simulators on few tasks: take the order as advice.</li>
</ul>"""
    return page(f"Which policy? {len(selection.candidates)} judged by {selection.dataset_id}", body, _STYLE)


def _above(selection: Selection) -> str:
    """Which policy has the highest estimate, if another is put first."""
    highest = max(selection.candidates, key=lambda one: one.ranked.estimate.value).ranked
    if highest.name == selection.best.ranked.name:
        return ""
    return (
        f"{escape(highest.name)} is estimated higher, at {highest.estimate.value:.4g}, but may be as low as "
        f"{highest.estimate.low:.4g}."
    )


def _plot(selection: Selection) -> str:
    shown = selection.candidates[:_MOST]
    estimates = [one.ranked.estimate for one in shown]
    ends = [end for each in estimates for end in (each.low, each.value, each.high) if abs(end) != float("inf")]
    low, high = min(*ends, selection.behavior), max(*ends, selection.behavior)
    span, height = max(high - low, 1e-12), _TOP + _ROW * len(shown) + 8

    def x(value: float) -> float:
        return _PAD + (_WIDTH - 2 * _PAD) * (min(max(value, low), high) - low) / span

    log = x(selection.behavior)
    parts = [
        f'<text x="{_PAD}" y="14">{low:.4g}</text><text x="{_WIDTH - _PAD}" y="14" text-anchor="end">{high:.4g}</text>',
        f'<line class="behavior" x1="{log:.1f}" x2="{log:.1f}" y1="{_TOP - 6}" y2="{height}"/>',
    ]
    for index, (one, estimate) in enumerate(zip(shown, estimates, strict=True)):
        y = _TOP + _ROW * index + 28
        parts.append(
            f'<text class="name" x="{_PAD}" y="{y - 10}">{escape(one.ranked.name)}</text>'
            f'<line class="interval" x1="{x(estimate.low):.1f}" x2="{x(estimate.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="value" cx="{x(estimate.value):.1f}" cy="{y}" r="5"/>'
        )
    label = "Estimates and intervals; the table below has the figures"
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    return f'<svg {size} role="img" aria-label="{label}">{"".join(parts)}</svg>'
