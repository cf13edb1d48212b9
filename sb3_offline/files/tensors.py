"""Tensors from a file: each must be what it says, and bring the bytes that it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch as th

from sb3_offline.files.refusal import FileRefused
from sb3_offline.files.structure import check_extent


def tensors_in(value: Any) -> Iterator[th.Tensor]:
    """All tensors in lists and dicts, wherever they stand."""
    if isinstance(value, th.Tensor):
        yield value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        yield from tensors_in(item)


def check_tensors(value: Any, name: str) -> None:
    """
    Strides of 0 show one number as any shape, and whoever copies it allocates that shape; sparse, quantised and lazy tensors
    hold something else than they show.

    :param value: what was read: tensors, and lists and dicts of them
    :raises FileRefused: if one is no dense tensor in memory that its bytes fill
    """
    check_extent(value, name)
    for tensor in tensors_in(value):
        if not is_plain(tensor):
            raise FileRefused(f"{name} holds a tensor of shape {tuple(tensor.shape)} that its bytes do not fill.")


def is_plain(tensor: th.Tensor) -> bool:
    """Whether a tensor is dense, really there, and no larger than its storage."""
    if type(tensor) not in (th.Tensor, th.nn.Parameter) or tensor.layout is not th.strided:
        return False
    if tensor.is_quantized or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return False
    end = tensor.storage_offset() + tensor.numel()
    return end * tensor.element_size() <= tensor.untyped_storage().nbytes() or tensor.numel() == 0


def same_kind(tensor: Any, wanted: th.Tensor) -> bool:
    """Whether a tensor from a file can take the place of another: plain, of its shape and dtype, its numbers in order."""
    return (
        isinstance(tensor, th.Tensor)
        and is_plain(tensor)
        and tensor.shape == wanted.shape
        and tensor.dtype == wanted.dtype
        and tensor.is_contiguous()
    )


def storage_bytes(value: Any) -> int:
    """Bytes behind all tensors; what several of them share counts once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_in(value)}
    return sum(storages.values())
