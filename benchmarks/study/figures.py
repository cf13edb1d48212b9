"""
Every figure and every answer of the study, from the raw lines under benchmarks/results/study.

    python -m benchmarks.study.figures            # writes a report a part, the sample complexity's curves, and answers.md

The scores, rules and words are PLAN.md's: the final model over 50 episodes, interquartile means, stratified bootstrap.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.run import FOLDER, PARTS
from sb3_offline.files.atomic import write_atomically
from sb3_offline.studies.records import read_runs
from sb3_offline.studies.report import write_report
from sb3_offline.studies.results import Results, read_results
from sb3_offline.studies.statistics import Interval, Scores, bootstrap, interquartile_mean, probability_of_improvement

REPEATS = 50_000
RIVAL, WEIGHTS = "combo", ("dromo std_0.1", "dromo std_1")
Sizes = dict[tuple[str, str], dict[int, np.ndarray]]
"""Task and algorithm -> rows -> the seeds' scores."""


def helps(parts: Sequence[Results], repeats: int = REPEATS) -> list[str]:
    """Question 1, of each weight over all tasks that both have."""
    lines = {key: line for results in parts for key, line in results.lines.items()}
    said = []
    for name in WEIGHTS:
        tasks = [task for own, task in lines if own == name and (RIVAL, task) in lines]
        if not tasks:
            continue
        scores: list[Scores] = [[lines[each, task].scores for task in tasks] for each in (name, RIVAL)]
        found = bootstrap(scores, probability_of_improvement, repeats)
        n = min(len(runs) for own in scores for runs in own)
        said.append(f"{name} against {RIVAL} on {len(tasks)} tasks: {_text(found)}, {n} seeds: {verdict(found, n)}.")
    return said


def verdict(chance: Interval, n_seeds: int) -> str:
    """PLAN.md's rule for a probability of improvement."""
    if chance.low > 0.5:
        return "yes"
    if chance.high < 0.5 or (chance.low >= 0.4 and chance.high <= 0.6):
        return "no"
    away, half = abs(chance.value - 0.5), (chance.high - chance.low) / 2
    if not math.isfinite(half) or away == 0:
        return "undecided"
    return (
        f"undecided; if it stays at {chance.value:.2f}, about {math.ceil(n_seeds * (half / away) ** 2)} seeds would decide it"
    )


def where(small: Results, repeats: int = REPEATS) -> list[str]:
    """Question 2: the difference of interquartile means of each variant from COMBO, task by task."""
    said = []
    for name, task in itertools.product(small.names, small.datasets):
        if name == RIVAL or (name, task) not in small.lines or (RIVAL, task) not in small.lines:
            continue
        scores: list[Scores] = [[small.lines[each, task].scores] for each in (name, RIVAL)]
        found = bootstrap(scores, lambda one, two: interquartile_mean(one) - interquartile_mean(two), repeats)
        word = "helps" if found.low > 0 else "harms" if found.high < 0 else "no difference is shown"
        said.append(f"{name} on {task}: {_text(found, 1)}: {word}.")
    return said


