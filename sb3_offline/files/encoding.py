"""
Python values as JSON and back, without pickle: plain values as they are, everything else by kinds and names known here.

What is not plain is an object whose key ``"!"`` names its kind: ``{"!": "Discrete", "n": 4, "start": 0}``.
"""

from __future__ import annotations

import base64
import copy
import importlib
import math
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

KIND = "!"

#: Classes are found by name among what these packages have loaded, if they are networks, optimisers or buffers.
_PACKAGES = ("torch.nn.modules", "torch.optim", "stable_baselines3", "sb3_contrib", "sb3_offline")
_CLASSES = (th.nn.Module, th.optim.Optimizer, BaseBuffer)
#: Classes whose instances are what their attributes say.
_RECORDS = (
    "stable_baselines3.common.utils.FloatSchedule",
    "stable_baselines3.common.utils.ConstantSchedule",
    "stable_baselines3.common.utils.LinearSchedule",
    "rl_zoo3.utils.SimpleLinearSchedule",
    "stable_baselines3.common.noise.NormalActionNoise",
    "stable_baselines3.common.noise.OrnsteinUhlenbeckActionNoise",
    "stable_baselines3.common.running_mean_std.RunningMeanStd",
    "sb3_offline.training.schedules.CosineSchedule",
    "sb3_offline.training.schedules.HoldThenDecay",
    "sb3_offline.training.schedules.ScaledSchedule",
)

_LARGEST = 2**24  # entries of a space that is written without its bounds
#: Where version 0.1.0 had the modules whose names files hold.
_MOVED = {
    "sb3_offline.common.buffers": "sb3_offline.buffers.buffers",
    "sb3_offline.common.online_buffer": "sb3_offline.buffers.online_buffer",
    "sb3_offline.common.storage": "sb3_offline.buffers.storage",
    "sb3_offline.common.policies": "sb3_offline.networks.policies",
    "sb3_offline.common.schedules": "sb3_offline.training.schedules",
}

_NUMBERS = "biuf"  # kinds of numpy dtypes: bool, int, uint, float


class NotPlain(ValueError):
    """A value that only pickle could write; the message says where it stands and what it is."""


