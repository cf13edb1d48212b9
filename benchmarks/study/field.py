"""
Question 5: every algorithm with its defaults, from the runs that the recipes' and the peers' measurements committed.

    python -m benchmarks.study.field    # writes field/ below the study's results: report.html, field.md, front_page.md, ...

A run counts if it has all of the data, at least 20,000 steps, and lies in a folder named "defaults" or in that of the search
whose options became the defaults; each option that it names has the default's value today, as its file says nothing of others.
The report, with the performance profile, is that of ``sb3-offline report`` over the algorithms that have runs on both data
sets; the table has all, and shows a gap as a gap.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import RESULTS
from benchmarks.study.run import FOLDER
from benchmarks.time_to_good import SHARE, first_good, goal_of
from sb3_offline.files.atomic import write_atomically
from sb3_offline.registry import find_algorithm
from sb3_offline.registry import names as registered
from sb3_offline.studies.records import Record, read_runs, to_json
from sb3_offline.studies.report import write_report
from sb3_offline.studies.results import results_of

SOURCES = ("recipes", "peers")
ALGORITHMS = ("bc", "td3bc", "rebrac", "iql", "awac", "edac", "sacn", "fql", "cql", "mopo", "combo", "dromo", "mobile")
DATA = {"hopper medium-replay": ("hopper", "medium-replay"), "halfcheetah medium-replay": ("halfcheetah", "medium-replay")}
LEAST_STEPS = 20_000
BECAME_DEFAULT = {"combo": "gamma_995", "dromo": "gamma_995", "mopo": "rollouts_25"}  # of benchmarks/recipes.yml
_COLUMNS = ("runs", "last", "least", "greatest", "best on the way", "minutes", "reached 80%", "minutes to 80%")
_MINUTES, _TO_GOOD = _COLUMNS.index("minutes"), _COLUMNS.index("minutes to 80%")


def data_of(dataset: str) -> str | None:
    """Which of the two data sets an id or a file's name means."""
    return next((name for name, words in DATA.items() if all(word in dataset for word in words)), None)


def is_default(run: Record) -> bool:
    """Whether it was made with today's defaults."""
    if run["fraction"] != 1 or run["steps"] < LEAST_STEPS or data_of(run["dataset"]) is None:
        return False
    if "library" in run:
        return not run.get("options")
    if run["algo"] not in registered() or not {"defaults", BECAME_DEFAULT.get(run["algo"])} & set(run["set"].split("/")):
        return False
    options = run.get("options") or {}
    algorithm = find_algorithm(run["algo"])
    plain = algorithm("MlpPolicy", None, _init_setup_model=False)  # what options of None come to
    names = inspect.signature(algorithm).parameters
    defaults = {name: getattr(plain, name) for name in names if hasattr(plain, name)}
    defaults["policy_kwargs"] = algorithm.default_policy_kwargs
    return all(name in defaults and _is_equal(defaults[name], options[name]) for name in options)


def _is_equal(default: Any, recorded: Any) -> bool:
    """Whether an option that was written as JSON is this default."""
    return bool(default == recorded) or to_json({"": default}) == to_json({"": recorded})


def field_runs(results: Path = RESULTS) -> list[Record]:
    """The runs that count, named after their algorithm alone, or after the library that made them; each seed once."""
    found: dict[tuple[Any, ...], Record] = {}
    for source in SOURCES:
        for run in read_runs(results / source) if (results / source).is_dir() else []:
            if not is_default(run):
                continue
            library = str(run.get("library", "")).partition("==")[0]
            name = f"{library} {run['algo']}".strip()
            kept = {**run, "algo": name, "set": ".", "dataset": data_of(run["dataset"])}
            found[name, kept["dataset"], run["seed"], run["steps"]] = kept
    return [*found.values()]


