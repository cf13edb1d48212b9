"""Zip archives and tensors from elsewhere: what they may hold is checked before any of it is read."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from pathlib import PurePosixPath, PureWindowsPath
from typing import IO, Any

import torch as th
from torch.overrides import TorchFunctionMode

#: Unpacked size below which nothing is refused for its size, and above it the most that a byte on disk may unpack to.
MODEL_LIMITS = (64 * 2**20, 20)
DATA_LIMITS = (2**30, 200)

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError, KeyError)


class FileRefused(ValueError):
    """A file that is not read, because it is damaged or could do harm: the message says which, and what to do."""


def open_archive(stream: IO[bytes], name: str, limits: tuple[int, int] = DATA_LIMITS) -> zipfile.ZipFile:
    """
    Open a zip file whose members are safe to read: plain names, no encryption, and sizes within bounds.

    :param name: what the messages call it
    :param limits: unpacked bytes that are always allowed, and the most for each byte on disk beyond that
    :raises FileRefused: otherwise
    """
    try:
        archive = zipfile.ZipFile(stream)
    except _DAMAGE as error:
        raise FileRefused(f"{name} is no zip archive, or it is damaged or cut short ({error}).") from error
    seen: set[str] = set()
    for info in archive.infolist():
        if info.filename in seen:
            raise FileRefused(f"{name} holds {info.filename!r} twice.")
        seen.add(info.filename)
        if _leaves_folder(info.orig_filename):
            raise FileRefused(f"{name} names a member {info.orig_filename!r}, which would lie outside of the archive.")
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileRefused(f"{name}: {info.filename!r} is encrypted, packed by an unusual method, or damaged.")
    packed, size = sum(info.compress_size for info in archive.infolist()), stream.seek(0, io.SEEK_END)
    if packed > size:
        raise FileRefused(f"{name}: its members overlap, as those of a zip bomb do, or it is damaged.")
    check_expansion(name, sum(info.file_size for info in archive.infolist()), size, limits)
    return archive


def _leaves_folder(name: str) -> bool:
    windows = PureWindowsPath(name)  # sees both kinds of slash
    return bool(PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts or "\0" in name or not name)


def check_expansion(name: str, unpacked: int, on_disk: int, limits: tuple[int, int] = DATA_LIMITS) -> None:
    """
    :param unpacked: bytes in memory
    :raises FileRefused: if that is too much for the bytes on disk
    """
    always, ratio = limits
    if unpacked > max(always, ratio * on_disk):
        raise FileRefused(
            f"{name} would unpack {on_disk:,} bytes into {unpacked:,}, as a zip bomb does. If it is what it should be, write "
            "it again without compression."
        )


def read_members(archive: zipfile.ZipFile, name: str) -> dict[str, bytes]:
    """
    All members of an archive that :func:`open_archive` has opened, each compared with its checksum.

    :raises FileRefused: if one is damaged
    """
    members = {}
    for info in archive.infolist():
        try:
            members[info.filename] = archive.read(info)
        except _DAMAGE as error:
            raise FileRefused(f"{name} is damaged ({error}). Copy it again.") from error
    return members


def read_tensors(content: bytes, name: str, device: th.device | str = "cpu", limits: tuple[int, int] = MODEL_LIMITS) -> Any:
    """
    What ``torch.save`` wrote, if it is made of tensors and plain values.

    :raises FileRefused: if it holds anything else, is damaged, or shows a small storage as a huge tensor
    """
    open_archive(io.BytesIO(content), name, limits).close()
    try:
        found = th.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch's reader and unpickler raise any kind
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        what = f"names {foreign[1]}, which no tensor needs" if foreign else "is damaged, or holds more than tensors"
        raise FileRefused(f"{name} {what}. It was not loaded, and no code was run.") from error
    _check_storages(found, name)
    return found


class BoundedNetworks(TorchFunctionMode):
    """
    Inside, networks may not take much more room than the tensors that they are to be filled with: hyperparameters name the
    sizes, and a file of a few bytes could ask for any.

    :param tensors: what :func:`read_tensors` found
    :param name: of the file, for the message
    """

    def __init__(self, tensors: Any, name: str):
        super().__init__()
        self.room = 4 * _count(tensors) + 50_000_000
        self.name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (th.empty, th.zeros, th.ones, th.full, th.rand, th.randn):
            size = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
            self.room -= math.prod(int(n) for n in size) + 20_000  # a layer takes time, however small
            if self.room < 0:
                raise FileRefused(f"{self.name} asks for networks much larger than its tensors: it is damaged, or means harm.")
        return func(*args, **kwargs)


def _count(value: Any) -> int:
    if isinstance(value, th.Tensor):
        return value.numel()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_count, items))


def _check_storages(value: Any, name: str) -> None:
    """Strides of 0 show one number as any shape; whoever copies it allocates that shape."""
    if isinstance(value, th.Tensor):
        if value.is_sparse or value.is_quantized or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FileRefused(f"{name} holds a tensor of shape {tuple(value.shape)} that its bytes do not fill.")
    elif isinstance(value, dict):
        for item in value.values():
            _check_storages(item, name)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_storages(item, name)
