"""What ``policy_kwargs`` may hold, checked ahead of the networks, of which SB3 and torch would say what Python says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_offline.arguments import check_count, check_flag, check_number
from sb3_offline.common.signature import nearest
from sb3_offline.networks.policies import ActorPolicy

_CLASSES = {  # by an example of each
    "activation_fn": "torch.nn.ReLU",
    "optimizer_class": "torch.optim.Adam",
    "features_extractor_class": "stable_baselines3.common.torch_layers.FlattenExtractor",
}
_CHECKS: dict[Any, Callable[[str, Any], object]] = {"bool": check_flag, "int": check_count, "float": check_number}


def check_policy_kwargs(policy_kwargs: object) -> dict[str, Any]:
    """
    A copy, which SB3 writes into; layers as lists.

    :raises TypeError: for what is no mapping, where a class is needed for what is none, for layers that are no lists of whole
        numbers, or for options that the optimizer does not have
    :raises ValueError: for widths below 1, values that the optimizer does not take, or exploration
    """
    if policy_kwargs is None:
        return {}
    kwargs = dict(_check_mapping("policy_kwargs", policy_kwargs))
    if kwargs.get("use_sde"):
        raise ValueError("policy_kwargs: use_sde is a noise to explore by, and nothing is explored. Leave it out.")
    for name, example in _CLASSES.items():
        value = kwargs.get(name)
        if (value is not None and not callable(value)) or isinstance(value, nn.Module | th.optim.Optimizer):
            raise TypeError(f"policy_kwargs: {name} must be a class, such as {example}; got {value!r}.")
    for name in ("optimizer_kwargs", "features_extractor_kwargs"):
        if kwargs.get(name) is not None:
            _check_mapping(f"policy_kwargs: {name}", kwargs[name])
    if kwargs.get("net_arch") is not None:
        kwargs["net_arch"] = _check_layers(kwargs["net_arch"])
    if kwargs.get("optimizer_kwargs"):
        _try_optimizer(kwargs.get("optimizer_class") or th.optim.Adam, kwargs["optimizer_kwargs"])
    return kwargs


def whole_policy_kwargs(cls: Any, policy: str | type[BasePolicy], policy_kwargs: object) -> dict[str, Any]:
    """Those that are given, checked, beside the defaults that an algorithm's class has for our own policies."""
    own = isinstance(policy, str) or issubclass(policy, ActorPolicy) or policy in cls.policy_aliases.values()
    return {**(cls.default_policy_kwargs if own else {}), **check_policy_kwargs(policy_kwargs)}


def _check_mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a dict of options by their names, got {value!r}.")
    return value


def _check_layers(net_arch: object) -> Any:
    """Widths, or those of networks by their names: lists, which tuples become."""
    if isinstance(net_arch, Mapping):
        return {name: _check_layers(layers) for name, layers in net_arch.items()}
    if not isinstance(net_arch, list | tuple):
        raise TypeError(f"policy_kwargs: net_arch must be a list of the layers' widths, such as [256, 256]; got {net_arch!r}.")
    return [check_count("policy_kwargs: a layer of net_arch", width) for width in net_arch]


def _try_optimizer(make: Any, options: Mapping[str, Any]) -> None:
    """Have torch refuse options that do not fit, of one weight."""
    name = getattr(make, "__name__", repr(make))
    if "lr" in options:
        raise ValueError("policy_kwargs: optimizer_kwargs has no 'lr': the rate is the algorithm's learning_rate.")
    try:
        make([nn.Parameter(th.zeros(1))], lr=1e-3, **options)
    except (TypeError, ValueError, LookupError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"policy_kwargs: {name} does not take optimizer_kwargs={dict(options)!r}: {error}.") from error


@contextmanager
def named_policy_kwargs(model: BaseAlgorithm) -> Iterator[None]:
    """
    Where a policy is made: say which of its ``policy_kwargs`` it does not take, and what was probably meant.

    :raises TypeError: in place of Python's; and for an option of another kind than its annotation says
    :raises ValueError: for a number that is none of those that the option takes, or layers of networks that there are not
    """
    known = _policy_arguments(model.policy_class)
    for name, value in model.policy_kwargs.items():
        kind = known[name].annotation if name in known else None
        check = _CHECKS.get(getattr(kind, "__name__", kind))
        if check is not None:
            check(f"policy_kwargs: {name}", value)
    net_arch = model.policy_kwargs.get("net_arch")
    if isinstance(net_arch, Mapping) and net_arch.keys() != {"pi", "qf"}:
        raise ValueError(
            "policy_kwargs: net_arch has the actor's layers under 'pi' and the critics' under 'qf', such as "
            f"dict(pi=[256, 256], qf=[256, 256]); got {net_arch!r}."
        )
    try:
        yield
    except TypeError as error:
        match = re.search(r"(\w*)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if match is None:
            raise
        made, name = match.groups()
        if name in model.policy_kwargs:
            raise TypeError(
                f"policy_kwargs: {model.policy_class.__name__} takes no {name!r}.{nearest(name, known.keys())}"
            ) from error
        if name in (model.policy_kwargs.get("features_extractor_kwargs") or {}):
            raise TypeError(f"policy_kwargs: features_extractor_kwargs: {made} takes no {name!r}. Leave it out.") from error
        raise


def _policy_arguments(policy: type) -> dict[str, inspect.Parameter]:
    """What a policy's constructor takes by name, and what it hands on to its parents by ``**kwargs``."""
    known: dict[str, inspect.Parameter] = {}
    for base in policy.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            known = {**parameters, **known}
            hands_on = [name for name, each in parameters.items() if each.kind is inspect.Parameter.VAR_KEYWORD]
            for name in hands_on:
                known.pop(name)
            if not hands_on:
                break
    others = {"self", "observation_space", "action_space", "lr_schedule", "args"}
    return {name: parameter for name, parameter in known.items() if name not in others}
