"""What data there are, packaged and in the local Minari store, by id. Imports gymnasium alone."""

from __future__ import annotations

import warnings
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
        import minari
    except ImportError:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged neighbours are named when they are asked for
            return minari.list_local_datasets()
    except (OSError, ValueError, TypeError) as error:
        warnings.warn(f"The local Minari store cannot be read: {error}", stacklevel=2)
        return {}
