"""The model report in words and as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from sb3_offline.dynamics.report_figures import OUTSIDE_LIMIT, ReportFigures

ENOUGH_GAIN, HARDLY_BETTER = 5.0, 1.5


def dangers(report: ReportFigures) -> list[str]:
    """One sentence for each thing that looks dangerous."""
    return [*_of_prediction(report), *_of_uncertainty(report), *_of_rollouts(report)]


def _of_prediction(report: ReportFigures) -> Iterator[str]:
    step = report.one_step
    if report.held_out != "test episodes":
        yield (
            "Open-loop errors come from episodes that the fit has seen, and are optimistic: keep some apart with "
            "dynamics_kwargs={'test_fraction': 0.1}."
        )
    if step.gain < ENOUGH_GAIN:
        yield f"One step ahead the model is only {step.gain:.1f} times better than predicting no change."
    poor = [
        j
        for j, (error, still) in enumerate(zip(step.error[:-1], step.no_change[:-1], strict=True))
        if error * HARDLY_BETTER > still > 0
    ]
    if poor:
        names = ", ".join(map(str, poor))
        yield f"Coordinate{'s' * (len(poor) > 1)} {names} of the observation: hardly better predicted than by no change."
    if step.reward_explained < 0.9:
        yield f"Only {step.reward_explained:.0%} of the reward's variance is predicted; imagined rewards mislead."
    if report.accurate_steps < 5:
        yield f"Open-loop predictions are a guide for {_steps(report.accurate_steps)} only."


def _of_uncertainty(report: ReportFigures) -> Iterator[str]:
    inside = report.coverage_of_90
    if inside < 0.85:
        yield f"Forecasts are overconfident: 90% intervals hold {inside:.0%} of the truth. Try calibration='isotonic'."
    elif inside > 0.96:
        yield f"Forecasts are too wide: 90% intervals hold {inside:.0%} of the truth; imagined noise is too large."
    best = max(report.penalty_correlation.values())
    if best < 0.3:
        yield f"No penalty ranks the model's errors (best rank correlation {best:.2f}): pessimism falls on the wrong states."
    by_chance = len(report.elites) / report.n_members
    if report.elite_stability < by_chance + 0.25 * (1 - by_chance):
        yield f"The elites are a matter of luck: on resampled rows only {report.elite_stability:.0%} of them stay."


def _of_rollouts(report: ReportFigures) -> Iterator[str]:
    coverage, horizon = report.coverage, len(report.coverage.steps)
    covered = report.covered_steps
    if covered < horizon:
        out = coverage.outside[covered]
        far = "half of the states are farther from it than 95% of its own states from each other"
        reason = f"{out:.1%} of states out of its range" if out > OUTSIDE_LIMIT else far
        start = f"Rollouts beyond {_steps(covered)} leave" if covered else "Even the first step of a rollout leaves"
        yield f"{start} the data ({reason})."
    if report.termination is not None and report.termination.recall < 0.9:
        share = 1 - report.termination.recall
        yield f"{share:.0%} of the ends in the data are not recognised: imagined episodes go on where real ones end."
    if report.termination is not None and report.termination.precision < 0.8:
        share = 1 - report.termination.precision
        yield f"{share:.0%} of the ends that are called are none: imagined episodes end too early."


def table(report: ReportFigures) -> Table:
    """Two columns: what was asked, and the answer."""
    result = Table(title=f"Dynamics model on {report.dataset_id}", show_header=False, title_justify="left")
    result.add_column("question", style="bold")
    result.add_column("answer")
    for question, answer in rows(report):
        result.add_row(question, answer)
    return result


def rows(report: ReportFigures) -> list[tuple[str, str]]:
    """The report's main figures, question and answer."""
    step, coverage, curve = report.one_step, report.coverage, report.open_loop
    shown = [k for k in (1, 5, 10, 25, 50) if k <= len(curve.steps)]
    opened = [f"{k}: {curve.error[k - 1]:.2f} ({curve.spread[k - 1]:.2f}; {curve.no_change[k - 1]:.2f})" for k in shown]
    shown = [k for k in (1, 5, 10, 25, 50) if k <= len(coverage.steps)]
    outside = [f"{k}: {coverage.outside[k - 1]:.1%}" for k in shown]
    found = [
        ("measured on", f"{report.n_rows:,} {'rows of ' if report.held_out == 'test episodes' else ''}{report.held_out}"),
        ("one step, against no change", f"{step.gain:.1f} times better"),
        ("reward's variance explained", f"{step.reward_explained:.1%}"),
        ("open loop, error (spread; no change), std of the data", ",  ".join(opened)),
        ("90% intervals hold", f"{report.coverage_of_90:.1%}   (calibration error {report.calibration.debiased:.4f})"),
        (
            "penalties' rank correlation with the error",
            ",  ".join(f"{name} {value:.2f}" for name, value in report.penalty_correlation.items()),
        ),
        ("imagined states out of the data's range", ",  ".join(outside)),
        ("elites", f"{', '.join(map(str, report.elites))}   ({report.elite_stability:.0%} stay on resampled rows)"),
    ]
    for name, agreement in (
        ("ends of episodes, as rolled out", report.termination),
        ("learned ends, on rows of their own", report.termination_head),
    ):
        if agreement is not None:
            text = f"recall {agreement.recall:.1%}, precision {agreement.precision:.1%} ({agreement.n_terminal} ends)"
            found.append((name, text))
    found.append(("suggested rollout_length", str(report.rollout_length)))
    found.extend(("danger", sentence) for sentence in dangers(report))
    return found


def _steps(n: int) -> str:
    return f"{n} step{'s' * (n != 1)}"
