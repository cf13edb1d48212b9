"""
The algorithms by name: where each is, and its class, which is imported when it is first asked for. Imports nothing of the
package.

An algorithm's name is what RL-Zoo, the shell and the YAML files call it. A third party adds its own by
:func:`register_algorithm`, or in its package's metadata, under the entry points of the group ``sb3_offline.algorithms``::

    [project.entry-points."sb3_offline.algorithms"]
    my_algorithm = "my_package:MyAlgorithm"
"""

from __future__ import annotations

import difflib
import functools
import re
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from gymnasium import spaces

Algorithm = TypeVar("Algorithm", bound=type)

GROUP = "sb3_offline.algorithms"

#: The package's own. A name is that of the module, of the YAML file in ``zoo_configs`` and of the page in the docs.
BUILT_IN = {
    "awac": "sb3_offline.awac.awac:AWAC",
    "bc": "sb3_offline.bc.bc:BC",
    "combo": "sb3_offline.combo.combo:COMBO",
    "cql": "sb3_offline.cql.cql:CQL",
    "discrete_bc": "sb3_offline.bc.discrete_bc:DiscreteBC",
    "discrete_combo": "sb3_offline.combo.discrete_combo:DiscreteCOMBO",
    "discrete_cql": "sb3_offline.cql.discrete_cql:DiscreteCQL",
    "discrete_dromo": "sb3_offline.dromo.discrete_dromo:DiscreteDROMO",
    "discrete_iql": "sb3_offline.iql.discrete_iql:DiscreteIQL",
    "dromo": "sb3_offline.dromo.dromo:DROMO",
    "edac": "sb3_offline.edac.edac:EDAC",
    "fql": "sb3_offline.fql.fql:FQL",
    "iql": "sb3_offline.iql.iql:IQL",
    "mobile": "sb3_offline.mobile.mobile:MOBILE",
    "mopo": "sb3_offline.mopo.mopo:MOPO",
    "offline_sac": "sb3_offline.common.offline_sac:OfflineSAC",
    "preqn": "sb3_offline.preqn.preqn:PreQN",
    "rebrac": "sb3_offline.rebrac.rebrac:ReBRAC",
    "sacn": "sb3_offline.sacn.sacn:SACN",
    "td3bc": "sb3_offline.td3bc.td3bc:TD3BC",
}

_BASE = ("sb3_offline.common.offline_algorithm", "OfflineAlgorithm")
_registered: dict[str, type] = {}


def register_algorithm(cls: Algorithm, name: str | None = None) -> Algorithm:
    """
    Make an algorithm of one's own known to RL-Zoo, the shell and the messages; also a class decorator.

    :param cls: a child of :class:`~sb3_offline.common.offline_algorithm.OfflineAlgorithm`
    :param name: what it is to be called; ``my_cql`` for a class ``MyCQL`` if not given
    :return: the class
    :raises TypeError: if it is no such class
    :raises ValueError: if its name, or the class's own, by which saved files are recognised, is another algorithm's
    """
    if not (isinstance(cls, type) and any((base.__module__, base.__name__) == _BASE for base in cls.__mro__)):
        raise TypeError(f"register_algorithm takes a child of {'.'.join(_BASE)}, got {cls!r}.")
    name = _snake_case(cls.__name__) if name is None else name
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"{name!r} is no name for an algorithm: take lower-case letters, digits and underscores.")
    for known, path in _paths().items():
        if path == f"{cls.__module__}:{cls.__qualname__}" and known == name and known in _registered:
            continue  # the module, or the notebook's cell, was run again
        class_name = path.rpartition(":")[2]
        if known == name:
            raise ValueError(f"{name!r} is the name of {class_name} ({path.partition(':')[0]}): give another one by name=.")
        if class_name == cls.__name__:
            raise ValueError(f"there is a {class_name} already ({known!r}): call the class otherwise, its files name it.")
    _registered[name] = cls
    return cls


def names() -> list[str]:
    """The names of all algorithms, sorted; none is imported."""
    return sorted(_paths())


def class_names() -> dict[str, str]:
    """The name of each algorithm by that of its class (``CQL``: ``cql``); none is imported."""
    return {path.rpartition(":")[2]: name for name, path in sorted(_paths().items())}


def find_algorithm(name: str) -> type[Any]:
    """
    The class of an algorithm.

    :raises ValueError: if there is none of that name, with the nearest
    :raises ImportError: if the package that brings it cannot be imported
    """
    if name in _registered:
        return _registered[name]
    path = _paths().get(name)
    if path is None:
        raise ValueError(f"{unknown(name, names())} Known are {', '.join(names())}.")
    if name in BUILT_IN:
        module, _, class_name = path.partition(":")
        return getattr(import_module(module), class_name)
    try:
        return _entry_points()[name].load()
    except Exception as error:  # whatever the code of others raises
        raise ImportError(f"the algorithm {name!r} cannot be imported from {path}: {error}") from error


def algorithms() -> dict[str, type[Any]]:
    """Every algorithm by name, sorted. Those of others that cannot be imported are left out, with a warning."""
    found = {}
    for name in names():
        try:
            found[name] = find_algorithm(name)
        except ImportError as error:
            if name in BUILT_IN:
                raise
            warnings.warn(str(error), stacklevel=2)
    return found


def learners(
    *,
    action_space: spaces.Space | None = None,
    observation_space: spaces.Space | None = None,
    beyond_vectors: bool = False,
) -> list[str]:
    """
    The class names of the algorithms that can learn from something, for hints.

    :param action_space: actions that they must take
    :param observation_space: observations of a kind that they must take
    :param beyond_vectors: only those that learn from images and dicts
    """
    return sorted(
        cls.__name__
        for cls in algorithms().values()
        if (action_space is None or isinstance(action_space, cls.supported_spaces["action"]))
        and (observation_space is None or _sees(cls, observation_space))
        and not (beyond_vectors and cls.vectors_only)
    )


def _sees(cls: Any, space: spaces.Space) -> bool:
    is_box = type(space).__name__ == "Box"
    return isinstance(space, cls.supported_spaces["observation"]) and (is_box or not cls.vectors_only)


def unknown(name: str, known: list[str]) -> str:
    """The first sentence about a name that is not known: with the nearest one, if any is near."""
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"unknown algorithm {name!r}." + (f" Did you mean {near[0]!r}?" if near else "")


def _paths() -> dict[str, str]:
    """``module:Class`` of every algorithm."""
    plugins = {name: entry.value for name, entry in _entry_points().items()}
    registered = {name: f"{cls.__module__}:{cls.__qualname__}" for name, cls in _registered.items()}
    return {**plugins, **registered, **BUILT_IN}


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in BUILT_IN or entry.name in found:
            warnings.warn(f"{entry.value} is not registered: {entry.name!r} is another algorithm's name.", stacklevel=2)
        else:
            found[entry.name] = entry
    return found


def _snake_case(name: str) -> str:
    """``MyCQL`` -> ``my_cql``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
