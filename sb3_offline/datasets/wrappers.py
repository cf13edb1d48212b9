"""Wrappers around an env that may make it another task than the one that its data were logged on."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from sb3_offline.datasets.errors import DatasetWarning

#: Wrappers that leave observations, actions and rewards as they are.
TRANSPARENT = (
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.wrappers.TimeLimit,
    gym.wrappers.RecordEpisodeStatistics,
    gym.wrappers.RecordVideo,
    Monitor,
)
#: These, too, but they change when and how an env is reset or drawn, so that its spec is not the plain task's.
_HARMLESS = (*TRANSPARENT, gym.wrappers.HumanRendering, gym.wrappers.RenderCollection, gym.wrappers.Autoreset)
#: Arguments of an env that change what is drawn, and nothing else.
_OF_PICTURES = {
    *("render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom", "visual_options"),
    *("screen_size", "render_fps", "disable_env_checker"),
}
#: Where RL-Zoo puts a TimeLimit of its own in gymnasium's place.
_PATCHES = "rl_zoo3.gym_patches"
#: Around a vector of environments; VecNormalize is looked at where its statistics are.
_HARMLESS_VECTORS = (VecMonitor, VecCheckNan, VecVideoRecorder, VecTransposeImage, VecNormalize)


def changing_wrappers(env: gym.Env | VecEnv) -> dict[str, str]:
    """
    What each wrapper around a task may change, by the wrapper's name, from the outermost one inwards. A wrapper with a
    ``step`` of its own may change anything, also one that is derived from a harmless one. Environments in other processes
    cannot be looked at.
    """
    changed = {}
    while isinstance(env, VecEnvWrapper):
        if _own_methods(env, _HARMLESS_VECTORS, VecEnvWrapper, ("step_wait", "reset")):
            changed[type(env).__name__] = "observations or rewards"
        env = env.venv
    inner = first_env(env)
    while isinstance(inner, gym.Wrapper):
        kinds = {gym.RewardWrapper: "rewards", gym.ObservationWrapper: "observations", gym.ActionWrapper: "actions"}
        what = next((what for kind, what in kinds.items() if isinstance(inner, kind)), None)
        own = _own_methods(inner, _HARMLESS, gym.Wrapper, ("step", "reset"))
        if what is None and own:
            what = "observations or rewards" if "step" in own else "where episodes begin"
        if what is not None:
            changed[type(inner).__name__] = what
        inner = inner.env
    return changed


def first_env(env: gym.Env | VecEnv) -> gym.Env | None:
    """An env itself, or the first one of a vector of them; None of those in other processes, which cannot be looked at."""
    if not isinstance(env, VecEnv):
        return env
    vector = env.unwrapped
    return vector.envs[0] if isinstance(vector, DummyVecEnv) else None


def is_transparent(env: gym.Wrapper) -> bool:
    """Whether a wrapper leaves observations, actions and rewards as they are, and its spec that of the plain task."""
    return isinstance(env, TRANSPARENT) and not _own_methods(env, TRANSPARENT, gym.Wrapper, ("step", "reset"))


def _own_methods(env: Any, harmless: tuple[type, ...], plain: type, names: Sequence[str]) -> list[str]:
    """Those of these methods that a wrapper has neither from a harmless one nor from the plain class of wrappers."""
    base = next((kind for kind in harmless if isinstance(env, kind)), plain)
    own = {name: getattr(type(env), name) for name in names if getattr(type(env), name) is not getattr(base, name)}
    return [name for name, method in own.items() if base is plain or not method.__module__.startswith(_PATCHES)]


def _other_arguments(env: gym.Env | VecEnv, spec: EnvSpec) -> list[str]:
    """How the env of the data's task was made otherwise than the data's own, an argument a text."""
    inner = first_env(env)
    if inner is None or inner.spec is None or inner.spec.id != spec.id:
        return []
    here, there = dict(inner.spec.kwargs), dict(spec.kwargs)
    signature = inspect.signature(type(inner.unwrapped).__init__).parameters
    usual = {name: parameter.default for name, parameter in signature.items()}
    names = sorted({*here, *there} - _OF_PICTURES)
    pairs = [(name, *(given.get(name, usual.get(name, "not given")) for given in (here, there))) for name in names]
    return [f"{name}={own!r:.40} (not {other!r:.40})" for name, own, other in pairs if repr(own) != repr(other)]


def warn_of_wrappers(env: gym.Env | VecEnv, dataset_id: str, spec: EnvSpec | None) -> None:
    """
    Warn if the data name their task and the env has wrappers that this task's spec does not list, or was made with other
    arguments: what was logged is then not what the env gives.

    :param spec: the data's task; None if they name none, and may have been logged through the same wrappers
    """
    if spec is None:
        return
    others = _other_arguments(env, spec)
    if others:
        warnings.warn(
            f"{dataset_id} was logged on {spec.id} itself, but the env was made with {', '.join(others)}: learning from the "
            "data knows nothing of it, and evaluation and learn_online then meet another task. Make the env as that of the "
            "data, or give these as a dict of arrays if they were logged on this one.",
            DatasetWarning,
            stacklevel=4,
        )
    own = {wrapper.entry_point.rpartition(":")[2] for wrapper in spec.additional_wrappers}
    for name, what in changing_wrappers(env).items():
        if name not in own:
            warnings.warn(
                f"{dataset_id} was logged on {spec.id} itself, but the env's wrapper {name} may change {what}: learning from "
                "the data knows nothing of it, and evaluation and learn_online then meet another task, other observations, "
                "actions or rewards. Apply the same change to the data's arrays and give these as dataset=, or leave the "
                "wrapper out.",
                DatasetWarning,
                stacklevel=4,
            )
