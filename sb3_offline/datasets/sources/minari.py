"""Minari data sets, read through Minari's own API (it has several file formats of its own)."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from sb3_offline.catalogue import BUILTIN_TASKS, NAMESPACE, read_minari_store
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.episodes import grouped, joined, steps_of
from sb3_offline.datasets.sources.minari_safety import check_minari_arrays, check_minari_files
from sb3_offline.datasets.sources.raw import RawSource, score, shown

if TYPE_CHECKING:
    from minari import MinariDataset

_PREFIX = "minari/"
_ID = re.compile(r"([-\w]+/)*[-\w]+?-v\d+")


def is_minari_dataset(source: Any) -> bool:
    """Whether an object is a ``minari.MinariDataset``, without importing Minari for it."""
    return any(cls.__name__ == "MinariDataset" and cls.__module__.startswith("minari.") for cls in type(source).__mro__)


def is_remote_id(source: Any) -> bool:
    """Whether a source is a Minari id with its server, on Hugging Face or Google's cloud."""
    return isinstance(source, str) and re.fullmatch(r"(hf|gs|gcp)://[-\w.]+/([-\w]+/)*[-\w]+", source) is not None


def open_minari(name: str, *, download: bool) -> RawSource:
    """A data set of the local Minari store; only its metadata are read, and nothing is fetched unless asked.

    :param name: ``namespace/name-vN``, without ``-vN`` for the newest version, or with one slash, as Gymnasium asks for,
        ``minari/namespace.name-vN``, or with the server to download from, ``hf://farama-minari/namespace/name-vN``
    :param download: fetch it from Minari's server if it is not in the local store
    :raises DatasetError: for a malformed id, a missing package, or data that are not installed
    """
    dataset_id = name.removeprefix(_PREFIX).replace(".", "/") if name.startswith(_PREFIX) else name
    dataset_id = dataset_id.partition("://")[2].partition("/")[2] if is_remote_id(name) else dataset_id
    minari = _import_minari(dataset_id)
    local, troubles = _local_store()
    try:
        dataset_id = _with_version(minari, dataset_id, local, download)
        if dataset_id not in local and not _ID.fullmatch(dataset_id):
            raise DatasetError(_malformed(dataset_id, local))
        if dataset_id in troubles:
            raise DatasetError(f"{dataset_id}: the installed data are damaged. {troubles[dataset_id]}")
        if dataset_id not in local:
            if not download:
                raise DatasetError(_not_installed(name, dataset_id, local))
            minari.download_dataset(name if is_remote_id(name) else dataset_id)
            local, _ = _local_store()
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
    form = getattr(dataset.storage, "FORMAT", "its own format")
    reading = [f"{len(dataset.episode_indices):,} episodes, {dataset.total_steps:,} steps, kept as {form}"]
    card = shown({key: metadata[key] for key in _CARD_KEYS if metadata.get(key) is not None})
    return RawSource(
        dataset.id,
        lambda: _read_episodes(dataset),
        dataset.observation_space,
        dataset.action_space,
        dataset.env_spec,
        reference_min_score=score(dataset.id, "ref_min_score", metadata.get("ref_min_score")),
        reference_max_score=score(dataset.id, "ref_max_score", metadata.get("ref_max_score")),
        card={"source": "Minari", "reading": reading, **card},
        blocks=lambda *_: grouped(_episodes(dataset), str(dataset.id)),
    )


#: Arrays that infos of these names hold, one entry for each of an episode's T + 1 observations.
INFOS = ("action_masks", "valid_next")
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
    return joined(list(_episodes(dataset)), str(dataset.id))


def _episodes(dataset: MinariDataset) -> Iterator[dict[str, Any]]:
    """The rows of each episode that has any."""
    known: set[str] | None = None
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
            told = _told_by_infos(dataset, episode)
            known = set(told) if known is None else known
            if known != set(told):
                raise DatasetError(f"{dataset.id}: only some episodes have {', '.join(sorted(known ^ set(told)))} as infos.")
            truncations = np.array(episode.truncations, dtype=bool)
            truncations[-1] |= not episode.terminations[-1]  # an episode ends where Minari ends it
            yield told | {
                "observations": steps_of(episode.observations, slice(None, -1)),
                "next_observations": steps_of(episode.observations, slice(1, None)),
                "actions": episode.actions,
                "rewards": episode.rewards,
                "terminations": episode.terminations,
                "truncations": truncations,
            }
    except DatasetError:
        raise
    except Exception as error:  # of damaged data Minari's storage libraries raise any kind
        raise DatasetError(f"{dataset.id}: the Minari data are damaged or cut short ({error}).") from error


