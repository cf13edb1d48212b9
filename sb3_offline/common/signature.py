"""Constructor arguments shared along a class hierarchy, written once where they belong."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import os
import warnings
from collections.abc import Mapping, Set
from numbers import Real
from typing import Any

import torch as th
from torch import nn

from sb3_offline.arguments import OptionError, check_count

#: Arguments of the constructor that say where a model stands, not how it learns.
NO_OPTIONS = frozenset({"policy", "env", "dataset", "device", "verbose", "tensorboard_log"})

# What SB3's SAC and DQN take and offline training has no use for
ONLINE_ONLY = {
    "buffer_size": "the buffer holds exactly the dataset",
    "learning_starts": "learning starts at once, on logged data",
    "train_freq": "one timestep is one gradient step",
    "gradient_steps": "one timestep is one gradient step",
    "action_noise": "nothing is explored",
    "replay_buffer_class": "the dataset is the buffer, and hindsight is dataset=relabel_goals(...)",
    "replay_buffer_kwargs": "the dataset is the buffer, and hindsight is dataset=relabel_goals(...)",
    "optimize_memory_usage": "the dataset is the buffer",
    "n_steps": "n-step returns are off-policy on logged data",
    "use_sde": "nothing is explored",
    "sde_sample_freq": "nothing is explored",
    "use_sde_at_warmup": "nothing is explored",
    "exploration_fraction": "nothing is explored",
    "exploration_initial_eps": "nothing is explored",
    "exploration_final_eps": "nothing is explored",
    "n_envs": "there is no data collection to run in parallel",
}


def merge_signature(cls: type) -> inspect.Signature:
    """
    The signature a user should see: a class's own arguments first, then those its ``**kwargs`` hand to its parents, with the
    defaults of its ``recipe``, but for those of its parents that it leaves out (``left_out``), and private ones.
    """
    parameters: dict[str, inspect.Parameter] = {}
    defaults: dict[str, Any] = {}  # of the recipes so far
    left_out: set[str] = {"self"}  # by the classes so far
    for base in cls.__mro__:
        if base.__module__.startswith("stable_baselines3"):
            break  # our root lists what it takes of SB3's own arguments
        own = inspect.signature(vars(base)["__init__"]).parameters.values() if "__init__" in vars(base) else ()
        for parameter in own:
            named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            if named and parameter.name not in left_out and not parameter.name.startswith("_"):
                default = defaults.get(parameter.name, parameter.default)
                parameters.setdefault(parameter.name, parameter.replace(default=default))
        defaults = {**vars(base).get("recipe", {}), **defaults}
        left_out |= vars(base).get("left_out", {}).keys()
    ordered = sorted(parameters.values(), key=lambda p: p.kind is inspect.Parameter.KEYWORD_ONLY)
    return inspect.Signature(ordered)


def arguments_of_sb3(cls: type) -> set[str]:
    """What the constructors of a class's parents in Stable-Baselines3 take."""
    parents = [base for base in cls.__mro__ if base.__module__.startswith("stable_baselines3") and "__init__" in vars(base)]
    return {name for base in parents for name in inspect.signature(vars(base)["__init__"]).parameters}


def follow_recipe(cls: Any) -> None:
    """
    Let the constructor hand its parents what the class's own ``recipe`` says, where nothing is given.

    :raises TypeError: for a recipe of what is no option
    """
    recipe, own = vars(cls).get("recipe", {}), vars(cls).get("__init__")
    if not recipe:
        return
    check_arguments(cls, recipe)

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        (super(cls, self).__init__ if own is None else own.__get__(self))(*args, **{**recipe, **kwargs})

    cls.__init__ = construct if own is None else functools.wraps(own)(construct)


def left_out_of(cls: type) -> dict[str, str]:
    """What a class and its parents leave out of the options of their parents, and why."""
    return {name: why for base in reversed(cls.__mro__) for name, why in vars(base).get("left_out", {}).items()}


