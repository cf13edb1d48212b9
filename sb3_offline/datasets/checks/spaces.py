"""Spaces that cannot be learned in, refused before any array is read, with the way on."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.errors import DatasetError

_LEARNABLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_space(kind: str, space: Any, where: str) -> None:
    """
    :param kind: "observation" or "action"
    :raises DatasetError: for a space of the old gym, one that holds no numbers (by its key in a Dict), a number without a
        dimension, or an action that has one value only
    """
    if not isinstance(space, spaces.Space):
        name = f"{type(space).__module__}.{type(space).__qualname__}"
        raise DatasetError(
            f"{where}: the {kind} space is a {name}, not a space of gymnasium: make it by gymnasium.spaces."
            f"{type(space).__name__}. An env of the old gym needs shimmy: gymnasium.make('GymV26Environment-v0', env=env)."
        )
    if isinstance(space, spaces.Dict) and kind == "observation":
        for key, member in space.items():
            if not isinstance(member, _LEARNABLE):
                raise space_refused(f"observations[{key!r}]", member, where)
    elif not isinstance(space, _LEARNABLE):
        raise space_refused(f"{kind}s", space, where)
    if kind == "observation":
        _refuse_single(space, where)
    if kind == "action" and isinstance(space, spaces.Box):
        fixed = np.flatnonzero((space.low >= space.high).reshape(-1))
        if len(fixed):
            values = ", ".join(f"{value:g}" for value in space.low.reshape(-1)[fixed][:3])
            raise DatasetError(
                f"{where}: the action space {space} has no room in dimension {', '.join(map(str, fixed))}: its low is its "
                f"high ({values}), so there is nothing to choose. Leave such dimensions out of the action space and of the "
                "logged actions, and let a wrapper of the env (gymnasium.wrappers.TransformAction) put them in again."
            )


def _refuse_single(space: spaces.Space, where: str) -> None:
    """:raises DatasetError: for an observation, or one by key, that is one number without a dimension"""
    members = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, member in members.items():
        if isinstance(member, spaces.Box) and member.shape == ():
            wrapped = "numpy.atleast_1d, Box(low, high, (1,))"
            if key:
                wrapped = f"lambda x: {{**x, {key!r}: numpy.atleast_1d(x[{key!r}])}}, space"
            raise DatasetError(
                f"{where}: the observation space{f' of {key!r}' if key else ''}, {member}, is of one number without a "
                "dimension, which networks do not take. Declare the shape (1,), and wrap an env: "
                f"gymnasium.wrappers.TransformObservation(env, {wrapped}). The logged numbers may stay as they are."
            )


def space_refused(name: str, space: spaces.Space, where: str) -> DatasetError:
    """
    :param name: what lives in it, such as "actions" or "observations['camera']"
    """
    way = "SB3 takes no nested spaces: flatten it (gymnasium.wrappers.FlattenObservation)"
    if isinstance(space, (spaces.Text, spaces.Graph, spaces.Sequence)):
        way = "Leave it out, or make it numbers of a fixed shape (gymnasium.wrappers.FilterObservation, TransformObservation)"
    return DatasetError(
        f"{where}: {name} live in {space}; Box, Discrete, MultiDiscrete and MultiBinary spaces are supported, and for "
        f"observations a Dict of these, on one level. {way}."
    )


def way_on(kind: str, space: spaces.Space) -> str:
    """How data and an env of a space that no algorithm takes become ones that some do; a sentence, or nothing."""
    if kind == "action" and isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating):
        return (
            " Enumerate whole numbers as one action of a MultiDiscrete space: subtract low from the logged ones, and undo it "
            "in a gymnasium.wrappers.TransformAction around the env. If they are many, declare a float32 Box of the same "
            "bounds there that rounds, and log floats."
        )
    return ""
