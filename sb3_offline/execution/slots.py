"""Where a model keeps its tensors: places that can hold another tensor for a while."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_offline.execution.below import NotStackable
from sb3_offline.execution.trees import rest_of, tensors_in


class Slot(NamedTuple):
    """``namespace[key]`` is a tensor, or a tree of them (:mod:`sb3_offline.execution.trees`); ``path`` says where."""

    namespace: MutableMapping[str, Any]
    key: str
    path: str

    @property
    def tensors(self) -> list[th.Tensor]:
        return [*tensors_in(self.namespace[self.key])]


def slots_of(*roots: Any) -> list[Slot]:
    """
    The places of all tensors in the attributes of some objects, within modules and trees; each place once. Layers of equal
    networks that belong together, such as twin critics, are neighbours.
    """
    seen: set[int] = set()
    found: list[Slot] = []
    for root in roots:
        for name, value in vars(root).items():
            if isinstance(value, nn.Module):
                found += _of_module(value, name, seen)
            elif next(tensors_in(value), None) is not None:
                found.append(Slot(vars(root), name, name))
    return found


def _of_module(module: nn.Module, path: str, seen: set[int]) -> list[Slot]:
    if id(module) in seen:
        return []
    seen.add(id(module))
    namespaces: Iterator[Any] = iter((module._parameters, module._buffers, vars(module)))
    own = [
        Slot(namespace, name, f"{path}.{name}")
        for namespace in namespaces
        for name, value in namespace.items()
        if isinstance(value, th.Tensor)
    ]
    kinds: dict[str, list[list[Slot]]] = {}
    for name, child in module._modules.items():
        if child is not None:  # networks that are evaluated together are sequences of layers
            kind = str(child) if isinstance(child, nn.Sequential) else name
            kinds.setdefault(kind, []).append(_of_module(child, f"{path}.{name}", seen))
    for equal in kinds.values():
        own += [slot for layer in zip(*equal, strict=True) for slot in layer]
    return own


def check_alike(members: Sequence[Sequence[Slot]]) -> None:
    """
    :param members: the places of each
    :raises NotStackable: if they do not keep the same kinds of tensors in the same places
    """
    first = members[0]
    for other in members[1:]:
        if [slot.path for slot in other] != [slot.path for slot in first]:
            raise NotStackable("the members are not made of the same parts")
        for mine, yours in zip(first, other, strict=True):
            if rest_of(mine.namespace[mine.key]) != rest_of(yours.namespace[yours.key]):
                raise NotStackable(f"{mine.path} is not the same in all members")
            for one, two in zip(mine.tensors, yours.tensors, strict=True):
                if (one.shape, one.dtype, one.device) != (two.shape, two.dtype, two.device):
                    raise NotStackable(f"{mine.path} has not the same shape in all members")
