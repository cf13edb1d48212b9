"""What a study consists of, as its YAML file says it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sb3_offline.arguments import INSIDE_UNIT, check_count, check_number, parse_seeds
from sb3_offline.datasets import open_dataset
from sb3_offline.files.regular import read_regular
from sb3_offline.registry import find_algorithm, names, unknown
from sb3_offline.studies.single import Protocol, Run
from sb3_offline.training.schedules import parse_schedule


class StudyError(ValueError):
    """A study's file does not say what a study is."""


@dataclass(frozen=True)
class Cell:
    """
    One run of a study.

    :param path: of its file
    """

    run: Run
    protocol: Protocol
    path: Path


@dataclass(frozen=True)
class Study:
    """
    :param folder: where the runs' files lie
    :param cores: of one run
    :param gpus: of one run; a part is a share
    """

    name: str
    folder: Path
    cells: tuple[Cell, ...]
    cores: int
    gpus: float


_KEYS = {
    "algorithms": "names, or a mapping of names to options",
    "datasets": "ids or files",
    "seeds": "0-7 or 0,3,5",
    "steps": "gradient steps of a run",
    "eval_every": "gradient steps between evaluations",
    "episodes": "of an evaluation",
    "final_episodes": "of the final score",
    "options": "of all algorithms that take them",
    "sets": "a mapping of names to further options; every algorithm runs with each",
    "fractions": "shares of the data, in (0, 1]",
    "keep_models": "true leaves each final model beside its file",
    "cores": "of one run",
    "gpus": "of one run; 0.25 lets four share one",
}
_NEEDED = ("algorithms", "datasets", "seeds", "steps")
#: Options that say where a run stands, which the study does itself; a file may be another's, and an env's id imports modules.
_OWN = ("policy", "env", "dataset", "seed", "verbose", "tensorboard_log")
_FOLDER = re.compile(r"[\w=,+ -][\w=,+. -]*|")


def read_study(path: Path, folder: Path | None = None) -> Study:
    """
    :param path: a YAML file
    :param folder: where the runs' files go; the YAML's name, beside it, if not given
    :raises StudyError: naming what is wrong, and where
    """
    from sb3_offline.files.plain_yaml import read_yaml

    try:
        text = read_regular(path).decode()
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read: {error}.") from error
    try:
        content = read_yaml(text)
    except ValueError as error:
        raise StudyError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path} holds no study: it is a mapping of {', '.join(_KEYS)}.")
    for key in content:
        if key not in _KEYS:
            raise StudyError(f"{path}: there is no {key!r} in a study; there are {', '.join(_KEYS)}.")
    for key in _NEEDED:
        if key not in content:
            raise StudyError(f"{path}: {key!r} is missing ({_KEYS[key]}).")
    try:
        return _study(content, path, folder or path.with_suffix(""))
    except (ValueError, TypeError) as error:
        raise StudyError(f"{path}: {error}") from error


def _study(content: Mapping[str, Any], path: Path, folder: Path) -> Study:
    algorithms = _mapping(content["algorithms"], "algorithms")
    datasets = content["datasets"] if isinstance(content["datasets"], list) else [content["datasets"]]
    seeds = [check_count("seeds", seed, least=0) for seed in content["seeds"]] if isinstance(content["seeds"], list) else None
    seeds = parse_seeds(str(content["seeds"])) if seeds is None else seeds
    fractions = [
        1.0 if share == 1 else check_number("fractions", share, INSIDE_UNIT) for share in content.get("fractions", [1.0])
    ]
    counts = ("steps", "eval_every", "episodes", "final_episodes")
    lengths: dict[str, Any] = {name: check_count(name, content[name]) for name in counts if name in content}
    keep = bool(content.get("keep_models", False))
    protocol = Protocol(command=f"sb3-offline study {path.name}", keep_models=keep, **lengths)
    common, sets = dict(content.get("options") or {}), _mapping(content.get("sets") or {"": {}}, "sets")
    for algo in algorithms:
        if algo not in names():
            raise StudyError(unknown(algo, names()))
    for name in sets:
        if _FOLDER.fullmatch(name) is None:
            raise StudyError(f"sets: {name!r} is no name of a folder: take letters, digits and any of -_=,+.")
    for dataset in datasets:
        open_dataset(dataset)  # refuses what is no data now
    cells = []
    for algo, (name, further) in itertools.product(algorithms, sets.items()):
        options = _options(algo, common, algorithms[algo] | further)
        own = replace(protocol, options=options)
        for dataset, fraction, seed in itertools.product(datasets, fractions, seeds):
            run = Run(algo, str(dataset), fraction, seed)
            cells.append(Cell(run, own, folder / name / run.file_name))
    twice = len(cells) - len({cell.path for cell in cells})
    if twice:
        raise StudyError(f"{twice} runs have the file of another: give data sets of different names, and each once.")
    gpus, cores = content.get("gpus", 0), check_count("cores", content.get("cores", 1))
    return Study(path.stem, folder, tuple(cells), cores, 0.0 if gpus == 0 else check_number("gpus", gpus))


def _mapping(value: Any, name: str) -> dict[str, dict[str, Any]]:
    """Names, or a mapping of names to options."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = dict.fromkeys(value)
    if not isinstance(value, dict) or any(not isinstance(own, (dict, type(None))) for own in value.values()):
        raise StudyError(f"{name} are {_KEYS[name]}, got {value!r}.")
    return {str(key): dict(own or {}) for key, own in value.items()}


def _options(algo: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """
    Of all algorithms those that this one takes, and its own.

    :raises TypeError: for an own one that it does not take
    """
    import inspect

    algorithm = find_algorithm(algo)
    known = inspect.signature(algorithm).parameters
    options = {name: value for name, value in common.items() if name in known} | dict(own)
    algorithm.check_arguments(options)
    for name in options:
        if name in _OWN or name.startswith("_"):
            raise StudyError(f"options: {name!r} is the study's own: leave it out.")
    for name, value in options.items():
        if name.endswith("learning_rate") and isinstance(value, str):
            options[name] = parse_schedule(value) or value
    return options
