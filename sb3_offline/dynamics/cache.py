"""Fitted dynamics on disk: written whole or not at all, read without running any code."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs
import torch as th

from sb3_offline.dynamics.config import DynamicsConfig
from sb3_offline.dynamics.ensemble import EnsembleDynamics, complete
from sb3_offline.execution.precision import Precision
from sb3_offline.files.archives import FileRefused, read_tensors
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.checksum import MAGIC, read_checked, read_label, write_checked
from sb3_offline.files.regular import read_regular
from sb3_offline.files.tensors import same_kind

FORMAT = 5  # raised when a fit computes something else, or keeps more


def cache_folder() -> Path:
    """The user's cache folder for fitted dynamics; ``SB3_OFFLINE_CACHE`` names another one."""
    chosen = os.environ.get("SB3_OFFLINE_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("sb3_offline")) / "dynamics"


def cache_key(
    fingerprint: str,
    config: DynamicsConfig,
    seed: int,
    version: str,
    device: th.device,
    learned_termination: bool = False,
    precision: Precision = "float32",
) -> str:
    """
    Equal for fits that give equal weights: same data, options of the fit, seed, versions, kind of device and precision.

    :param learned_termination: whether a termination head is fitted too; other kinds of termination, and a known
        reward, are no part of the fit
    """
    options = {name: value for name, value in asdict(config).items() if name not in ("termination", "reward")}
    facts = [FORMAT, fingerprint, options, learned_termination, seed, version, th.__version__, device.type, precision]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def save_dynamics(dynamics: EnsembleDynamics, path: Path, label: str = "", ends: dict[str, th.Tensor] | None = None) -> None:
    """
    Write a fitted model under a checksum, whole or not at all.

    :param label: what :func:`load_dynamics` may ask for
    :param ends: where the fit left its random streams
    :raises ValueError: if the model is not fitted, or holds numbers that are not finite
    """
    if not bool(dynamics.fitted):
        raise ValueError("The dynamics model is not fitted yet: call fit_dynamics() (or learn()) before saving it.")
    state = {name: value.cpu() for name, value in dynamics.state_dict().items()}
    if bad := _not_finite(state):
        raise ValueError(f"The dynamics model is not saved: {', '.join(bad)} hold numbers that are not finite. Fit it again.")
    content = {"dynamics": state, "ends": ends or {}}
    write_atomically(path, lambda file: write_checked(file, content, label))


def _not_finite(state: dict[str, th.Tensor]) -> list[str]:
    """Names of what a fit cannot hold; measured figures may be missing."""
    return [name for name, value in state.items() if not name.endswith("figures") and not bool(th.isfinite(value).all())]


def load_dynamics(dynamics: EnsembleDynamics, path: Path, label: str | None = None) -> dict[str, th.Tensor]:
    """
    Read a file of :func:`save_dynamics` into a model of the same sizes.

    :param label: refuse a file of another one
    :return: where the fit left its random streams
    :raises ValueError: if there is no such file, it is damaged, or it belongs to a model of other sizes
    """
    try:
        content = read_regular(path)
        if content.startswith(MAGIC):
            found = read_checked(path)
            if label is not None and read_label(path) != label:
                raise FileRefused(f"{path} holds the fit of other data or options: its key is {read_label(path)!r:.80}.")
        else:
            found = {"dynamics": read_tensors(content, str(path)), "ends": {}}  # as earlier versions wrote it
        state: Any = found.get("dynamics")
        own = dynamics.state_dict()
        if isinstance(state, dict):
            complete(state)
        if not isinstance(state, dict) or not all(same_kind(state.get(name), value) for name, value in own.items()):
            raise ValueError(f"{str(path)!r} is damaged, or holds a dynamics model of other sizes.")
        if bad := _not_finite({name: state[name] for name in own}):
            raise ValueError(f"{str(path)!r} holds numbers that are not finite, in {', '.join(bad)}: fit the dynamics again.")
        if not 0 <= int(state["elites"].min()) <= int(state["elites"].max()) < dynamics.n_members:
            raise ValueError(f"{str(path)!r} names elites that there are not: it is damaged.")
        dynamics.load_state_dict(state)
        ends = found.get("ends")
        return ends if isinstance(ends, dict) else {}
    except FileNotFoundError as error:
        raise ValueError(f"There is no dynamics file {str(path)!r}.") from error
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{str(path)!r} is damaged, or holds a dynamics model of other sizes: {error}") from error
