"""The shell: ``sb3-offline COMMAND``, which is ``python -m sb3_offline COMMAND``. What is heavy is imported by the command."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sb3_offline._version import __version__
from sb3_offline.commands import USER_ERRORS, report
from sb3_offline.files.refusal import printable
from sb3_offline.shell.flags import name_flags_alone
from sb3_offline.shell.own_code import OPTION, import_own, imports_first

_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}

app = typer.Typer(
    name="sb3-offline",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Model = Annotated[Path, typer.Argument(help="A saved model (.zip) of this package or of Stable-Baselines3.")]
Algo = Annotated[str | None, typer.Option(help="Its algorithm, if it cannot be told from the file.")]
Trust = Annotated[bool, typer.Option("--trust", help="Unpickle what is no plain data; only for files whose writer you trust.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
EnvId = Annotated[str | None, typer.Option("--env-id", help="Task of data that do not name it, such as Hopper-v5.")]
Columns = Annotated[Path | None, typer.Option("--columns", help="YAML file that says which columns of a table are what.")]
Data = Annotated[
    str,
    typer.Argument(
        help="An id (packaged or Minari), a file (.npz, .hdf5, .parquet, .csv, ...) or a folder.", show_default=False
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sb3-offline {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)]


Own = Annotated[
    list[str] | None,
    typer.Option(OPTION, metavar="MODULE", help="A module or .py file that registers algorithms of your own; run first."),
]


@app.callback()
def options(_version: Version = False, own: Own = None) -> None:
    """Offline reinforcement learning for Stable-Baselines3: from logged data to a policy."""
    for module in own or []:
        import_own(module)


@app.command()
def demo(
    dataset: Annotated[str, typer.Option(help="Dataset id.")] = "sb3_offline/Pendulum-medium-replay-v0",
    steps: Annotated[int | None, typer.Option(help="Gradient steps; enough to beat the data clearly if not given.")] = None,
    eval_freq: Annotated[int, typer.Option(help="Gradient steps between evaluations.")] = 1000,
    seed: Seed = 0,
    output: Annotated[Path, typer.Option(help="Folder for results.")] = Path("demo_output"),
) -> None:
    """Train DROMO on a packaged dataset and show what it learned."""
    from sb3_offline.evaluation.demo import run_demo

    run_demo(dataset, steps, eval_freq, seed, output)


@app.command()
def theorems(
    n_mdps: Annotated[int | None, typer.Option(help="Random MDPs a claim.")] = None,
    seed: Seed = 0,
) -> None:
    """Measure on random MDPs which of the DROMO paper's claims hold."""
    from sb3_offline.tabular.theorems import print_theorems

    options = {} if n_mdps is None else {"n_mdps": n_mdps}
    print_theorems(seed=seed, **options)


@app.command(context_settings=_PASS_ON)
def train(context: typer.Context) -> None:
    """
    Train by RL-Zoo, for instance --algo dromo --env sb3_offline/Pendulum-medium-v0

    \b
    --algo NAME         cql, combo, dromo, ...
    --env ID            a gymnasium id, or data, which name their task
    --dataset SOURCE    an id or a file, for an env without data of its own
    -n STEPS            gradient steps, in place of the configuration's
    -params NAME:VALUE  hyperparameters, in place of the configuration's
    -conf FILE          your own YAML file, in place of the packaged one
    -f FOLDER           where models go (logs/)
    -tb FOLDER          where TensorBoard's files go
    --eval-freq N       gradient steps between evaluations, -1 for none
    --save-freq N       gradient steps between checkpoints
    -i MODEL.zip        continue with a model
    --trust             read pickled files of old models, too
    -P                  show a progress bar
    --seed, --device    as in SB3
    --seeds 0-7         several, in one process, each with a folder of its own
    --share-dynamics    of these seeds: fit the dynamics once for all
    -optimize           search hyperparameters (--n-trials, --storage, ...)
    --objective NAME    of the search: simulator, or without one fqe, model or validation

    All other options of RL-Zoo are passed on; python -m sb3_offline.zoo.train --help lists them.
    """
    from sb3_offline.zoo.train import train as zoo_train

    zoo_train(context.args)


