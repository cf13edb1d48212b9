"""What a user says of imagined transitions by a callable of one's own: where they end, or what they pay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th


class UserFunction:
    """
    A user's callable of (observations (B, o), actions (B, a), next observations (B, o)), in environment units.

    It is first tried with tensors on the model's device; if that raises, or returns what cannot be, with numpy arrays,
    and what works is kept.

    :param function: the callable
    """

    role: ClassVar[str]  # what it is called in messages

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.takes_numpy: bool | None = None  # unknown before the first call
        self.name = f"The {self.role} callable {getattr(function, '__qualname__', function)!r}"

    def read(self, result: Any, next_observations: th.Tensor) -> th.Tensor:
        """
        What the callable returned, checked: (B,) on the model's device.

        :raises ValueError: for numbers or a shape that cannot be
        :raises TypeError: for another kind of result
        """
        raise NotImplementedError

    def __call__(self, observations: th.Tensor, actions: th.Tensor, next_observations: th.Tensor) -> th.Tensor:
        """
        :raises ValueError: it raises with tensors and with arrays (both of its tracebacks are shown)
        """
        batch = (observations, actions, next_observations)
        return self._first_call(batch) if self.takes_numpy is None else self.read(self._call(batch), next_observations)

    def column(self, result: th.Tensor | np.ndarray, next_observations: th.Tensor) -> th.Tensor:
        """
        :return: the result on the model's device, (B,)
        :raises ValueError: for another shape than (B,) or (B, 1)
        """
        n_rows = len(next_observations)
        if tuple(result.shape) not in ((n_rows,), (n_rows, 1)):
            raise ValueError(
                f"{self.name} must return shape ({n_rows},) for {n_rows} rows, but returned {tuple(result.shape)}."
            )
        return th.as_tensor(result, device=next_observations.device).reshape(n_rows)

    def _first_call(self, batch: tuple[th.Tensor, ...]) -> th.Tensor:
        refused: list[Exception] = []
        raised: Exception | None = None
        for self.takes_numpy in (False, True):
            try:
                result = self._call(batch)
            except Exception as error:
                raised = error
                continue
            try:
                return self.read(result, batch[-1])
            except (TypeError, ValueError) as error:  # NumPy's functions make of tensors what is no bool
                refused.append(error)
        self.takes_numpy = None
        if refused:
            raise refused[0]
        shapes = ", ".join(str(tuple(array.shape)) for array in batch)
        raise ValueError(
            f"{self.name} raised {type(raised).__name__}: {raised}. It is called with (observations, actions, "
            f"next_observations) of shapes {shapes}, as tensors and then as numpy arrays."
        ) from raised

    def _call(self, batch: tuple[th.Tensor, ...]) -> Any:
        return self.function(*(array.cpu().numpy() for array in batch)) if self.takes_numpy else self.function(*batch)
