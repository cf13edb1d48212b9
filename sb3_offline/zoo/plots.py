"""``python -m sb3_offline.zoo.plots {all,from-file}``: RL-Zoo's plots of evaluations, with our reference scores."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sb3_offline.commands import run
from sb3_offline.files.regular import read_regular
from sb3_offline.zoo.arguments import command_line, take_trust
from sb3_offline.zoo.registration import register, register_reference_scores

_ENV_OPTIONS = ("-e", "--env")


def plots(words: Sequence[str]) -> None:
    """
    Draw what RL-Zoo draws from ``evaluations.npz``.

    :param words: "all" or "from-file", and the options of RL-Zoo's ``all_plots`` or ``plot_from_file``;
        ``--trust`` for "from-file", which reads a pickle
    :raises ValueError: for another kind of plot
    """
    kind = words[0] if words else ""
    if kind in ("-h", "--help"):
        print("usage: python -m sb3_offline.zoo.plots {all,from-file} OPTIONS; --help after either lists its options")
        return
    if kind == "train":
        raise ValueError("'train' cannot apply: it draws the returns of collected episodes, and nothing is collected.")
    if kind not in ("all", "from-file"):
        raise ValueError(f"which plots? 'all' (from log folders) or 'from-file' (from what 'all -o' wrote), not {kind!r}.")
    words, trust = take_trust(words)
    if kind == "from-file" and not trust and not {"-h", "--help"} & {*words}:
        raise ValueError(
            "from-file reads what 'all -o' wrote, a pickle, which can run any code. If you trust who wrote it, say --trust."
        )
    register()
    try:
        from rl_zoo3.plots import all_plots, plot_from_file
    except ImportError as error:
        raise ImportError(f'plots need more packages ({error}): pip install "sb3-offline[zoo]"') from error
    register_reference_scores()
    words = _folder_names(words[1:])
    if kind == "all":
        _check_runs(words)
    with command_line(f"sb3_offline.zoo.plots {kind}", words), _single_runs():
        (all_plots if kind == "all" else plot_from_file)()


def _check_runs(words: Sequence[str]) -> None:
    """
    RL-Zoo's table shows "0.0 +/- 0.0" for runs that do not exist: warn of them.

    :raises ValueError: if there are none at all
    """
    algos, envs, folders = (_values(words, *names) for names in (("-a", "--algos"), _ENV_OPTIONS, ("-f", "--exp-folders")))
    wanted = [(algo, env) for algo in algos for env in envs]
    found = {
        (algo, env)
        for algo, env in wanted
        for folder in folders
        for log in Path(folder, algo.lower()).glob("*/evaluations.npz")
        if env in log.parent.name and _is_file(log)
    }
    missing = ", ".join(f"{algo} in {env}" for algo, env in wanted if (algo, env) not in found)
    if wanted and folders and not found:
        raise ValueError(
            f"no evaluations of {missing} under {', '.join(folders)}: name algorithm, env and folder as zoo.train had them, "
            "which evaluates every --eval-freq steps."
        )
    if missing and folders:
        warnings.warn(f"No evaluations of {missing}: the table's 0.0 +/- 0.0 there is no result.", stacklevel=2)


def _is_file(log: Path) -> bool:
    """:raises FileRefused: for a pipe, on which RL-Zoo would wait"""
    read_regular(log, 0)
    return True


def _values(words: Sequence[str], *names: str) -> list[str]:
    """Those that follow an option, up to the next one."""
    found, taken = [], False
    for word in words:
        taken = word in names if word.startswith("-") else taken
        if taken and not word.startswith("-"):
            found.append(word)
    return found


@contextmanager
def _single_runs() -> Iterator[None]:
    """RL-Zoo's from-file takes the last score of a single run, a number, for too short a run, and has then nothing to draw."""
    module: Any = sys.modules["rl_zoo3.plots.plot_from_file"]
    read = module.pickle

    def load(file: Any) -> Any:
        results = read.load(file)
        for env, entries in results.items():
            for entry in entries.values() if env != "results_table" else ():
                entry["last_evals"] = np.atleast_1d(entry["last_evals"])
        return results

    module.pickle = SimpleNamespace(load=load)
    try:
        yield
    finally:
        module.pickle = read


def _folder_names(words: Sequence[str]) -> list[str]:
    """Envs as RL-Zoo names their folders, where a slash is a dash."""
    names, after_env = [], False
    for word in words:
        after_env = word in _ENV_OPTIONS if word.startswith("-") else after_env
        names.append(word.replace("/", "-") if after_env and not word.startswith("-") else word)
    return names


if __name__ == "__main__":
    sys.exit(run("sb3_offline.zoo.plots", plots, sys.argv[1:]))
