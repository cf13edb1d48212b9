"""Commands about data: record them, list them, look at them, convert them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sb3_offline.cli.parameters import Algo, Columns, Data, EnvId, Seed, Trust


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