def figures_of(runs: Sequence[Record]) -> tuple[str, ...]:
    """A row's cells: scores are normalised; medians of times, infinite where a run never got to 80% of the goal."""
    last = np.array([run["normalized_final"] for run in runs])
    best = [max(point["normalized_score"] for point in run["curve"]) for run in runs]
    threshold = SHARE * (goal_of(runs[0]["dataset"]) or math.inf)
    points = [first_good(run["curve"], threshold) for run in runs]
    to_good = float(np.median([math.inf if point is None else point["seconds"] for point in points]))
    return (
        str(len(runs)),
        f"{last.mean():.1f}",
        f"{last.min():.1f}",
        f"{last.max():.1f}",
        f"{np.mean(best):.1f}",
        f"{np.median([run['seconds'] for run in runs]) / 60:.0f}",
        f"{sum(point is not None for point in points)} of {len(points)}",
        "-" if math.isinf(to_good) else f"{to_good / 60:.1f}",
    )


def table(runs: Sequence[Record]) -> list[tuple[str, ...]]:
    """A head, and a row an algorithm, budget and data set; one without runs has dashes."""
    groups: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for run in runs:
        groups[run["algo"], run["dataset"], run["steps"]].append(run)
    names = [*ALGORITHMS, *sorted({run["algo"] for run in runs} - {*ALGORITHMS})]
    rows: list[tuple[str, ...]] = [("algorithm", "data", "steps", *_COLUMNS)]
    for name in names:
        for data in DATA:
            own = {steps: group for (of, on, steps), group in sorted(groups.items()) if (of, on) == (name, data)}
            rows += [(name, data, f"{steps:,}", *figures_of(group)) for steps, group in own.items()]
            if not own:
                rows.append((name, data, "-", *["-"] * len(_COLUMNS)))
    return rows


def shared_names(runs: Sequence[Record]) -> list[str]:
    """The algorithms that have runs on both data sets, which alone can be pooled."""
    have = defaultdict(set)
    for run in runs:
        have[run["algo"]].add(run["dataset"])
    return sorted(name for name, data in have.items() if len(data) == len(DATA))


def front_page(runs: Sequence[Record]) -> list[tuple[str, ...]]:
    """A head, and a row an algorithm with runs on both data sets, the best mean first: last scores, their runs, and times."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in runs:
        groups[run["algo"], run["dataset"]].append(run)
    rows = []
    for name in shared_names(runs):
        cells = [figures_of(groups[name, data]) for data in DATA]
        scores = [f"{last} ({n})" for n, last, *_ in cells]
        times = [cell[place] for place in (_MINUTES, _TO_GOOD) for cell in cells]
        rows.append((sum(float(last) for _, last, *_ in cells), (find_algorithm(name).__name__, *scores, *times)))
    tasks = [data.split()[0] for data in DATA]
    head = ("algorithm", *DATA, *(f"minutes, {task}" for task in tasks), *(f"to 80%, {task}" for task in tasks))
    return [head, *(row for _, row in sorted(rows, reverse=True))]


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def write_field(runs: Sequence[Record], out: Path) -> str:
    """
    Write the report over what can be pooled, the whole table, and that of the docs' front page.

    :return: the table as Markdown
    """
    out.mkdir(parents=True, exist_ok=True)
    shared = shared_names(runs)
    if shared:
        write_report(results_of("field", [run for run in runs if run["algo"] in shared], score="final"), out)
    rows = table(runs)
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    text = _markdown(rows)
    write_atomically(out / "field.csv", lambda file: file.write(written.getvalue().encode()))
    write_atomically(out / "field.md", lambda file: file.write(text.encode()))
    write_atomically(out / "front_page.md", lambda file: file.write(_markdown(front_page(runs)).encode()))
    return text


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder that holds the recipes' and the peers' runs")
    parser.add_argument("--out", type=Path, default=FOLDER / "field")
    arguments = parser.parse_args(argv)
    print(write_field(field_runs(arguments.results), arguments.out))


if __name__ == "__main__":
    main()
