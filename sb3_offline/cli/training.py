"""Commands that train, and that watch what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sb3_offline.cli.parameters import Seed


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


def theorems(
    n_mdps: Annotated[int | None, typer.Option(help="Random MDPs a claim.")] = None,
    seed: Seed = 0,
) -> None:
    """Measure on random MDPs which of the DROMO paper's claims hold."""
    from sb3_offline.tabular.theorems import print_theorems

    options = {} if n_mdps is None else {"n_mdps": n_mdps}
    print_theorems(seed=seed, **options)


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
    --seeds 0-7         several, in one process, each with a folder of its own; cut off, they go on by the same command
    --share-dynamics    of these seeds: fit the dynamics once for all
    -optimize           search hyperparameters (--n-trials, --storage, ...)
    --objective NAME    of the search: simulator, or without one fqe, model or validation

    All other options of RL-Zoo are passed on; python -m sb3_offline.zoo.train --help lists them.
    """
    from sb3_offline.zoo.train import train as zoo_train

    zoo_train(context.args)


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
