"""Callbacks that hold callbacks."""

from __future__ import annotations

from collections.abc import Iterator

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback


def walk(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and those inside it."""
    yield callback
    inner: list[BaseCallback | None] = [*callback.callbacks] if isinstance(callback, CallbackList) else []
    if isinstance(callback, EventCallback):
        inner = [callback.callback, getattr(callback, "callback_on_new_best", None)]
    for child in inner:
        if child is not None:
            yield from walk(child)