def sizes_of(runs: Sequence[dict[str, Any]]) -> Sizes:
    found: dict[tuple[str, str], dict[float, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[Path(run["dataset"]).stem, run["algo"]][run["fraction"]].append((run["transitions"], run["normalized_final"]))
    return {
        key: {round(np.mean([n for n, _ in each])): np.array([score for _, score in each]) for each in shares.values()}
        for key, shares in found.items()
    }


def rate(best: float, scores: dict[int, np.ndarray]) -> float:
    """Slope of log(best - mean) over log(rows), where the mean is below the best; nan of fewer than two such shares."""
    gaps = {n: best - runs.mean() for n, runs in scores.items() if runs.mean() < best}
    if len(gaps) < 2:
        return float("nan")
    return float(np.polyfit(np.log([*gaps]), np.log([*gaps.values()]), 1)[0])


def rates(sizes: Sizes, task: str, repeats: int = 2000) -> dict[str, Interval]:
    """Of each algorithm; and of DROMO's minus COMBO's. Seeds are drawn anew within each share."""
    own = {algo: scores for (of, algo), scores in sizes.items() if of == task}
    best = max(runs.mean() for scores in own.values() for runs in scores.values())
    generator = np.random.default_rng(0)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for algo, scores in own.items():
            again = {n: generator.choice(runs, len(runs)) for n, runs in scores.items()}
            drawn[algo].append(rate(best, again))
    figures = {algo: _interval(rate(best, scores), drawn[algo]) for algo, scores in own.items()}
    if {"dromo", RIVAL} <= own.keys():
        value = figures["dromo"].value - figures[RIVAL].value
        figures[f"dromo - {RIVAL}"] = _interval(value, [d - c for d, c in zip(drawn["dromo"], drawn[RIVAL], strict=True)])
    return figures


def sample_complexity(sizes: Sizes, repeats: int = 2000) -> list[str]:
    """Question 4, task by task."""
    said = []
    for task in sorted({task for task, _ in sizes}):
        found = rates(sizes, task, repeats)
        said += [f"{task}, rate of {name}: {_text(interval)}." for name, interval in found.items()]
        shares = [sorted(sizes.get((task, algo), {}).items())[:3] for algo in ("dromo", RIVAL)]
        if all(shares):
            scores: list[Scores] = [[runs for _, runs in each] for each in shares]
            chance = bootstrap(scores, probability_of_improvement, repeats)
            steeper = found[f"dromo - {RIVAL}"].high < 0
            holds = "holds" if steeper and chance.low > 0.5 else "does not hold"
            said.append(f"{task}: on the three least shares DROMO beats COMBO with {_text(chance)}: the conjecture {holds}.")
    return said


def draw_sizes(sizes: Sizes) -> bytes:
    """A panel a task: mean and range over the seeds against the rows."""
    from matplotlib.figure import Figure

    tasks = sorted({task for task, _ in sizes})
    figure = Figure(figsize=(4.6 * len(tasks), 3.4), layout="constrained")
    for index, task in enumerate(tasks):
        axis = figure.add_subplot(1, len(tasks), index + 1, xscale="log", title=task, xlabel="logged rows")
        for (of, algo), scores in sorted(sizes.items()):
            if of == task:
                rows = sorted(scores)
                axis.plot(rows, [scores[n].mean() for n in rows], marker="o", label=algo)
                axis.fill_between(rows, [scores[n].min() for n in rows], [scores[n].max() for n in rows], alpha=0.12)
        axis.set_ylabel("normalised score")
        axis.legend(fontsize=8, frameon=False)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=130)
    return written.getvalue()


def _interval(value: float, drawn: Sequence[float]) -> Interval:
    known = [each for each in drawn if math.isfinite(each)]
    if not known:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _text(interval: Interval, digits: int = 2) -> str:
    value, low, high = interval
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder = parser.parse_args(argv).folder
    present = [name for name in PARTS if (folder / name).is_dir() and read_runs(folder / name)]
    results = {name: read_results(folder / name, score="final") for name in present}
    for name in present:
        write_report(results[name], folder / name)
    answers: dict[str, list[str]] = {
        "1. Does the robust term help?": helps([results[name] for name in present if name != "size"]),
        "2. Where does it?": where(results["small"]) if "small" in results else [],
    }
    if "size" in results:
        sizes = sizes_of(read_runs(folder / "size"))
        answers["4. Sample complexity"] = sample_complexity(sizes)
        write_atomically(folder / "sizes.png", lambda file: file.write(draw_sizes(sizes)))
    text = "\n\n".join(
        "\n".join([f"## {question}", "", *(f"- {line}" for line in said)]) for question, said in answers.items()
    )
    write_atomically(folder / "answers.md", lambda file: file.write(f"# What the runs say\n\n{text}\n".encode()))
    print(text)


if __name__ == "__main__":
    main()
