"""Wrappers around an env that may make it another task than the one that its data were logged on."""

from __future__ import annotations

import warnings

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
#: Around a vector of environments; VecNormalize is looked at where its statistics are.
_HARMLESS_VECTORS = (VecMonitor, VecCheckNan, VecVideoRecorder, VecTransposeImage, VecNormalize)


def changing_wrappers(env: gym.Env | VecEnv) -> dict[str, str]:
    """
    What each wrapper around a task may change, by the wrapper's name, from the outermost one inwards. A wrapper with a
    ``step`` of its own may change anything. Environments in other processes cannot be looked at.
    """
    changed = {}
    while isinstance(env, VecEnvWrapper):
        if not isinstance(env, _HARMLESS_VECTORS):
            changed[type(env).__name__] = "observations or rewards"
        env = env.venv
    if isinstance(env, VecEnv):
        if not isinstance(env, DummyVecEnv):
            return changed
        env = env.envs[0]
    while isinstance(env, gym.Wrapper):
        kinds = {gym.RewardWrapper: "rewards", gym.ObservationWrapper: "observations", gym.ActionWrapper: "actions"}
        what = next((what for kind, what in kinds.items() if isinstance(env, kind)), None)
        if what is None and not isinstance(env, _HARMLESS) and type(env).step is not gym.Wrapper.step:
            what = "observations or rewards"
        if what is not None:
            changed[type(env).__name__] = what
        env = env.env
    return changed


def warn_of_wrappers(env: gym.Env | VecEnv, dataset_id: str, spec: EnvSpec | None) -> None:
    """
    Warn if the data name their task and the env has wrappers that this task's spec does not list: what was logged is then not
    what the env gives.

    :param spec: the data's task; None if they name none, and may have been logged through the same wrappers
    """
    if spec is None:
        return
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
