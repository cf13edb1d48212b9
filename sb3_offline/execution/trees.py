"""Tensors within tuples, dicts and dataclasses: what a batch, its noise, and a part of a model are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch as th


def tensors_in(tree: Any) -> Iterator[th.Tensor]:
    """All tensors, in a fixed order."""
    if isinstance(tree, th.Tensor):
        yield tree
    for child in _children(tree):
        yield from tensors_in(child)


def rest_of(tree: Any) -> Any:
    """All but the tensors, to be compared."""
    if isinstance(tree, th.Tensor):
        return th.Tensor
    children = _children(tree)
    keys = [*tree] if isinstance(tree, Mapping) else None
    return (type(tree), keys, [rest_of(child) for child in children]) if children else tree


def rebuilt(tree: Any, tensors: Iterator[th.Tensor]) -> Any:
    """The same with other tensors, taken in the order of :func:`tensors_in`."""
    if isinstance(tree, th.Tensor):
        return next(tensors)
    if next(tensors_in(tree), None) is None:
        return tree
    children = [rebuilt(child, tensors) for child in _children(tree)]
    if isinstance(tree, Mapping):
        return dict(zip(tree, children, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = (field.name for field in dataclasses.fields(tree))
        return type(tree)(**dict(zip(names, children, strict=True)))
    return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)


def _children(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        return [*tree.values()]
    if isinstance(tree, (tuple, list)):
        return [*tree]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, field.name) for field in dataclasses.fields(tree)]
    return []
