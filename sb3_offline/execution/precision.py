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

    "float32" keeps all its bits; on a CPU oneDNN takes the products where it is faster (:func:`_onednn_is_faster`). "bf16" is
    autocast: products take and return bfloat16, accumulated in float32, so cast (``.float()``) what must be exact
    to more than 8 bits. "tf32" sets CUDA's process-global switch and restores it, as is done with oneDNN's. What this machine
    lacks is announced once, and float32 is used.

    :param device: Where the products run.
    """
    device = th.device(device)
    precision = available_precision(precision, device.type)
    with contextlib.ExitStack() as scope:
        if precision == "bf16":
            # no cache of cast weights: it would outlive an optimiser's step within the scope
            scope.enter_context(th.autocast(device.type, dtype=th.bfloat16, cache_enabled=False))
        elif precision == "tf32":
            scope.enter_context(_switched(th.backends.cuda.matmul, "tf32"))
        if device.type == "cpu" and _onednn_is_faster():
            scope.enter_context(_switched(_onednn(), "bf16"))
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


def _onednn() -> Any:
    """The switch of its products; None in versions of torch that have none."""
    return getattr(th.backends.mkldnn, "matmul", None)


@functools.cache
def _onednn_is_faster() -> bool:
    """
    Whether float32 products are to be oneDNN's in place of MKL's, which leave AVX-512 alone on other processors than Intel's.

    torch hands float32 over to oneDNN only if it may round to bf16. That it does on processors with AMX alone; on others it
    has no faster product than that of float32. So it is asked whether it rounds.
    """
    if _onednn() is None or th.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    fine = th.full((256, 256), 1.0 + 2.0**-12)  # 1 in bf16
    with _switched(_onednn(), "bf16"):
        return th.equal(fine @ th.eye(256), fine)


@contextlib.contextmanager
def _switched(backend: Any, precision: str) -> Iterator[None]:
    """Another precision in one of torch's process-global backends; the former comes back, also after an exception."""
    name, value = ("fp32_precision", precision) if hasattr(backend, "fp32_precision") else ("allow_tf32", True)
    before = getattr(backend, name)
    setattr(backend, name, value)
    try:
        yield
    finally:
        setattr(backend, name, before)
