"""What a user says of imagined transitions by a callable of one's own: where they end, or what they pay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th


class UserFunction:
    """
    A user's callable of (observations (B, o), actions (B, a), next observations (B, o)), in environment units.

    It is first tried with tensors on the model's device; if that raises, with numpy arrays, and what works is kept.

    :param function: the callable
    """

    role: ClassVar[str]  # what it is called in messages

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.takes_numpy: bool | None = None  # unknown before the first call
        self.name = f"The {self.role} callable {getattr(function, '__qualname__', function)!r}"

    def call(self, *batch: th.Tensor) -> Any:
        """
        :raises ValueError: it raises with tensors and with arrays (both of its tracebacks are shown)
        """
        return self._first_call(batch) if self.takes_numpy is None else self._call(batch)

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

    def _first_call(self, batch: tuple[th.Tensor, ...]) -> Any:
        self.takes_numpy = False
        try:
            return self._call(batch)
        except Exception:
            self.takes_numpy = True
            try:
                return self._call(batch)
            except Exception as error:
                self.takes_numpy = None
                shapes = ", ".join(str(tuple(array.shape)) for array in batch)
                raise ValueError(
                    f"{self.name} raised {type(error).__name__}: {error}. It is called with (observations, actions, "
                    f"next_observations) of shapes {shapes}, as tensors and then as numpy arrays."
                ) from error

    def _call(self, batch: tuple[th.Tensor, ...]) -> Any:
        return self.function(*(array.cpu().numpy() for array in batch)) if self.takes_numpy else self.function(*batch)