def encode(value: Any, where: str = "value") -> Any:
    """
    A value as what ``json.dumps`` takes; :func:`decode` gives an equal one.

    :param where: what the message calls it
    :raises NotPlain: for a kind, class or function that is not known here
    """
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if type(value) is list:
        return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if type(value) in (dict, OrderedDict):
        if KIND in value or not all(isinstance(key, str) for key in value):
            items = [[encode(key, where), encode(item, f"{where}[{key!r}]")] for key, item in value.items()]
            return {KIND: "dict", "items": items}
        return {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    for kind, (cls, fields, _) in _KINDS.items():
        if type(value) is cls:
            return {KIND: kind, **{name: encode(item, f"{where}.{name}") for name, item in fields(value).items()}}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in _NUMBERS:
        kind = "array" if isinstance(value, np.ndarray) else "number"
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {KIND: kind, "dtype": value.dtype.str, "shape": list(value.shape), "data": data}
    if isinstance(value, Path):
        return {KIND: "path", "path": str(value)}
    return _encode_named(value, where)


def _encode_named(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, type) and issubclass(value, np.generic) and np.dtype(value).kind in _NUMBERS:
        return {KIND: "dtype", "name": np.dtype(value).str}
    owner = value if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")) else type(value)
    name = f"{owner.__module__}.{owner.__qualname__}"
    if owner is not value and name in _RECORDS:
        return {KIND: "record", "name": name, "state": encode(vars(value), where)}
    if isinstance(value, type) and _find_class(name) is value:
        return {KIND: "class", "name": name}
    raise NotPlain(f"{where} is {'' if owner is value else 'an object of '}{name}")


def decode(value: Any) -> Any:
    """
    The value that :func:`encode` was given. Imports nothing but what is listed here, and runs no code of the file.

    :raises ValueError: for a kind or name that is not known, or fields that do not fit
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if KIND not in value:
        return {key: decode(item) for key, item in value.items()}
    fields = dict(value)
    kind = fields.pop(KIND)
    if not isinstance(kind, str) or (kind not in _DECODERS and kind not in _KINDS):
        raise ValueError(f"{kind!r} is no kind of value that this version knows")
    make = _DECODERS[kind] if kind in _DECODERS else _KINDS[kind][2]
    try:
        return make(**{name: decode(item) for name, item in fields.items()})
    except Exception as error:  # each kind's own
        raise ValueError(f"no {kind} can be made of it: {error}") from error


def _array(dtype: str, shape: list[int], data: str) -> np.ndarray:
    numbers = np.dtype(dtype)
    if numbers.kind not in _NUMBERS:
        raise ValueError(f"an array of {numbers} is refused")
    return np.frombuffer(base64.b64decode(data, validate=True), numbers).reshape(shape).copy()


def _number(dtype: str, shape: list[int], data: str) -> Any:
    return _array(dtype, shape, data)[()]


def _dtype(name: str) -> type[np.generic]:
    if np.dtype(name).kind not in _NUMBERS:
        raise ValueError(f"{name!r} is no number")
    return np.dtype(name).type


def _named(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _present_name(name: str) -> str:
    """What a class or function of an older file is called now."""
    module, dot, attribute = name.rpartition(".")
    return f"{_MOVED.get(module, module)}{dot}{attribute}"


def _find_class(name: str) -> type | None:
    module, _, attribute = name.rpartition(".")
    if not any(module == package or module.startswith(f"{package}.") for package in _PACKAGES) or module not in sys.modules:
        return None
    found = vars(sys.modules[module]).get(attribute)
    known = isinstance(found, type) and issubclass(found, _CLASSES) and found.__module__ == module
    return found if known else None


def is_known_class(name: str) -> bool:
    """Whether a dotted name is that of a network, optimiser or buffer which files may name."""
    return _find_class(name) is not None


def _class(name: str) -> type:
    found = _find_class(_present_name(name))
    if found is None:
        raise ValueError(f"{name} is not among the known networks, optimisers and buffers")
    return found


def _record(name: str, state: dict[str, Any]) -> Any:
    name = _present_name(name)
    if name not in _RECORDS:
        raise ValueError(f"{name} is not among the known schedules and records")
    cls = _named(name)
    made = cls.__new__(cls)
    vars(made).update(state)
    return made


def _box_fields(space: spaces.Box) -> dict[str, Any]:
    return {"low": space.low, "high": space.high, "dtype": space.dtype.type}


def _box(low: np.ndarray, high: np.ndarray, dtype: type[np.generic]) -> spaces.Box:
    """Bounds are written whole: a shape of a few digits, filled with one number, is as large as it likes."""
    if not isinstance(low, np.ndarray) or not isinstance(high, np.ndarray) or low.shape != high.shape:
        raise ValueError("its bounds are no arrays of one shape")
    return spaces.Box(low, high, dtype=dtype)  # type: ignore[arg-type]


def _multi_discrete(nvec: np.ndarray, dtype: type[np.generic], start: np.ndarray | None = None) -> spaces.MultiDiscrete:
    if not isinstance(nvec, np.ndarray) or (start is not None and np.shape(start) != nvec.shape):
        raise ValueError("its counts are no arrays of one shape")
    return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)  # type: ignore[arg-type]


def _multi_binary(n: int | list[int]) -> spaces.MultiBinary:
    sizes = n if isinstance(n, list) else [n]
    if math.prod(sizes) > _LARGEST:
        raise ValueError(f"{n} bits are no observation")
    return spaces.MultiBinary(n)


def _env_spec_fields(spec: EnvSpec) -> dict[str, Any]:
    """Not the entry point: that is taken from what is registered where the file is read."""
    return {
        "id": spec.id,
        "max_episode_steps": spec.max_episode_steps,
        "kwargs": described(spec.kwargs),
        "wrappers": [described(vars(wrapper)) for wrapper in spec.additional_wrappers],
    }


def _env_spec(id: str, max_episode_steps: int | None, kwargs: dict[str, Any], wrappers: list[dict[str, Any]]) -> EnvSpec:
    spec = copy.deepcopy(gym.registry[id]) if id in gym.registry else EnvSpec(id)
    spec.max_episode_steps, spec.kwargs = max_episode_steps, dict(kwargs)
    spec.additional_wrappers = tuple(WrapperSpec(**wrapper) for wrapper in wrappers)
    return spec


def described(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of which those that are not plain are text."""
    described = {}
    for key, value in facts.items():
        try:
            encode(value)
        except NotPlain:
            value = str(value)
        described[str(key)] = value
    return described


#: kind: (exact class, its fields, what makes it of them)
_KINDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]], Callable[..., Any]]] = {
    "tuple": (tuple, lambda value: {"items": list(value)}, lambda items: tuple(items)),
    "deque": (deque, lambda value: {"items": list(value), "maxlen": value.maxlen}, lambda items, maxlen: deque(items, maxlen)),
    "Box": (spaces.Box, _box_fields, _box),
    "Discrete": (spaces.Discrete, lambda s: {"n": int(s.n), "start": int(s.start)}, spaces.Discrete),
    "MultiDiscrete": (
        spaces.MultiDiscrete,
        lambda s: {"nvec": s.nvec, "dtype": s.dtype.type, "start": s.start},
        _multi_discrete,
    ),
    "MultiBinary": (spaces.MultiBinary, lambda s: {"n": s.n if isinstance(s.n, int) else list(s.shape)}, _multi_binary),
    "Tuple": (spaces.Tuple, lambda s: {"spaces": list(s.spaces)}, spaces.Tuple),
    "Dict": (spaces.Dict, lambda s: {"items": list(s.spaces.items())}, lambda items: spaces.Dict(items)),
    "TrainFreq": (
        TrainFreq,
        lambda value: {"frequency": value.frequency, "unit": value.unit.value},
        lambda frequency, unit: TrainFreq(frequency, TrainFrequencyUnit(unit)),
    ),
    "EnvSpec": (EnvSpec, _env_spec_fields, _env_spec),
}


def register_kind(kind: str, cls: type, fields: Callable[[Any], dict[str, Any]], make: Callable[..., Any]) -> None:
    """
    Let files hold objects of a plain class of the package; its module says so where it defines it.

    :param fields: of an object, by name: values that can be encoded
    :param make: makes an equal object of them
    """
    _KINDS[kind] = (cls, fields, make)


_DECODERS: dict[str, Callable[..., Any]] = {
    "dict": lambda items: dict(items),
    "array": _array,
    "number": _number,
    "path": lambda path: Path(path),
    "dtype": _dtype,
    "record": _record,
    "class": _class,
}
