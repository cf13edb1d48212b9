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

from sb3_offline.files.refusal import FileRefused
from sb3_offline.files.tensors import check_tensors, storage_bytes

#: Unpacked size below which nothing is refused for its size, and above it the most that a byte on disk may unpack to.
MODEL_LIMITS = (64 * 2**20, 20)
DATA_LIMITS = (2**28, 200)

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError, KeyError)


class Budget:
    """
    What a file may take in memory, in all its parts together: an archive within an archive starts no new one.

    :param name: of the file, for the message
    :param on_disk: its bytes
    """

    def __init__(self, name: str, on_disk: int, limits: tuple[int, int] = MODEL_LIMITS) -> None:
        self.name, self.on_disk, self.limits = name, on_disk, limits
        self.taken = 0

    def take(self, declared: int) -> None:
        """
        :param declared: bytes that a part is about to take
        :raises FileRefused: if all parts so far are too much for the bytes on disk
        """
        self.taken += declared
        check_expansion(self.name, self.taken, self.on_disk, self.limits)


Limits = tuple[int, int] | Budget


def open_archive(stream: IO[bytes], name: str, limits: Limits = DATA_LIMITS) -> zipfile.ZipFile:
    """
    Open a zip file whose members are safe to read: plain names, no encryption, and sizes within bounds.

    :param name: what the messages call it
    :param limits: unpacked bytes that are always allowed, and the most for each byte on disk beyond that; or what is left of
        a file that this archive is a part of
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
    budget = limits if isinstance(limits, Budget) else Budget(name, size, limits)
    budget.take(sum(info.file_size for info in archive.infolist()))
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


def read_tensors(content: bytes, name: str, device: th.device | str = "cpu", limits: Limits = MODEL_LIMITS) -> Any:
    """
    What ``torch.save`` wrote, if it is made of tensors and plain values.

    :raises FileRefused: if it holds anything else, is damaged, or shows a small storage as a huge tensor
    """
    with open_archive(io.BytesIO(content), name, limits) as archive:
        read_members(archive, name)  # compares the checksums, which torch writes and does not look at
    try:
        found = th.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch's reader and unpickler raise any kind
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        what = f"names {foreign[1]}, which no tensor needs" if foreign else "is damaged, or holds more than tensors"
        raise FileRefused(f"{name} {what}. It was not loaded, and no code was run.") from error
    check_tensors(found, name)
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
        self.room = storage_bytes(tensors) + 50_000_000
        self.name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (th.empty, th.zeros, th.ones, th.full, th.rand, th.randn):
            size = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
            self.room -= math.prod(int(n) for n in size) + 20_000  # a layer takes time, however small
            if self.room < 0:
                raise FileRefused(f"{self.name} asks for networks much larger than its tensors: it is damaged, or means harm.")
        return func(*args, **kwargs)