@app.command(context_settings=_PASS_ON)
def enjoy(context: typer.Context) -> None:
    """
    Watch what train has saved.

    \b
    --algo, --env     as they were given to train
    -f FOLDER         where train put its models (logs/)
    -n STEPS          environment steps
    --no-render       only print the returns
    --load-best       the best evaluated model, not the last one
    --exp-id N        the Nth run, not the latest
    --trust           read pickled files, too, and YAML that can run code

    All other options of RL-Zoo are passed on; python -m sb3_offline.zoo.enjoy --help lists them.
    """
    from sb3_offline.zoo.enjoy import enjoy as zoo_enjoy

    zoo_enjoy(context.args)


@app.command()
def collect(
    env: Annotated[str, typer.Argument(help="Gymnasium id of the task, such as Pendulum-v1.", show_default=False)],
    output: Annotated[str, typer.Argument(help="A .npz or .hdf5 file, or a Minari id.", show_default=False)],
    model: Annotated[Path | None, typer.Option(help="Saved model that acts; uniformly random actions if not given.")] = None,
    algo: Algo = None,
    trust: Trust = False,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Transitions.")] = 10_000,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Take the policy's mode instead of sampling.")
    ] = False,
    random_share: Annotated[float, typer.Option(help="Probability of a random action instead, 0 to 1.")] = 0.0,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Roll out a policy and keep the transitions as a data set."""
    import gymnasium as gym
    from rich.console import Console

    from sb3_offline.shell.collect import collect as roll_out
    from sb3_offline.shell.models import load_model
    from sb3_offline.shell.writing import check_target, place_of, write_dataset
    from sb3_offline.zoo.envs import resolve_env_id

    check_target(output, force)
    saved = None if model is None else load_model(model, algo, trust)
    task = gym.make(resolve_env_id(env))
    data = roll_out(task, saved, steps, deterministic=deterministic, random_share=random_share, seed=seed)
    actor = "uniform random actions" if saved is None else f"{type(saved.model).__name__} ({model})"
    card = {
        "description": f"{steps} steps of {actor} in {env}, seed {seed}, random share {random_share:g}",
        "algorithm": actor,
    }
    write_dataset(data, output, card)
    summary = data.summary()
    algo = "discrete_cql" if type(data.info.action_space).__name__ == "Discrete" else "cql"
    Console().print(
        f"{place_of(output)}: {summary['transitions']:,} transitions, {summary['episodes']} episodes, mean return "
        f"{summary['mean_return']:.1f}. Train on it: sb3-offline train --algo {algo} --env {env} --dataset {output}",
        markup=False,
        soft_wrap=True,
    )


datasets_app = typer.Typer(invoke_without_command=True, help="What data there are, and how to get more.")
app.add_typer(datasets_app, name="datasets")


@datasets_app.callback()
def datasets(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Read those whole that do not tell their return.")] = False,
) -> None:
    """List the data that are packaged and installed, with size, episodes and return."""
    from sb3_offline.shell.listing import print_datasets

    if context.invoked_subcommand is None:
        print_datasets(full)


@datasets_app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="Minari id: mujoco/hopper/medium-v0, or hf://server/id.", show_default=False)],
) -> None:
    """Fetch a data set by Minari into its local store."""
    from rich.console import Console

    from sb3_offline.datasets import open_dataset

    info = open_dataset(dataset, download=True).info
    Console().print(f"{info.dataset_id} is in the local Minari store.", markup=False, soft_wrap=True)


@app.command()
def inspect(
    dataset: Data,
    html: Annotated[Path | None, typer.Option(help="Write the card as a web page with plots, too.")] = None,
    env_id: EnvId = None,
    columns: Columns = None,
    trust: Trust = False,
) -> None:
    """Print a data card: spaces, episodes, returns, saturation, duplicates, coverage, how it was read, errors, warnings."""
    from rich.console import Console

    from sb3_offline.datasets import load_dataset
    from sb3_offline.files.atomic import write_atomically
    from sb3_offline.shell.card import make_card
    from sb3_offline.shell.card_html import card_html
    from sb3_offline.shell.card_text import print_card

    card = make_card(load_dataset(dataset, env_id=env_id, columns=columns, trust=trust))
    print_card(card, Console())
    if html is not None:
        page = card_html(card).encode()
        write_atomically(html, lambda file: file.write(page))
        Console().print(f"Written to {html}", markup=False)
    if any(finding.severity == "error" for finding in card.findings):
        raise typer.Exit(2)


@app.command()
def convert(
    source: Data,
    target: Annotated[
        str, typer.Argument(help="A .npz, .hdf5 or .parquet file, a .mmap folder, or a Minari id.", show_default=False)
    ],
    env_id: EnvId = None,
    columns: Columns = None,
    trust: Trust = False,
    reward_scale: Annotated[float, typer.Option(help="Multiply rewards by this.")] = 1.0,
    reward_shift: Annotated[float, typer.Option(help="Then add this.")] = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Convert any data to D4RL's HDF5, Minari, npz, Parquet or a memory-mapped folder; what is read is checked."""
    from rich.console import Console

    from sb3_offline.datasets import open_dataset
    from sb3_offline.shell.writing import check_target, place_of
    from sb3_offline.shell.writing import convert as write

    check_target(target, force)
    opened = open_dataset(source, env_id=env_id, columns=columns, trust=trust)
    origin = {"source": source, "columns": columns, "env_id": env_id}
    n_rows, n_episodes = write(opened, target, origin, reward_scale, reward_shift)
    Console().print(f"{place_of(target)}: {n_rows:,} transitions, {n_episodes:,} episodes.", markup=False, soft_wrap=True)


