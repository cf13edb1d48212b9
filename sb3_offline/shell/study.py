"""``sb3-offline study``: run what a file says, and show how far it is."""

from __future__ import annotations

import functools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sb3_offline.shell.consoles import narrow_table, print_whole
from sb3_offline.shell.own_code import import_own
from sb3_offline.studies.engine import Estimate, Outcome, has_ray, run_by_ray, run_in_pool, work
from sb3_offline.studies.estimate import seconds_of
from sb3_offline.studies.plan import Cell, Study
from sb3_offline.studies.records import is_finished, partial_of, read_lines

Group = tuple[str, str, str]  # algorithm, set of options, data


def run_study(study: Study, n_workers: int, address: str | None, own: Sequence[str]) -> int:
    """
    Run what is not finished.

    :param n_workers: runs at once, of the pool
    :param address: of a Ray cluster; "local" is Ray on this machine, None the pool
    :param own: modules of one's own, which workers import, too
    :return: how many runs failed
    :raises ImportError: if Ray is asked for and is not there
    """
    if address is not None and not has_ray():
        raise ImportError(
            '--address needs Ray: pip install "sb3-offline[ray]". Without it a pool of processes runs the study.'
        )
    cells = [cell for cell in study.cells if not is_finished(cell.path)]
    task = functools.partial(work_with, own=tuple(own))
    outcomes = run_in_pool(study, cells, n_workers, task) if address is None else run_by_ray(study, cells, address, task)
    return _follow(study, cells, outcomes, Console())


def work_with(cell: Cell, cores: int, own: Sequence[str]) -> dict[str, Any]:
    """One run, in a worker, which imports modules of one's own first."""
    for module in own:
        import_own(module)
    return work(cell, cores)


def _follow(study: Study, cells: Sequence[Cell], outcomes: Iterator[Outcome], console: Console) -> int:
    """Show each run that ends; on a terminal a live table instead."""
    estimate, failed = Estimate(len(cells)), []
    live = Live(console=console, refresh_per_second=2, get_renderable=lambda: _table(study, estimate))
    if not console.is_terminal:
        console.print(f"{study.name}: {len(study.cells)} runs, {len(cells)} to go.", markup=False)
    else:
        live.start()
    try:
        for outcome in outcomes:
            estimate.done()
            if outcome.error is not None:
                failed.append(outcome)
            if not console.is_terminal:
                console.print(f"{estimate.n_done}/{len(cells)} {_line(outcome)}", markup=False, soft_wrap=True)
    finally:
        if console.is_terminal:
            live.stop()
    for outcome in failed if console.is_terminal else []:
        console.print(_line(outcome), markup=False, soft_wrap=True)
    return len(failed)


def _line(outcome: Outcome) -> str:
    name = outcome.cell.path.stem
    if outcome.summary is None:
        return f"{name}: FAILED: {outcome.error}"
    return f"{name}: final {outcome.summary['final']:.1f}, {outcome.summary['seconds']:.0f} s"


def group_of(cell: Cell, study: Study) -> Group:
    """What a row of the table is about."""
    return cell.run.algo, str(cell.path.parent.relative_to(study.folder)), cell.run.dataset


def _table(study: Study, estimate: Estimate) -> Table:
    """How far each group is. What is finished is read once, what runs at every look."""
    left = estimate.seconds_left
    title = study.name if left is None else f"{study.name}: about {left / 60:.0f} min left"
    columns = ("algorithm", "options", "data", "finished", "running", "mean score")
    table = narrow_table(*columns, words=("algorithm", "options", "data", "running"), title=title)
    table.columns[2].no_wrap, table.columns[2].overflow = False, "fold"  # the ends of names tell data sets apart
    finished: Counter[Group] = Counter()
    running: defaultdict[Group, list[str]] = defaultdict(list)
    scores: defaultdict[Group, list[float]] = defaultdict(list)
    total: Counter[Group] = Counter(group_of(cell, study) for cell in study.cells)
    for cell in study.cells:
        group = group_of(cell, study)
        if cell.path.exists():
            finished[group] += 1
            scores[group].append(_final(cell.path, cell.path.stat().st_mtime_ns))
        elif partial_of(cell.path).exists():
            points = [line["step"] for line in read_lines(partial_of(cell.path)) if "step" in line]
            running[group].append(f"{cell.run.seed}: {(points or [0])[-1]:,}")
    for group, n in total.items():
        mean = f"{sum(scores[group]) / len(scores[group]):.1f}" if scores[group] else ""
        table.add_row(*map(escape, group), f"{finished[group]}/{n}", ", ".join(running[group][:4]), mean)
    return table


@functools.cache
def _final(path: Path, _written: int) -> float:
    return float(read_lines(path)[-1]["summary"]["final"])


def print_plan(study: Study, n_workers: int) -> None:
    """What would be run, and about how long it takes."""
    groups: defaultdict[Group, list[Cell]] = defaultdict(list)
    for cell in study.cells:
        groups[group_of(cell, study)].append(cell)
    columns = ("algorithm", "options", "data", "runs", "finished", "minutes a run")
    table = narrow_table(*columns, words=("algorithm", "options", "data"), title=f"{study.name}: {study.folder}")
    rest = 0.0
    for group, cells in groups.items():
        ended = [cell for cell in cells if is_finished(cell.path)]
        seconds = seconds_of(cells[0], ended)
        rest += seconds * (len(cells) - len(ended))
        table.add_row(*map(escape, group), str(len(cells)), str(len(ended)), f"{seconds / 60:.1f}")
    console = print_whole(table)
    console.print(
        f"{len(study.cells)} runs of {study.cells[0].protocol.steps:,} steps, about {_duration(rest / n_workers)} with "
        f"{n_workers} at once. Nothing was run.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _duration(seconds: float) -> str:
    return time.strftime("%H h %M min", time.gmtime(seconds)) if seconds < 86_400 else f"{seconds / 86_400:.1f} days"
