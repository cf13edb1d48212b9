"""What a model holds, and which asks the model in turn."""

from __future__ import annotations

import weakref
from typing import Any


class Belonging:
    """
    A part of a model that does not keep it in memory: two that hold each other wait for one of Python's full collections,
    which come seldom in a process with so many objects, and the model's data wait with them. Whoever asks a part whose model
    is gone gets a ``ReferenceError``.

    :param model: which holds this part
    """

    model: Any

    def __init__(self, model: Any):
        self._belong_to(model)

    def _belong_to(self, model: Any) -> None:
        self._model, self.model = weakref.ref(model), weakref.proxy(model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "model"} | {"_model": self._model()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = state.pop("_model")
        vars(self).update(state)
        self._belong_to(model)
