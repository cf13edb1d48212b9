"""Minari data sets, read through Minari's own API (it has several file formats of its own)."""

from __future__ import annotations

import difflib
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from sb3_offline.catalogue import BUILTIN_TASKS, NAMESPACE
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.minari_safety import check_minari_arrays, check_minari_files
from sb3_offline.datasets.sources.raw import RawSource, score, shown

if TYPE_CHECKING:
    from minari import MinariDataset

_PREFIX = "minari/"
_ID = re.compile(r"([-\w]+/)*[-\w]+?-v\d+")


def is_minari_dataset(source: Any) -> bool:
    """Whether an object is a ``minari.MinariDataset``, without importing Minari for it."""
    return any(cls.__name__ == "MinariDataset" and cls.__module__.startswith("minari.") for cls in type(source).__mro__)


def open_minari(name: str, *, download: bool) -> RawSource:
    """A data set of the local Minari store; only its metadata are read, and nothing is fetched unless asked.

    :param name: ``namespace/name-vN``, or with one slash, as Gymnasium asks for, ``minari/namespace.name-vN``
    :param download: fetch it from Minari's server if it is not in the local store
    :raises DatasetError: for a malformed id, a missing package, or data that are not installed
    """
    dataset_id = name.removeprefix(_PREFIX).replace(".", "/") if name.startswith(_PREFIX) else name
    minari = _import_minari(dataset_id)
    local, troubles = _local_store(minari)
    if not _ID.fullmatch(dataset_id):
        raise DatasetError(_malformed(dataset_id, local))
    if dataset_id in troubles:
        raise DatasetError(f"{dataset_id}: the installed data are damaged. {troubles[dataset_id]}")
    try:
        if dataset_id not in local:
            if not download:
                raise DatasetError(_not_installed(dataset_id, local))
            minari.download_dataset(dataset_id)
            local, _ = _local_store(minari)
        _refuse_foreign_code(dataset_id, local[dataset_id])
        check_minari_files(dataset_id)
        return open_minari_dataset(minari.load_dataset(dataset_id))
    except DatasetError:
        raise
    except Exception as error:  # Minari raises many kinds, those of its storage and network libraries among them
        raise DatasetError(f"{dataset_id}: the Minari data set cannot be opened or fetched: {error}") from error


def open_minari_dataset(dataset: MinariDataset) -> RawSource:
    """An opened Minari data set, which may be a selection of episodes."""
    metadata = dataset.storage.metadata
    card = shown({key: metadata[key] for key in _CARD_KEYS if metadata.get(key) is not None})
    return RawSource(
        dataset.id,
        lambda: _read_episodes(dataset),
        dataset.observation_space,
        dataset.action_space,
        dataset.env_spec,
        reference_min_score=score(dataset.id, "ref_min_score", metadata.get("ref_min_score")),
        reference_max_score=score(dataset.id, "ref_max_score", metadata.get("ref_max_score")),
        card={"source": "Minari", **card},
    )


_CARD_KEYS = (
    "algorithm_name",
    "author",
    "author_email",
    "code_permalink",
    "description",
    "minari_version",
    "requirements",
)


