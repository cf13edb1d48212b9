"""What data there are, packaged and in the local Minari store, by id. Imports gymnasium alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym

NAMESPACE = "sb3_offline"

#: The packaged data sets and their tasks.
BUILTIN_TASKS = {
    "CartPole-medium-replay-v0": "CartPole-v1",
    "Pendulum-medium-replay-v0": "Pendulum-v1",
    "Pendulum-medium-v0": "Pendulum-v1",
}

#: Where they lie, one .npz file each.
BUILTIN_FOLDER = Path(__file__).parent / "datasets" / "builtin"

_DEEPEST = 16  # namespace inside a namespace


def register_envs() -> None:
    """Register the packaged data sets as Gymnasium ids such as ``sb3_offline/Pendulum-medium-v0``. Idempotent."""
    for dataset_id, task in BUILTIN_TASKS.items():
        env_id = f"{NAMESPACE}/{dataset_id}"
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="sb3_offline.datasets.data_envs:make_builtin_env",  # imported when one is made
                max_episode_steps=gym.spec(task).max_episode_steps,
                kwargs={"dataset_id": dataset_id},
            )


def installed_minari() -> dict[str, dict[str, Any]]:
    """The metadata of what is in the local Minari store, by id; empty without Minari, or (warned of) if it is unreadable."""
    try:
        # damaged neighbours are named when they are asked for
        return {} if _store_is_empty() else read_minari_store()[0]
    except ImportError:
        return {}
    except OSError as error:
        warnings.warn(f"The local Minari store cannot be read: {error}", stacklevel=2)
        return {}


def _store_is_empty() -> bool:
    """Whether nothing is where Minari looks, as on a new machine: then Minari, whose import takes a while, is not asked."""
    named = os.environ.get("MINARI_DATASETS_PATH")
    folder = Path("~", ".minari", "datasets").expanduser() if named is None else Path(named)
    return not folder.is_dir() or not any(folder.iterdir())


def read_minari_store() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """
    The local store's metadata by id, and what is wrong with those data sets that cannot be read. Minari's own list fails as a
    whole where one id has no version.

    :raises ImportError: without Minari
    :raises OSError: if the store itself cannot be read
    """
    from minari.dataset.minari_storage import MinariStorage
    from minari.storage.datasets_root_dir import get_dataset_path

    root = Path(get_dataset_path())
    found: dict[str, dict[str, Any]] = {}
    troubles: dict[str, str] = {}
    for folder in _data_folders(root):
        dataset_id = folder.relative_to(root).as_posix()
        try:
            metadata = dict(MinariStorage.read_raw_metadata(folder / "data"))
            if metadata["dataset_id"] != dataset_id:
                raise ValueError(f"Namespace location '{dataset_id}' does not match id '{metadata['dataset_id']}'.")
            found[dataset_id] = metadata
        except Exception as error:  # of damaged files Minari raises any kind
            troubles[dataset_id] = str(error)
    return found, troubles


def _data_folders(root: Path, depth: int = 0) -> Iterator[Path]:
    """Folders that have a folder ``data``; what is in them is none of the store's tree. Links may lead in circles."""
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        if (folder / "data").exists():
            yield folder
        elif depth < _DEEPEST:
            yield from _data_folders(folder, depth + 1)