def _told_by_infos(dataset: MinariDataset, episode: Any) -> dict[str, Any]:
    """What Minari has no other place for than the infos of each observation."""
    found: dict[str, Any] = {}
    for name in (name for name in INFOS if name in (episode.infos or {})):
        values = np.asarray(episode.infos[name])
        if len(values) != len(episode) + 1:
            raise DatasetError(
                f"{dataset.id}: episode {episode.id} holds {len(values)} {name} among its infos of {len(episode)} steps, and "
                "needs one for each observation, that of reset among them."
            )
        found[name] = values[:-1]
        if name == "action_masks":
            found["next_action_masks"] = values[1:]
    return found


def _import_minari(dataset_id: str) -> ModuleType:
    try:
        import minari
    except ImportError as error:
        raise DatasetError(
            f"{dataset_id!r} is neither a packaged data set nor a data file, and reading Minari ids needs Minari: "
            f'`pip install "sb3-offline[minari]"`.{_near(dataset_id, {})}'
        ) from error
    return minari


def _local_store() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The installed data sets' metadata by id, and what is wrong with those that cannot be read."""
    try:
        return read_minari_store()
    except OSError as error:
        raise DatasetError(f"The local Minari store cannot be read: {error}") from error


def _newest(dataset_id: str, known: Iterable[str]) -> str | None:
    """The highest version of an id that is given without one."""
    versions = [int(name.rpartition("-v")[2]) for name in known if re.fullmatch(re.escape(dataset_id) + r"-v\d+", name)]
    return f"{dataset_id}-v{max(versions)}" if versions else None


def _with_version(minari: ModuleType, dataset_id: str, local: Mapping[str, Any], download: bool) -> str:
    """The newest version of an id without one, in the store or else on Minari's server, which is said."""
    if dataset_id in local or re.search(r"-v\d+$", dataset_id):
        return dataset_id
    newest = _newest(dataset_id, local)
    if newest is None and download and re.fullmatch(r"([-\w]+/)*[-\w]+", dataset_id):
        newest = _newest(dataset_id, minari.list_remote_datasets(prefix=dataset_id))
    if newest is None:
        return dataset_id
    warnings.warn(f"{dataset_id} names no version: {newest}, the newest one, is taken. Give it to say which.", stacklevel=2)
    return newest


def _refuse_foreign_code(dataset_id: str, metadata: dict[str, Any]) -> None:
    """Without spaces of its own Minari would make the environment, from whatever entry point the file names."""
    if "observation_space" not in metadata or "action_space" not in metadata:
        raise DatasetError(
            f"{dataset_id}: its metadata hold no spaces, and they would have to come from code that the data name. "
            "Make it again with a current Minari, or open it with minari.load_dataset and pass the result."
        )


_D4RL_ID = re.compile(
    r"(halfcheetah|hopper|walker2d|ant|antmaze|maze2d|kitchen|pen|hammer|door|relocate|bullet|flow|carla)-[-a-z0-9]+-v\d"
)


def _malformed(dataset_id: str, local: dict[str, Any]) -> str:
    return (
        f"{dataset_id!r} is not a data set: a Minari id reads namespace/name-vN with its version, e.g. "
        f"'mujoco/hopper/medium-v0' (without one the newest that is installed is taken, or with download=True the newest that "
        f"there is); a data file ends in .hdf5, .h5 or .npz; packaged are "
        f"{', '.join(BUILTIN_TASKS)}.{_near(dataset_id, local)}"
    )


def _not_installed(name: str, dataset_id: str, local: dict[str, Any]) -> str:
    """:param name: as it was asked for"""
    if dataset_id in gym.registry:
        return f"{dataset_id!r} is an environment, not a data set: give its data by dataset=, or the id of a data set."
    if _D4RL_ID.fullmatch(dataset_id):
        return (
            f"{dataset_id!r} is an id of D4RL, whose package is not needed: give the path of its HDF5 file. Minari has data "
            "of its own for these tasks, by other names: `minari list remote` shows them."
        )
    fetch = f"sb3-offline datasets download {name}" if is_remote_id(name) else f"minari download {dataset_id}"
    return (
        f"{dataset_id!r} is no gymnasium id, and not in the local Minari store.{_near(dataset_id, local)} "
        f"`minari list local` and `minari list remote` show what there is; `{fetch}`, or download=True, "
        "fetches it."
    )


def _near(dataset_id: str, local: dict[str, Any]) -> str:
    known = {name: name for name in (*BUILTIN_TASKS, *local)}
    known |= {name: f"{name} (a task, not data)" for name in gym.registry if "/" not in name}
    near = difflib.get_close_matches(dataset_id.removeprefix(f"{NAMESPACE}/"), known, n=3)
    return f" Near it, and here: {', '.join(known[name] for name in near)}." if near else ""
