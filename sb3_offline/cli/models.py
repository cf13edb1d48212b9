"""Commands about saved models: play them, judge them by logged data alone, look into their dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sb3_offline.cli.parameters import Algo, Discount, EnvId, FitSteps, JudgingData, Model, Seed, Trust


def evaluate(
    model: Model,
    env: Annotated[str | None, typer.Option(help="Task or data set; that of the model's own data if not given.")] = None,
    algo: Algo = None,
    trust: Trust = False,
    episodes: Annotated[int, typer.Option("--episodes", "-n", help="Whole episodes.")] = 20,
    deterministic: Annotated[bool, typer.Option(help="Take the policy's mode, or sample.")] = True,
    seed: Seed = 0,
) -> None:
    """Play a saved model in its task: mean return, and the normalised score where references are known."""
    from rich.console import Console

    from sb3_offline.shell.evaluate import evaluate as play
    from sb3_offline.shell.evaluate import find_task
    from sb3_offline.shell.models import load_model

    saved = load_model(model, algo, trust)
    task, info = find_task(saved, env)
    result = play(saved, task, info, episodes, seed, deterministic)
    score = "" if result.score is None else f", normalised score {result.score:.1f}"
    Console().print(
        f"{type(saved.model).__name__} in {result.env_id}: return {result.returns.mean():.1f} +/- {result.returns.std():.1f} "
        f"over {episodes} episodes of {result.lengths.mean():.0f} steps{score}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def model_report(
    source: Annotated[str, typer.Argument(help="A saved model (.zip), or data: an id or a file.", show_default=False)],
    page: Annotated[Path | None, typer.Option(help="Write the report as .html or .png, too.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Bound the fit, where there is data alone.")] = None,
    horizon: Annotated[int, typer.Option(help="Most steps of open-loop predictions.")] = 50,
    seed: Seed = 0,
    algo: Algo = None,
    trust: Trust = False,
    env_id: EnvId = None,
) -> None:
    """Can I trust my model? Measures learned dynamics on held-out data, and says in words what looks dangerous."""
    from rich.console import Console

    from sb3_offline.common.model_based import ModelBasedAlgorithm
    from sb3_offline.datasets import load_dataset
    from sb3_offline.dynamics.report_dataset import report_dataset
    from sb3_offline.shell.models import load_model

    if page is not None and page.suffix not in (".html", ".png"):
        raise ValueError(f"--page must end in .html or .png, got {page}")
    if source.endswith(".zip"):
        saved = load_model(Path(source), algo, trust).model
        if not isinstance(saved, ModelBasedAlgorithm):
            raise ValueError(f"{source} holds a {type(saved).__name__}, which learns no dynamics model")
        report = saved.dynamics_report(horizon=horizon, seed=seed)
    else:
        options = {} if max_epochs is None else {"max_epochs": max_epochs}
        report = report_dataset(load_dataset(source, env_id=env_id), options, horizon=horizon, seed=seed, progress_bar=True)
    Console().print(report.to_table())
    if page is not None:
        (report.to_html if page.suffix == ".html" else report.to_png)(page)
        Console().print(f"Written to {page}", markup=False)


def select(
    models: Annotated[Path, typer.Argument(help="A folder with saved models (.zip), or one of them.", show_default=False)],
    data: JudgingData,
    html: Annotated[Path | None, typer.Option(help="Write a page with a plot, for whoever decides.")] = None,
    fit_steps: FitSteps = 5000,
    gamma: Discount = 0.99,
    seed: Seed = 0,
    trust: Trust = False,
    env_id: EnvId = None,
) -> None:
    """Which policy? Estimates what each saved model would earn, from logged data alone; the best comes first."""
    from sb3_offline.datasets import load_dataset
    from sb3_offline.files.page import write_page
    from sb3_offline.ope import FQE
    from sb3_offline.shell.consoles import print_whole
    from sb3_offline.shell.selection import select as judge
    from sb3_offline.shell.selection import table
    from sb3_offline.shell.selection_page import selection_html

    dataset = load_dataset(data, env_id=env_id)
    selection = judge(models, dataset, FQE(n_steps=fit_steps, gamma=gamma, seed=seed, progress_bar=True), trust)
    console = print_whole(table(selection))
    for sentence in selection.sentences():
        console.print(sentence, markup=False, soft_wrap=True)
    if html is not None:
        write_page(html, selection_html(selection))
        console.print(f"Written to {html}", markup=False, soft_wrap=True)


def certify(
    model: Model,
    data: JudgingData,
    margin: Annotated[float, typer.Option(help="Better by this share of |the log's mean return|.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the lower bound, above 0.5 and below 1.")] = 0.95,
    fit_steps: FitSteps = 5000,
    gamma: Discount = 0.99,
    seed: Seed = 0,
    algo: Algo = None,
    trust: Trust = False,
    env_id: EnvId = None,
) -> None:
    """May it be deployed? Exits with 0 if the policy's lower bound beats the log's behaviour by the margin, else with 1."""
    from rich.console import Console

    from sb3_offline.datasets import load_dataset
    from sb3_offline.ope import FQE
    from sb3_offline.ope import certify as judge
    from sb3_offline.shell.models import load_model
    from sb3_offline.shell.selection import judged

    dataset = load_dataset(data, env_id=env_id)
    estimator = FQE(n_steps=fit_steps, gamma=gamma, seed=seed, progress_bar=True)
    policy = judged(load_model(model, algo, trust), dataset)
    result = judge(policy, dataset, margin=margin, confidence=confidence, estimator=estimator)
    word = "CERTIFIED" if result.granted else "NOT CERTIFIED"
    Console().print(
        f"{word}: {confidence:.0%} lower bound {result.estimate.low:.4g} (estimate {result.estimate.value:.4g}), required "
        f"{result.required:.4g}, the log itself {result.behavior:.4g}; discounted by {result.estimate.gamma:g}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for reason in result.reasons:
        Console().print(f"- {reason}", markup=False, highlight=False, soft_wrap=True)
    if not result.granted:
        raise typer.Exit(1)
