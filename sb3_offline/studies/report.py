"""What a study found: one HTML page, Markdown, CSV and pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.page import figures_table, page, write_page
from sb3_offline.files.page import pictures as drawn
from sb3_offline.studies.figures import pictures
from sb3_offline.studies.results import Results
from sb3_offline.studies.statistics import Interval

_ENOUGH = 5  #: seeds; intervals of fewer are too narrow to tell anything apart
_CAPTIONS = {
    "curves": "Learning curves: mean over the seeds, from the worst to the best seed; dashed: what the data earned.",
    "scores": "Interquartile mean over all runs, with 95 % stratified bootstrap intervals; dashed: what the data earned.",
    "profiles": "Performance profiles: how many of the runs score above each threshold. Higher is better.",
    "improvement": "How probable it is that a run of one beats a run of the other on the same data. One half is a draw.",
}


def write_report(results: Results, out: Path) -> list[Path]:
    """
    Write ``report.html``, ``report.md``, ``report.csv`` and the pictures.

    :param results: of a study
    :param out: the folder to write to
    :return: the files
    """
    out.mkdir(parents=True, exist_ok=True)
    images = pictures(results)
    write_page(out / "report.html", to_html(results, images))
    texts = {"report.md": to_markdown(results, images), "report.csv": to_csv(results)}
    files = {name: text.encode() for name, text in texts.items()} | {f"report_{name}.png": png for name, png in images.items()}
    for name, content in files.items():
        write_atomically(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return [out / "report.html", *(out / name for name in files)]


def sentences(results: Results) -> list[str]:
    """What the figures say, in words."""
    said = []
    fewest = min(len(line.scores) for line in results.lines.values())
    if results.pooled:
        ranked = sorted(results.names, key=lambda name: results.pooled[name].value, reverse=True)
        said.append(f"The highest interquartile mean has {ranked[0]}: {_interval(results.pooled[ranked[0]])}.")
        if len(ranked) > 1:
            chance = results.improvement[ranked[0], ranked[1]]
            clear = fewest >= _ENOUGH and math.isfinite(chance.low) and chance.low > 0.5
            said.append(
                f"A run of it beats one of {ranked[1]} with probability {_interval(chance, 2)}: "
                + ("the seeds tell them apart." if clear else "these seeds do not tell them apart.")
            )
    if fewest < _ENOUGH:
        said.append(
            f"Some have {fewest} seed{'s' if fewest > 1 else ''} only: intervals of fewer than {_ENOUGH} are too narrow."
        )
    return [*said, *(f"Not pooled: {reason}." for reason in results.left_out)]


_HEAD = ("algorithm", "data", "seeds", "score", "least", "greatest", "the data's", "return", "minutes")


def rows(results: Results) -> list[tuple[str, ...]]:
    """One an algorithm and data set, as text."""
    return [
        (
            line.name,
            line.dataset,
            str(len(line.scores)),
            f"{line.scores.mean():.1f} ± {_half_width(line.scores):.1f}"
            if len(line.scores) > 1
            else f"{line.scores.mean():.1f}",
            f"{line.scores.min():.1f}",
            f"{line.scores.max():.1f}",
            "-" if math.isnan(line.data_score) else f"{line.data_score:.1f}",
            f"{line.returns.mean():.1f}",
            f"{line.minutes:.1f}",
        )
        for line in results.lines.values()
    ]


def to_html(results: Results, images: dict[str, bytes]) -> str:
    """The page, pictures within."""
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(results))
    shown = drawn((png, _caption(name, results)) for name, png in images.items())
    table = figures_table(_HEAD, rows(results))
    body = f'<ul>{said}</ul>{shown}<h2>All figures</h2>{table}<p class="quiet">{escape(_note(results))}</p>'
    return page(f"Study {results.title}", body)


def _caption(name: str, results: Results) -> str:
    """Of a picture; learning curves are one a data set."""
    kind, _, number = name.partition("_")
    return _CAPTIONS[kind] if not number else f"{results.datasets[int(number) - 1]}. {_CAPTIONS[kind]}"


def to_markdown(results: Results, images: dict[str, bytes]) -> str:
    """The same as text; pictures lie beside it."""
    said = "\n".join(f"- {sentence}" for sentence in sentences(results))
    shown = "\n\n".join(f"![{_caption(name, results)}](report_{name}.png)" for name in images)
    table = [_HEAD, ("---", "---", *["---:"] * (len(_HEAD) - 2)), *rows(results)]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in table)
    return f"# Study {results.title}\n\n{said}\n\n{shown}\n\n## All figures\n\n{lines}\n\n{_note(results)}\n"


def to_csv(results: Results) -> str:
    """One row a run."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["algorithm", "data", "score", "return", "data_score"])
    for line in results.lines.values():
        for score, mean in zip(line.scores, line.returns, strict=True):
            writer.writerow([line.name, line.dataset, score, mean, line.data_score])
    return written.getvalue()


def _note(results: Results) -> str:
    unit = "Scores are normalised: 0 random, 100 the reference" if results.normalized else "Scores are returns"
    judged = "its final model" if results.score == "final" else "the mean of its last five evaluations"
    return (
        f"{unit}; of each run {judged}. ± is a 95 % Student t interval over seeds. Pooled "
        f"figures are over {len(results.shared)} data sets."
    )


def _interval(figure: Interval, digits: int = 1) -> str:
    value, low, high = figure
    return f"{value:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) else "")


def _half_width(scores: Sequence[float] | np.ndarray) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.975, len(scores) - 1) * np.std(scores, ddof=1) / math.sqrt(len(scores)))
