"""
The state of an optimiser from a file, compared with what the optimiser itself would hold.

Fused kernels walk the raw memory of parameter, gradient and moments side by side, and compare no shapes: a state of another
shape, or one that shows more numbers than its storage has, is written beyond its end.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch as th

from sb3_offline.files.refusal import FileRefused, Misfit
from sb3_offline.files.tensors import same_kind

_WAYS = ("fused", "foreach", "capturable", "differentiable")  # of execution: the reader's own


def checked_state(optimizer: th.optim.Optimizer, state: Any, name: str) -> dict[str, Any]:
    """
    A copy of a state for ``optimizer.load_state_dict``: the optimiser's own groups and ways, the file's numbers.

    :param optimizer: for the parameters that the state belongs to
    :param state: what a file holds
    :param name: of the file and the optimiser, for the message
    :raises FileRefused: if a moment is not of its parameter's shape, dtype and layout, or does not fill its storage, or if
        groups, parameters or numbers are not those of such an optimiser
    """
    if not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
        raise FileRefused(f"{name} is no state of an optimiser.")
    reference = _reference(optimizer)
    own = reference.state_dict()
    groups = _groups(state["param_groups"], own["param_groups"], name)
    for group, present in zip(groups, optimizer.param_groups, strict=True):
        group.update({way: present[way] for way in _WAYS if way in present})
        if isinstance(present["lr"], th.Tensor):
            group["lr"] = th.full_like(present["lr"], group["lr"])
    parameters = [parameter for group in reference.param_groups for parameter in group["params"]]
    held = state["state"]
    if not isinstance(held, dict) or not all(type(index) is int and 0 <= index < len(parameters) for index in held):
        raise FileRefused(f"{name} holds moments of parameters that there are not: it is another optimiser's.")
    entries = {index: _entry(entry, own["state"].get(index), f"{name}, parameter {index}") for index, entry in held.items()}
    return {"state": entries, "param_groups": groups}


def _reference(optimizer: th.optim.Optimizer) -> th.optim.Optimizer:
    """The same optimiser on parameters of its own, after one step: it has everything that such a state can hold."""
    reference = copy.deepcopy(optimizer)
    reference.state.clear()
    for group in reference.param_groups:
        group.update({way: False if way in ("capturable", "differentiable") else None for way in _WAYS if way in group})
        group["lr"] = float(group["lr"])
        for parameter in group["params"]:
            parameter.grad = th.zeros_like(parameter)
    reference.step()
    return reference


def _groups(found: Any, own: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    if not isinstance(found, list) or len(found) != len(own):
        raise Misfit(f"{name} has other parameter groups than the optimiser's {len(own)}.")
    groups = []
    for theirs, mine in zip(found, own, strict=True):
        if not isinstance(theirs, dict) or theirs.get("params") != mine["params"]:
            raise Misfit(f"{name} belongs to another number of parameters than the optimiser's {len(mine['params'])}.")
        group = dict(mine)
        for key, value in mine.items():
            if key in ("params", "param_names", *_WAYS) or key not in theirs:
                continue
            group[key] = _setting(theirs[key], value, f"{name}: {key}")
        groups.append(group)
    return groups


def _setting(found: Any, mine: Any, name: str) -> Any:
    """A number, or a tuple of numbers, where the optimiser has one; what is no number must be the optimiser's own."""
    if isinstance(found, th.Tensor) and found.numel() == 1 and not found.is_meta:
        found = found.item()
    if isinstance(mine, (tuple, list)) and isinstance(found, (tuple, list)) and len(mine) == len(found):
        return type(mine)(_setting(item, of, name) for item, of in zip(found, mine, strict=True))
    if mine is None or isinstance(mine, (bool, str)):
        fits = found is None or found == mine
    elif isinstance(found, (int, float)) and not isinstance(found, bool):
        fits = 0 <= found < math.inf or found == mine  # a few settings are negative
    else:
        fits = False
    if fits:
        return mine if found is None else found
    raise FileRefused(f"{name} is {found!r:.80}, where such an optimiser has {mine!r:.80}.")


def _entry(found: Any, own: dict[str, Any] | None, name: str) -> dict[str, Any]:
    if not isinstance(found, dict) or own is None or not found.keys() <= own.keys():
        raise FileRefused(f"{name}: its state is none of such an optimiser.")
    if found and found.keys() != own.keys():
        raise FileRefused(f"{name}: {', '.join(sorted(own.keys() - found.keys()))} is missing.")
    return {key: _moment(found[key], mine, f"{name}: {key}") for key, mine in own.items() if key in found}


def _moment(found: Any, mine: Any, name: str) -> Any:
    if not isinstance(mine, th.Tensor):
        return _setting(found, mine, name)
    if mine.ndim == 0:  # a count of steps
        number = found.item() if isinstance(found, th.Tensor) and found.numel() == 1 and not found.is_meta else found
        if isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number) and number >= 0:
            return th.tensor(number, dtype=mine.dtype)
        raise FileRefused(f"{name} is {found!r:.80}, not a count of steps.")
    if not same_kind(found, mine):
        shape = f"a {found.dtype} of shape {tuple(found.shape)}" if isinstance(found, th.Tensor) else type(found).__name__
        raise FileRefused(
            f"{name} is {shape}, not a dense {mine.dtype} of shape {tuple(mine.shape)}, as its parameter: it is damaged, or "
            "another optimiser's."
        )
    return found.detach().clone()  # its own storage, shared with no other