def check_arguments(cls: type, kwargs: dict[str, Any]) -> None:
    """
    Refuse what no constructor along the hierarchy takes, and say what was probably meant.

    :raises TypeError: for an unknown argument, one that the class leaves out, or one that only makes sense online.
    """
    known, reasons = set(inspect.signature(cls).parameters), {**ONLINE_ONLY, **left_out_of(cls)}
    for name in kwargs:
        if name in known or name.startswith("_"):
            continue
        if name in reasons:
            raise TypeError(f"{cls.__name__} takes no {name!r}: {reasons[name]}. Leave it out.")
        raise TypeError(f"{cls.__name__} takes no argument {name!r}.{nearest(name, known)}")


def upgraded(cls: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """
    A file's attributes, by name, as this version has them.

    :raises OptionError: (a ValueError) for an option that there was, and is no more
    """
    for name, neutral in cls.without_effect.items():
        value = attributes.get(name, neutral)
        if value != neutral:
            raise OptionError(
                f"it learned with {name}={value!r}, which {cls.__name__} does not have: {left_out_of(cls)[name]}. To go on "
                f"without it, give custom_objects={{{name!r}: {neutral!r}}}."
            )
    return dict(attributes)


def check_device(device: object) -> Any:
    """
    :return: as given
    :raises ValueError: for what names no device of PyTorch's
    """
    try:
        if device != "auto":
            th.device(device)  # type: ignore[call-overload]
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device must be "auto", "cpu", "cuda", "cuda:1" or a torch.device; got {device!r}.') from error
    return device


def check_verbose(verbose: object) -> int:
    """
    :return: the number, True as 1
    :raises TypeError: if it is no whole number
    :raises ValueError: if it is negative
    """
    return check_count("verbose", int(verbose) if isinstance(verbose, bool) else verbose, least=0)


def check_log_folder(tensorboard_log: object) -> str | None:
    """
    :return: the folder's path
    :raises TypeError: for what is neither a path nor None
    """
    path = os.fspath(tensorboard_log) if isinstance(tensorboard_log, str | os.PathLike) else tensorboard_log
    if not isinstance(path, str | None):
        raise TypeError(f"tensorboard_log must be a folder's path, or None; got {tensorboard_log!r}.")
    return path


def check_options(model: Any) -> None:
    """
    The constructor's own checks, of what the options are now: by a file, ``load``'s arguments, or an assignment. What was
    written as a mapping, a kind's name or a whole number becomes the option.

    :raises OptionError: (a ValueError) for an option out of range
    :raises TypeError: for one of another kind
    """
    model.verbose, model.tensorboard_log = check_verbose(model.verbose), check_log_folder(model.tensorboard_log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the constructor has given them
        try:
            made = type(model)(model.policy_class, device=model.device, _init_setup_model=False, **model.given_options())
        except ValueError as error:
            raise OptionError(str(error)) from error
    options = inspect.signature(type(model)).parameters  # other numbers are counts
    for name, value in vars(made).items():
        mine = getattr(model, name, None)
        written = name in options and isinstance(mine, str | Mapping | Real) and type(mine) is not type(value)
        if dataclasses.is_dataclass(value) or (written and isinstance(value, int | float)):
            setattr(model, name, value)
    model._stats_window_size = made._stats_window_size  # SB3 keeps it by another name than the option's


def given_options(model: Any) -> dict[str, Any]:
    """The constructor's options as they are now."""
    names = inspect.signature(type(model)).parameters.keys() - NO_OPTIONS
    options = {name: value for name, value in vars(model).items() if name in names and not isinstance(value, nn.Module)}
    options.setdefault("stats_window_size", model._stats_window_size)
    if options.get("execution") == "cuda_graph":  # of a machine that has one: it falls back where there is none
        del options["execution"]
    for name, other in model.superseded.items():
        if options.get(other) is not None:
            options.pop(name, None)
    return options


def nearest(name: str, known: Set[str]) -> str:
    """A sentence of the known name that was probably meant, or of all."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else f" It takes: {', '.join(sorted(known))}."
