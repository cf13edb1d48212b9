"""
What a file may ask for without ``trust``: wrappers of environments that write nothing, open nothing and stay small, and
arguments that can be no path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_STACKS = 64  # observations in one: memory is this many times an observation
_PIXELS = 1024  # width or height
_WORD = re.compile(r"[A-Za-z0-9_ -]{0,64}")  # a mode, a map's name: no dot, slash or colon, so no path and no module

#: Wrappers by module, each with the arguments that must not be larger than a number, because memory grows with them.
_WRAPPERS: dict[str, dict[str, dict[str, float]]] = {
    "gymnasium.wrappers": {
        "AtariPreprocessing": {"screen_size": _PIXELS},
        "Autoreset": {},
        "ClipAction": {},
        "ClipReward": {},
        "DelayObservation": {"delay": _STACKS},
        "FilterObservation": {},
        "FlattenObservation": {},
        "FrameStackObservation": {"stack_size": _STACKS},
        "GrayscaleObservation": {},
        "MaxAndSkipObservation": {"skip": _STACKS},
        "NormalizeObservation": {},
        "NormalizeReward": {},
        "OrderEnforcing": {},
        "PassiveEnvChecker": {},
        "RecordEpisodeStatistics": {"buffer_length": 10**6},
        "RescaleAction": {},
        "RescaleObservation": {},
        "ResizeObservation": {"shape": _PIXELS},
        "StickyAction": {},
        "TimeAwareObservation": {},
        "TimeLimit": {},
    },
    "rl_zoo3.wrappers": {
        "ActionNoiseWrapper": {},
        "ActionSmoothingWrapper": {},
        "DelayedRewardWrapper": {},
        "FrameSkip": {},
        "HistoryWrapper": {"horizon": _STACKS},
        "HistoryWrapperObsDict": {"horizon": _STACKS},
        "MaskVelocityWrapper": {},
        "TruncatedOnSuccessWrapper": {},
        "YAMLCompatResizeObservation": {"shape": _PIXELS},
    },
    "sb3_contrib.common.wrappers": {"TimeFeatureWrapper": {}},
    "stable_baselines3.common.atari_wrappers": {"AtariWrapper": {"screen_size": _PIXELS}},
    "stable_baselines3.common.vec_env": {
        "VecCheckNan": {},
        "VecExtractDictObs": {},
        "VecFrameStack": {"n_stack": _STACKS},
        "VecTransposeImage": {},
    },
}
#: Modules of gymnasium in which its wrappers stand, as env specs name them.
_GYMNASIUM = re.compile(
    r"gymnasium\.wrappers"
    r"(\.(common|stateful_action|stateful_observation|stateful_reward|transform_action|transform_observation|"
    r"transform_reward|atari_preprocessing))?"
)


def refused_wrappers(wrappers: Sequence[tuple[str, Any]]) -> str | None:
    """
    :param wrappers: dotted names with their arguments; a colon may stand before the class, as in env specs
    :return: the outermost that is not harmless, and why; None if all are
    """
    seen: set[str] = set()
    for name, arguments in reversed(wrappers):
        module, _, cls = str(name).replace(":", ".").rpartition(".")
        module = "gymnasium.wrappers" if _GYMNASIUM.fullmatch(module) else module
        known = _WRAPPERS.get(module, {}).get(cls)
        if known is None:
            return f"{str(name)!r}, which is not among the wrappers that are known to be harmless"
        if cls in seen:  # stacks of stacks grow without bound
            return f"{cls} twice"
        seen.add(cls)
        if arguments is not None and not isinstance(arguments, Mapping):
            return f"{str(name)!r} with {_shown(arguments)} for arguments"
        for key, value in (arguments or {}).items():
            if not isinstance(key, str) or not _is_harmless(value) or not _at_most(value, known.get(key, math.inf)):
                return f"{str(name)!r} with {key}={_shown(value)}"
    return None


def refused_arguments(arguments: Any) -> str | None:
    """
    :param arguments: of an environment's constructor
    :return: the first that could be a path, code or memory without bound; None if there is none
    """
    if arguments is None:
        return None
    if not isinstance(arguments, Mapping):
        return f"gives the environment {_shown(arguments)} for arguments"
    for key, value in arguments.items():
        if not isinstance(key, str) or not _is_harmless(value):
            return f"gives the environment {key}={_shown(value)}"
    return None


def _is_harmless(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, (bool, int, float)):
        return True
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value))
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "biuf" and value.size <= 10_000
    if depth > 3 or not isinstance(value, (list, tuple, Mapping)) or len(value) > 1000:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_harmless(item, depth + 1) for key, item in value.items())
    return all(_is_harmless(item, depth + 1) for item in value)


def _at_most(value: Any, most: float) -> bool:
    if most == math.inf:
        return True
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return len(numbers) <= 3 and all(isinstance(n, (int, float)) and math.isfinite(n) and abs(n) <= most for n in numbers)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except RecursionError:
        return "what contains itself"
