"""What a model is made of beside its hyperparameters: networks, tensors, their optimisers and targets, each declared once."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch as th


@dataclass
class Parts:
    """
    The declared attributes of a model, see :meth:`~sb3_offline.common.offline_algorithm.OfflineAlgorithm.register_state`.

    :param names: all of them; none is pickled
    :param state_dicts: paths of modules and optimisers that are saved
    :param tensors: names of tensors that are saved
    :param rates: of each optimiser, by its path, the option that holds its learning rate; None leaves it as it was made
    :param targets: of each target network, by its name, the network that it follows
    """

    names: list[str] = field(default_factory=list)
    state_dicts: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    rates: dict[str, str | None] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        model: Any,
        name: str,
        value: Any,
        optimizer: th.optim.Optimizer | None,
        rate: str | None,
        target: th.nn.Module | bool,
        saved: bool,
    ) -> None:
        """Set the attribute, and the optimiser's and the target's beside it."""
        setattr(model, name, value)
        self.names.append(name)
        if saved:
            (self.tensors if isinstance(value, th.Tensor) else self.state_dicts).append(name)
        if isinstance(value, th.optim.Optimizer):
            self.rates[name] = rate
        if optimizer is not None:
            self._add_optimizer(model, name, value, optimizer, rate)
        if target is not False:
            copied = frozen_copy(value) if target is True else target
            self.targets[f"{name}_target"] = name
            self.add(model, f"{name}_target", copied, None, None, False, saved)

    def _add_optimizer(self, model: Any, name: str, value: Any, optimizer: th.optim.Optimizer, rate: str | None) -> None:
        if isinstance(value, th.nn.Module):
            path, value.optimizer = f"{name}.optimizer", optimizer  # type: ignore[assignment]
        else:
            path = f"{name}_optimizer"
            setattr(model, path, optimizer)
            self.names.append(path)
        self.state_dicts.append(path)
        self.rates[path] = rate


def register_state(
    self: Any,
    name: str,
    value: Any,
    *,
    optimizer: th.optim.Optimizer | None = None,
    rate: str | None = None,
    target: th.nn.Module | bool = False,
    saved: bool = True,
) -> None:
    """
    Declare a part of the model, in ``_setup_model`` (or later, what is not saved): it becomes the attribute ``name``, is
    saved, loaded and moved as its kind is, and never pickled.

    :param value: A module or an optimiser, saved by its state dict; or a tensor. Anything that is not to be saved.
    :param optimizer: Of the value's parameters. It becomes ``value.optimizer`` of a module, ``NAME_optimizer`` of a
        tensor; it is saved, and counts among those that step in an update.
    :param rate: The option that holds the optimiser's learning rate, such as "qf_learning_rate"; None leaves the rate that
        it was made with.
    :param target: A network that follows this one by Polyak steps of ``tau``, kept and saved as ``NAME_target``; True
        makes a frozen copy.
    :param saved: False for what is made anew when the model is, or is part of another part, such as the policy.
    """
    self._parts.add(self, name, value, optimizer, rate, target, saved)


def frozen_copy(module: th.nn.Module) -> Any:
    """A network's target: equal, without an optimiser, and never in training mode."""
    copied: Any = copy.deepcopy(module).requires_grad_(False)
    copied.eval()
    if hasattr(copied, "optimizer"):
        del copied.optimizer
    return copied
