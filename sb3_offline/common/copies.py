"""What ``copy.deepcopy`` and ``pickle`` take of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

_NORMALIZED = "_envs_of_normalizers"


def state_of(model: Any) -> dict[str, Any]:
    """
    Without the run that is under way, its graphs, and open log files. The envs that ``VecNormalize`` wraps, which it leaves
    out of its own state, are kept beside it.
    """
    gone = {"_run": None, "_runner": None, "_logger": Logger(None, [])}
    state = vars(model) | {name: value for name, value in gone.items() if name in vars(model)}
    return state | {_NORMALIZED: [normalizer.venv for normalizer in _normalizers(model.env)]}


def set_state(model: Any, state: dict[str, Any]) -> None:
    """The other way."""
    inner = state.pop(_NORMALIZED, [])
    vars(model).update(state)
    for normalizer, venv in zip(_normalizers(model.env), inner, strict=False):  # of an inner one when it has its env back
        normalizer.set_venv(venv)


def _normalizers(env: VecEnv | None) -> Iterator[VecNormalize]:
    """From the outermost on."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            yield env
        env = env.venv