@app.command()
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


@app.command("model-report")
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


JudgingData = Annotated[
    str, typer.Option("--data", help="Logged episodes that judge; best such as no model was trained on.", show_default=False)
]
FitSteps = Annotated[int, typer.Option("--fit-steps", min=1, help="Gradient steps of each policy's evaluation (FQE).")]
Discount = Annotated[float, typer.Option("--gamma", help="Discount of the return that is estimated.")]


@app.command()
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


@app.command()
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


@app.command()
def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A YAML file: algorithms, datasets, seeds, steps, ...", show_default=False)],
    folder: Annotated[Path | None, typer.Option(help="Where the runs' files go; beside the YAML file if not given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once, without Ray; as many as cores allow.")] = None,
    address: Annotated[
        str | None, typer.Option(help='Run by Ray: "local" on this machine, "auto" or an address on a cluster.')
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run, and about how long.")] = False,
) -> None:
    """Run algorithms x data x seeds x options; what is finished stays, and what was killed goes on exactly."""
    import os

    from sb3_offline.shell.study import print_plan, run_study
    from sb3_offline.studies.plan import read_study

    plan = read_study(file, folder)
    n_workers = workers or max((os.cpu_count() or 1) // plan.cores, 1)
    if dry_run:
        print_plan(plan, n_workers)
        return
    own = (context.parent.params.get("own") if context.parent is not None else None) or []
    if run_study(plan, n_workers, address, own):
        raise typer.Exit(1)


@app.command(name="report")
def study_report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where to write; the study's folder if not given.")] = None,
) -> None:
    """What a study found: a page, Markdown, CSV and pictures, with intervals over seeds and data."""
    from rich.console import Console

    from sb3_offline.studies.report import sentences, write_report
    from sb3_offline.studies.results import read_results

    results = read_results(folder)
    files = write_report(results, out or folder)
    for sentence in sentences(results):
        Console().print(sentence, markup=False, highlight=False, soft_wrap=True)
    Console().print(f"Written to {files[0]}", markup=False, soft_wrap=True)


name_flags_alone(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 with one line that says what is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = " ".join(["sb3-offline", *words[:1]])
    words = imports_first(words)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {printable(str(message))}", file=sys.stderr)
            return int(app(words, prog_name="sb3-offline", standalone_mode=False) or 0)
    except USER_ERRORS as error:
        return report(name, error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's errors of usage have no public class in older versions
            raise
        message = error.format_message()  # empty after the help that is shown when no command is given
        return report(name, ValueError(message)) if message else 2
