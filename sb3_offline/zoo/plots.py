"""``python -m sb3_offline.zoo.plots {all,from-file}``: RL-Zoo's plots of evaluations, with our reference scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sb3_offline.commands import run
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
    with command_line(f"sb3_offline.zoo.plots {kind}", _folder_names(words[1:])):
        (all_plots if kind == "all" else plot_from_file)()


def _folder_names(words: Sequence[str]) -> list[str]:
    """Envs as RL-Zoo names their folders, where a slash is a dash."""
    names, after_env = [], False
    for word in words:
        after_env = word in _ENV_OPTIONS if word.startswith("-") else after_env
        names.append(word.replace("/", "-") if after_env and not word.startswith("-") else word)
    return names


if __name__ == "__main__":
    sys.exit(run("sb3_offline.zoo.plots", plots, sys.argv[1:]))
