"""The states of a model's networks and optimisers from a file, looked at before any of it is put in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from sb3_offline.files.optimizer_state import checked_state
from sb3_offline.files.refusal import FileRefused, Misfit, OtherParts
from sb3_offline.files.tensors import is_plain


def checked_parameters(model: OffPolicyAlgorithm, parameters: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """
    :param model: that the states are for; only parts that it names itself are looked up in it
    :param parameters: states by the parts' names, as ``get_parameters`` gives them
    :param whole: all parts of the model must be there
    :return: the same, the optimisers' states in the model's own way
    :raises FileRefused: (a ValueError) if a state does not fit its part; it is a :class:`Misfit` if the parts are others
    """
    known, checked = model._get_torch_save_params()[0], {}
    missing = [name for name in known if name not in parameters]
    if whole and missing:
        raise _other_parts(model, parameters, f"{', '.join(missing)} is missing")
    for name, state in parameters.items():
        if name not in known:
            raise _other_parts(model, parameters, f"Key {name} is an invalid object name")
        part = recursive_getattr(model, name)
        checked[name] = (
            checked_state(part, state, name) if isinstance(part, th.optim.Optimizer) else _network(part, state, name)
        )
    return checked


def _other_parts(model: OffPolicyAlgorithm, parameters: Mapping[str, Any], what: str) -> Misfit:
    policy = parameters.get("policy")
    kind = OtherParts if isinstance(policy, Mapping) and policy.keys() == model.policy.state_dict().keys() else Misfit
    return kind(f"{what}: {type(model).__name__} has {', '.join(model._get_torch_save_params()[0])}.")


def _network(part: th.nn.Module, state: Any, name: str) -> Any:
    """torch compares names and shapes itself, but takes a complex or lazy tensor for its real part, and any number."""
    if not isinstance(state, Mapping):
        raise FileRefused(f"{name} is no state of a network.")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, th.Tensor) or not is_plain(value) or value.is_complex():
            raise FileRefused(f"{name} is no state of a network: {key!r:.80} is no tensor of real numbers.")
    for key, _ in part.named_parameters():
        if key in state and not th.isfinite(state[key]).all():
            raise FileRefused(f"{name} holds NaN or infinite numbers in {key}: such a network gives no actions.")
    return state
