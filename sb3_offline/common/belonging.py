"""What a model holds, and which asks the model in turn."""

from __future__ import annotations

import weakref
from typing import Any


class Belonging:
    """
    A part of a model that does not keep it in memory: two that hold each other wait for one of Python's full collections,
    which come seldom in a process with so many objects, and the model's data wait with them.

    :param model: which holds this part
    """

    def __init__(self, model: Any):
        self._model = weakref.ref(model)

    @property
    def model(self) -> Any:
        """Whose part it is."""
        return self._model()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_model": weakref.ref(state["_model"])})
