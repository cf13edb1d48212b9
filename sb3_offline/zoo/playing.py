"""What RL-Zoo reads from the folder of a run when it plays a model: no pickle, and no YAML that runs code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.vec_env import VecEnv

from sb3_offline.buffers.statistics import load_statistics
from sb3_offline.files.refusal import FileRefused, printable
from sb3_offline.files.trust import is_trusted, trusting
from sb3_offline.zoo.run_folder import RunLoader, check_run_folder


@contextmanager
def playing(trust: bool) -> Iterator[None]:
    """Let RL-Zoo's ``enjoy`` and ``record_video`` read a run's folder through this module."""
    import rl_zoo3.enjoy
    import rl_zoo3.utils

    make, read = rl_zoo3.utils.create_test_env, rl_zoo3.utils.get_saved_hyperparams
    find = rl_zoo3.utils.get_model_path

    def create_test_env(env_id: str, *, stats_path: str | None = None, hyperparams: dict[str, Any], **kwargs: Any) -> VecEnv:
        env = make(env_id, stats_path=None, hyperparams=hyperparams, **kwargs)
        if stats_path is None or not hyperparams.get("normalize"):
            return env
        print("Loading running average")
        normalized = load_statistics(Path(stats_path), env)
        if normalized is None:
            raise ValueError(f"{stats_path} has no statistics (vecnormalize.json), but the run normalised its observations.")
        return normalized

    def get_saved_hyperparams(stats_path: str, *args: Any, **kwargs: Any) -> Any:
        check_run_folder(Path(os.fspath(stats_path)))
        return read(stats_path, *args, **kwargs)

    def get_model_path(exp_id: int, folder: str, algo: str, env_name: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            found = find(exp_id, folder, algo, env_name, *args, **kwargs)
        except AssertionError as error:  # that there is no such folder
            raise ValueError(_no_run(Path(folder), algo, f"{env_name}_{exp_id}" if exp_id > 0 else str(env_name))) from error
        if printable(found[1]) != found[1]:  # RL-Zoo prints the name as it is
            raise FileRefused(f"{found[1]}: the name holds what is no letter. Rename the file.")
        return found

    modules = vars(rl_zoo3.utils), vars(rl_zoo3.enjoy)
    ours = {
        "create_test_env": create_test_env,
        "get_saved_hyperparams": get_saved_hyperparams,
        "get_model_path": get_model_path,
    }
    for names in modules:
        names.update(ours)
    try:
        with trusting(trust), _read_safely():
            yield
    finally:
        for names in modules:
            names.update(create_test_env=make, get_saved_hyperparams=read, get_model_path=find)


def _no_run(folder: Path, algo: str, run: str) -> str:
    runs = sorted(printable(str(path.relative_to(folder))) for path in folder.glob("*/*_*") if path.is_dir())
    there = f"There are: {', '.join(runs[:10])}{', ...' if len(runs) > 10 else ''}." if runs else "It holds no run at all."
    return f"{folder} holds no run {algo}/{run}. {there} Train first, or name another folder (-f), algorithm or env."


@contextmanager
def _read_safely() -> Iterator[None]:
    """RL-Zoo's commands ask for yaml.UnsafeLoader wherever they read a run's folder: unless it is trusted, they get ours."""
    unsafe = yaml.UnsafeLoader
    if not is_trusted():
        vars(yaml)["UnsafeLoader"] = RunLoader
    try:
        yield
    finally:
        vars(yaml)["UnsafeLoader"] = unsafe
