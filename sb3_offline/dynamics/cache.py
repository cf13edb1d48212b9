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
from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.execution.precision import Precision
from sb3_offline.files.archives import FileRefused, read_tensors
from sb3_offline.files.atomic import write_atomically

FORMAT = 2  # raised when a fit computes something else, or keeps more


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

    :param learned_termination: whether a termination head is fitted too; other kinds of termination are no part of the fit
    """
    options = {name: value for name, value in asdict(config).items() if name != "termination"}
    facts = [FORMAT, fingerprint, options, learned_termination, seed, version, th.__version__, device.type, precision]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def save_dynamics(dynamics: EnsembleDynamics, path: Path) -> None:
    """
    Write a fitted model, whole or not at all.

    :raises ValueError: if the model is not fitted.
    """
    if not bool(dynamics.fitted):
        raise ValueError("The dynamics model is not fitted yet: call fit_dynamics() (or learn()) before saving it.")
    content = {name: value.cpu() for name, value in dynamics.state_dict().items()}
    write_atomically(path, lambda file: th.save(content, file))


def load_dynamics(dynamics: EnsembleDynamics, path: Path) -> None:
    """
    Read a file of :func:`save_dynamics` into a model of the same sizes.

    :raises ValueError: if there is no such file, it is damaged, or it belongs to a model of other sizes.
    """
    try:
        state: dict[str, Any] = read_tensors(path.read_bytes(), str(path), dynamics.device)
        dynamics.load_state_dict(state)
    except FileNotFoundError as error:
        raise ValueError(f"There is no dynamics file {str(path)!r}.") from error
    except FileRefused:
        raise
    except Exception as error:
        raise ValueError(f"{str(path)!r} is damaged, or holds a dynamics model of other sizes: {error}") from error