def _read_episodes(dataset: MinariDataset) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {name: [] for name in ("observations", "next_observations", "actions")}
    columns |= {name: [] for name in ("rewards", "terminations", "truncations")}
    try:
        check_minari_arrays(Path(dataset.storage.data_path))
        for episode in dataset.iterate_episodes():
            if len(episode) == 0:
                continue
            parts = episode.observations.values() if isinstance(episode.observations, dict) else [episode.observations]
            if not all(isinstance(part, np.ndarray) for part in (*parts, episode.actions)):
                raise DatasetError(
                    f"{dataset.id}: {dataset.observation_space} observations and {dataset.action_space} actions are "
                    "neither single arrays nor one Dict of them (SB3 takes no nested spaces). Flatten them before collecting."
                )
            lengths = {len(part) for part in parts}
            if lengths != {len(episode.actions) + 1}:
                raise DatasetError(
                    f"{dataset.id}: episode {episode.id} holds {' and '.join(map(str, sorted(lengths)))} observations of "
                    f"{len(episode.actions)} steps, and needs one more than steps: the one with which the episode ended. "
                    "Log it, or leave the episode out by dataset.filter_episodes."
                )
            truncations = np.array(episode.truncations, dtype=bool)
            truncations[-1] |= not episode.terminations[-1]  # an episode ends where Minari ends it
            for name, steps in (("observations", slice(None, -1)), ("next_observations", slice(1, None))):
                columns[name].append(_steps(episode.observations, steps))
            columns["actions"].append(episode.actions)
            columns["rewards"].append(episode.rewards)
            columns["terminations"].append(episode.terminations)
            columns["truncations"].append(truncations)
    except (OSError, KeyError, RuntimeError) as error:
        raise DatasetError(f"{dataset.id}: the Minari data are damaged or cut short ({error}).") from error
    return {name: _concatenate(parts) for name, parts in columns.items()}


def _steps(values: Any, steps: slice) -> Any:
    return {key: part[steps] for key, part in values.items()} if isinstance(values, dict) else values[steps]


def _concatenate(parts: list[Any]) -> Any:
    if parts and isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts) if parts else np.empty(0)


def _import_minari(dataset_id: str) -> ModuleType:
    try:
        import minari
    except ImportError as error:
        raise DatasetError(
            f"{dataset_id!r} is neither a packaged data set nor a data file, and reading Minari ids needs Minari: "
            f'`pip install "sb3-offline[minari]"`.{_near(dataset_id, {})}'
        ) from error
    return minari


def _local_store(minari: ModuleType) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The installed data sets' metadata by id, and what Minari says of those that it cannot read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            local = minari.list_local_datasets()
        except (OSError, ValueError, TypeError) as error:
            raise DatasetError(f"The local Minari store cannot be read: {error}") from error
    pattern = re.compile(r"Misconfigured dataset named (\S+): (.*)", re.DOTALL)
    matches = [pattern.match(str(warning.message)) for warning in caught]
    return local, {match.group(1): match.group(2) for match in matches if match}


def _refuse_foreign_code(dataset_id: str, metadata: dict[str, Any]) -> None:
    """Without spaces of its own Minari would make the environment, from whatever entry point the file names."""
    if "observation_space" not in metadata or "action_space" not in metadata:
        raise DatasetError(
            f"{dataset_id}: its metadata hold no spaces, and they would have to come from code that the data name. "
            "Make it again with a current Minari, or open it with minari.load_dataset and pass the result."
        )


def _malformed(dataset_id: str, local: dict[str, Any]) -> str:
    return (
        f"{dataset_id!r} is not a data set: a Minari id reads namespace/name-vN with its version, e.g. "
        f"'mujoco/hopper/medium-v0'; a data file ends in .hdf5, .h5 or .npz; packaged are "
        f"{', '.join(BUILTIN_TASKS)}.{_near(dataset_id, local)}"
    )


def _not_installed(dataset_id: str, local: dict[str, Any]) -> str:
    if dataset_id in gym.registry:
        return f"{dataset_id!r} is an environment, not a data set: give its data by dataset=, or the id of a data set."
    return (
        f"{dataset_id!r} is no gymnasium id, and not in the local Minari store.{_near(dataset_id, local)} "
        f"`minari list local` and `minari list remote` show what there is; `minari download {dataset_id}`, or "
        "download=True, fetches it."
    )


def _near(dataset_id: str, local: dict[str, Any]) -> str:
    known = {name: name for name in (*BUILTIN_TASKS, *local)}
    known |= {name: f"{name} (a task, not data)" for name in gym.registry if "/" not in name}
    near = difflib.get_close_matches(dataset_id.removeprefix(f"{NAMESPACE}/"), known, n=3)
    return f" Near it, and here: {', '.join(known[name] for name in near)}." if near else ""
