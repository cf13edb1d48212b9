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

from benchmarks.ope_picks import picks
from benchmarks.run import RESULTS
from benchmarks.study.field import field_runs, write_field
from benchmarks.study.run import FOLDER, PARTS
from sb3_offline.files.atomic import write_atomically
from sb3_offline.studies.records import Record, read_lines, read_runs
from sb3_offline.studies.report import write_report
from sb3_offline.studies.results import Results, results_of
from sb3_offline.studies.statistics import Interval, Scores, bootstrap, interquartile_mean, probability_of_improvement

REPEATS = 50_000
LOCOMOTION_STEPS = 30_000
RIVAL, WEIGHTS = "combo", ("dromo std_0.1", "dromo std_1")
Sizes = dict[tuple[str, str], dict[int, np.ndarray]]
"""Task and algorithm -> rows -> the seeds' scores."""


def helps(parts: Sequence[Results], repeats: int = REPEATS) -> list[str]:
    """Question 1, of each weight over all tasks that both have: two seeds of each at least, for one has no interval."""
    lines = {key: line for results in parts for key, line in results.lines.items()}
    said = []
    for name in WEIGHTS:
        both = [task for own, task in lines if own == name and (RIVAL, task) in lines]
        tasks = [task for task in both if min(len(lines[each, task].scores) for each in (name, RIVAL)) > 1]
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


def inside(records: Sequence[Record]) -> list[str]:
    """Question 3, task by task and set by set."""
    said = []
    for task, name in sorted({(Path(record["dataset"]).stem, record["name"]) for record in records}):
        own = [record for record in records if (Path(record["dataset"]).stem, record["name"]) == (task, name)]
        better = [record for record in own if record["beats_the_data"]]
        hope = np.mean([record["value"] - record["truth"] for record in better]) if better else float("nan")
        hopes = f"value minus simulated return {hope:.2f} over {len(better)} policies that beat the data"
        if name != RIVAL:
            rising = [record["rank_correlation"] for record in own]
            said.append(
                f"{name} on {task}: rank correlation of the ratio of spreads with n(s) {np.mean(rising):.2f}, above 0 on "
                f"{sum(each > 0 for each in rising)} of {len(own)} seeds; median ratio "
                f"{np.mean([record['median_ratio'] for record in own]):.2f}; collapsed at "
                f"{np.mean([record['collapsed'] for record in own]):.1%} of states; {hopes}."
            )
        else:
            said.append(f"{name} on {task}: {hopes}.")
    return said


def draw_inside(records: Sequence[Record]) -> bytes:
    """A panel a task: the ratio of spreads to COMBO's by tenths of the rows, the least visited first; a line a weight."""
    from matplotlib.figure import Figure

    tasks = sorted({Path(record["dataset"]).stem for record in records})
    figure = Figure(figsize=(4.6 * len(tasks), 3.4), layout="constrained")
    for index, task in enumerate(tasks):
        axis = figure.add_subplot(1, len(tasks), index + 1, title=task, xlabel="tenth of n(s), rarest states first")
        for name in sorted({record["name"] for record in records} - {RIVAL}):
            own = [r["deciles"] for r in records if r["name"] == name and Path(r["dataset"]).stem == task]
            if own:
                ratios = np.array([[tenth["ratio"] for tenth in deciles] for deciles in own])
                axis.plot(range(1, 11), np.median(ratios, axis=0), marker="o", markersize=3, label=name)
        axis.axhline(1.0, color="#5b6770", linestyle="--", linewidth=1)
        axis.set_ylabel("spread of Q over COMBO's, median of seeds")
        axis.legend(fontsize=7, frameon=False)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=130)
    return written.getvalue()


def selection(folder: Path) -> list[str]:
    """Question 6: the pick of FQE beside the last and the best checkpoint, mean over the runs whose checkpoints were kept."""
    said = []
    for file in sorted(folder.glob("*.jsonl")):
        found = picks(read_lines(file))
        if found:
            means = {key: np.mean([row[key] for row in found.values()]) for key in next(iter(found.values()))}
            text = ", ".join(f"{key} {value:.1f}" for key, value in means.items())
            said.append(f"{file.stem}, {len(found)} runs, discounted return of the pick: {text}.")
    return said


def sizes_of(runs: Sequence[dict[str, Any]]) -> Sizes:
    found: dict[tuple[str, str], dict[float, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[Path(run["dataset"]).stem, run["algo"]][run["fraction"]].append((run["transitions"], run["normalized_final"]))
    return {
        key: {round(np.mean([n for n, _ in each])): np.array([score for _, score in each]) for each in shares.values()}
        for key, shares in found.items()
    }


def locomotion_of(field: Sequence[Record]) -> list[Record]:
    """The runs of question 5 that are cells of the part "locomotion": COMBO's, and DROMO's, whose default is std .1."""
    sets = {RIVAL: ".", "dromo": "std_0.1"}
    names = {"hopper medium-replay": "offline/hopper/medium-replay-v0"}
    return [
        {**run, "set": sets[run["algo"]], "dataset": names.get(run["dataset"], "halfcheetah_medium-replay-v0.hdf5")}
        for run in field
        if run["algo"] in sets and run["steps"] == LOCOMOTION_STEPS and run["seed"] < 5
    ]


def whole_data(runs: Sequence[Record]) -> list[Record]:
    """The runs of the part "small" that belong to the sizes, too: COMBO's and DROMO std .1's, of the sizes' five seeds."""
    return [run for run in runs if (run["algo"], run["set"]) in ((RIVAL, "."), ("dromo", "std_0.1")) and run["seed"] < 5]


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
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of the bootstrap; the plan's number if not given")
    arguments = parser.parse_args(argv)
    folder, repeats = arguments.folder, arguments.repeats
    field = field_runs()
    runs = {name: read_runs(folder / name) if (folder / name).is_dir() else [] for name in PARTS}
    runs["locomotion"] += locomotion_of(field)
    present = [name for name in PARTS if runs[name]]
    results = {name: results_of(name, runs[name], score="final") for name in present}
    for name in present:
        write_report(results[name], folder / name)
    answers: dict[str, list[str]] = {
        "1. Does the robust term help?": helps([results[name] for name in present if name != "size"], repeats),
        "2. Where does it?": where(results["small"], repeats) if "small" in results else [],
    }
    if (folder / "inside.jsonl").exists():
        looked = read_lines(folder / "inside.jsonl")
        answers["3. Does it do in deep networks what the exact solution says?"] = inside(looked)
        write_atomically(folder / "inside.png", lambda file: file.write(draw_inside(looked)))
    if "size" in results:
        sizes = sizes_of([*runs["size"], *whole_data(runs["small"])])
        answers["4. Sample complexity"] = sample_complexity(sizes)
        write_atomically(folder / "sizes.png", lambda file: file.write(draw_sizes(sizes)))
    write_field(field, folder / "field")
    answers["5. The field on equal terms"] = ["The table and the profile are in field/."] if field else []
    answers["6. Selection"] = selection(RESULTS / "ope")
    text = "\n\n".join(
        "\n".join([f"## {question}", "", *(f"- {line}" for line in said)]) for question, said in answers.items()
    )
    write_atomically(folder / "answers.md", lambda file: file.write(f"# What the runs say\n\n{text}\n".encode()))
    print(text)


if __name__ == "__main__":
    main()
