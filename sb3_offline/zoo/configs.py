"""The YAML files of hyperparameters: where they are, which entry belongs to some data, and what an entry may hold."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.common.signature import ONLINE_ONLY, left_out_of

#: Keys that RL-Zoo takes for itself; all others are the constructor's.
ZOO_KEYS = ("n_timesteps", "n_envs", "normalize", "env_wrapper", "vec_env_wrapper", "callback", "env_kwargs", "monitor_kwargs")

#: Arguments of the constructor that RL-Zoo hands it from its command line.
_COMMAND_LINE = ("env", "seed", "device", "verbose", "tensorboard_log")
_REFUSED = {
    "frame_stack": "the data hold single observations",
    "noise_type": ONLINE_ONLY["action_noise"],
    "noise_std": ONLINE_ONLY["action_noise"],
}


def config_path(algo: str) -> Path:
    """
    The YAML file of an algorithm, in an installed package and in a checkout alike: the packaged one, or for an algorithm of
    one's own that has none a file with the constructor's defaults.

    :param algo: its name, such as "dromo"
    """
    package = Path(__file__).parent.parent
    folders = package / "zoo_configs", package.parent / "zoo_configs"
    paths = [folder / f"{name}.yml" for name in (algo, "default") for folder in folders]
    return next(path for path in paths if path.is_file())


def find_recipe(keys: Iterable[str], data: str) -> str | None:
    """
    The entry that is meant for some data, by its name without version and folder: ``hopper-medium-v2`` is for
    ``minari/mujoco.hopper.medium-v0`` and for ``data/hopper_medium-v2.hdf5``, but not for ``hopper_medium_expert-v2.hdf5``.

    :param keys: the entries of a file
    :param data: a dataset's id, a file's name, or a gymnasium id
    :return: the longest entry that fits, or None
    """
    name = _plain_name(data)
    fitting = [key for key in keys if "/" not in key and f"-{name}".endswith(f"-{_plain_name(key)}")]
    return max(fitting, key=len, default=None)


def _plain_name(name: str) -> str:
    """Lower case, every separator a dash, without a file's suffix and a version."""
    name = re.sub(r"\.(hdf5|h5|npz)$", "", name.lower())
    return re.sub(r"-v\d+$", "", re.sub(r"[/\\._]", "-", name))


def check_hyperparams(algo: type[OfflineAlgorithm], hyperparams: Mapping[str, Any], where: str) -> None:
    """
    Refuse what neither RL-Zoo nor the constructor takes, and what cannot apply to logged data.

    :param hyperparams: one entry, after ``-params`` was merged in
    :param where: names the entry, for the messages
    :raises ValueError: for a missing key, or a value that only makes sense online
    :raises TypeError: for an unknown key, with the nearest known one
    """
    name = algo.__name__
    for key in ("policy", "n_timesteps"):
        if key not in hyperparams:
            hint = "the number of gradient steps" if key == "n_timesteps" else "for instance MlpPolicy"
            raise ValueError(f"{where} has no {key!r}: {hint}.")
    if hyperparams.get("n_envs", 1) != 1:
        raise ValueError(f"{where}: n_envs={hyperparams['n_envs']} cannot apply: {ONLINE_ONLY['n_envs']}. Leave it out.")
    normalize = str(hyperparams.get("normalize", False)).replace(" ", "")
    if normalize not in ("False", "None") and "norm_reward=False" not in normalize and "'norm_reward':False" not in normalize:
        raise ValueError(
            f"{where}: normalize={hyperparams['normalize']!r} would normalise rewards, which changes the meaning of logged "
            'ones. Write normalize: "dict(norm_obs=True, norm_reward=False)".'
        )
    known = {key for key in inspect.signature(algo).parameters if not key.startswith("_")} | {*ZOO_KEYS}
    for key in hyperparams:
        if key in _COMMAND_LINE:
            raise TypeError(
                f"{where}: {key!r} is no hyperparameter here: give it to the command, by --{key.replace('_', '-')}."
            )
        if key in known:
            continue
        reason = {**ONLINE_ONLY, **_REFUSED, **left_out_of(algo)}.get(key)
        if reason is not None:
            raise TypeError(f"{where}: {key!r} cannot apply to {name}: {reason}. Leave it out.")
        near = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" It takes: {', '.join(sorted(known))}."
        raise TypeError(f"{where}: {name} takes no {key!r}.{hint}")
