"""In which precision matrix products are taken."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch as th

from sb3_offline.execution.fallback import announce

Precision = Literal["float32", "tf32", "bf16"]


@contextlib.contextmanager
def precision_scope(precision: Precision, device: th.device | str) -> Iterator[None]:
    """
    Matrix products in a lower precision; weights, optimiser and what is not a product stay float32.

    "bf16" is autocast: products take and return bfloat16, accumulated in float32, so cast (``.float()``) what must be exact
    to more than 8 bits. "tf32" sets CUDA's process-global switch and restores it. What this machine lacks is announced once,
    and float32 is used.

    :param precision: "float32" changes nothing.
    :param device: Where the products run.
    """
    device = th.device(device)
    precision = available_precision(precision, device.type)
    if precision == "bf16":
        # no cache of cast weights: it would outlive an optimiser's step within the scope
        with th.autocast(device.type, dtype=th.bfloat16, cache_enabled=False):
            yield
    elif precision == "tf32":
        with _switched(th.backends.cuda.matmul):
            yield
    else:
        yield


@functools.cache
def available_precision(precision: Precision, device_type: str) -> Precision:
    """``precision``, or "float32" with a warning where the device has no such products."""
    reason = None
    if precision == "bf16" and device_type == "cpu" and not _cpu_has_bf16():
        reason = "this processor, or this build of torch, has no bfloat16 products"
    elif precision == "bf16" and device_type == "cuda" and not th.cuda.is_bf16_supported(including_emulation=False):
        reason = "this GPU has no bfloat16 products"
    elif precision == "tf32" and device_type != "cuda":
        reason = "tf32 belongs to CUDA devices"
    elif precision == "tf32" and th.cuda.get_device_capability() < (8, 0):
        reason = "this GPU is older than tf32"
    if reason is None:
        return precision
    announce(f"precision={precision!r} falls back to float32: {reason}.")
    return "float32"


def _cpu_has_bf16() -> bool:
    return th.backends.mkldnn.is_available() and th.ops.mkldnn._is_mkldnn_bf16_supported()


@contextlib.contextmanager
def _switched(backend: Any) -> Iterator[None]:
    """tf32 in one of torch's process-global backends; the former state comes back, also after an exception."""
    name, value = ("fp32_precision", "tf32") if hasattr(backend, "fp32_precision") else ("allow_tf32", True)
    before = getattr(backend, name)
    setattr(backend, name, value)
    try:
        yield
    finally:
        setattr(backend, name, before)
