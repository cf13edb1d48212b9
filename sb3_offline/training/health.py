"""Numbers that stopped being numbers: found on the device, reported with their step and name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch as th
from stable_baselines3.common.save_util import recursive_getattr

CHECK_FREQ = 100  # gradient steps between looks at the device; a look waits for it


class TrainingDivergedError(FloatingPointError, ValueError):
    """A loss or a parameter became NaN or infinite. Also a ValueError, which is what a hyperparameter search prunes on."""


class Saved(Protocol):
    """A model of SB3's, which says what of it is saved."""

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]: ...


class LossWatch:
    """
    Counts on the device for how many steps each log term's running sum has been NaN or infinite. A sum never recovers, so
    the count tells the step at which it went wrong, though the count is read only now and then.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again, when the sums do."""
        self._names: list[str] = []
        self._bad_steps: th.Tensor | None = None

    def step(self, sums: Mapping[str, th.Tensor]) -> None:
        """
        Note the sums after one gradient step.

        :param sums: one number each; the same terms at every step, new ones last
        """
        joined = th.cat([total.reshape(1) for total in sums.values()])
        bad = (joined * 0 != 0).int()  # x * 0 is NaN for a NaN and for an infinite x
        if self._bad_steps is None or len(self._bad_steps) != len(bad):
            self._names, self._bad_steps = list(sums), bad
        else:
            self._bad_steps += bad

    def first_failure(self) -> tuple[str, int] | None:
        """The term that failed first, and for how many steps it has; None if all are finite. Waits for the device."""
        if self._bad_steps is None:
            return None
        counts = self._bad_steps.tolist()
        worst = max(range(len(counts)), key=counts.__getitem__)  # of equals the first: losses precede what is derived
        return (self._names[worst], counts[worst]) if counts[worst] else None


def non_finite_parameter(model: Saved) -> str | None:
    """
    The first number that would be saved and is NaN or infinite: of the networks, the fitted dynamics and what they were
    standardised by, the optimisers' moments, and trained tensors. None if all are finite.
    """
    names, variables = model._get_torch_save_params()
    tensors: dict[str, th.Tensor] = {}
    for name in names:
        part = recursive_getattr(model, name)
        if isinstance(part, th.optim.Optimizer):
            for index, state in enumerate(part.state.values()):
                moments = {key: value for key, value in state.items() if isinstance(value, th.Tensor)}
                tensors |= {f"{name}, parameter {index}, {key}": value for key, value in moments.items()}
        if name == "dynamics":
            tensors |= {f"dynamics.{key}": b for key, b in part.named_buffers() if not key.endswith("figures")}
        if isinstance(part, th.nn.Module):
            tensors |= {key if name == "policy" else f"{name}.{key}": value for key, value in part.named_parameters()}
    tensors |= {name: value for name in variables if isinstance(value := getattr(model, name), th.Tensor)}
    values = [value.detach() for value in tensors.values() if value.numel() and value.is_floating_point()]
    if not values:
        return None
    largest = th.stack([norm.float() for norm in th._foreach_norm(values, ord=float("inf"))])
    if bool(th.isfinite(largest).all()):
        return None
    return next(name for name, value in tensors.items() if not bool(th.isfinite(value).all()))
