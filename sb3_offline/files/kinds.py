"""What a file is that is not what its name says: told by its first bytes, so that the refusal names the cause."""

from __future__ import annotations

from pathlib import Path

_KINDS = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself: `git lfs pull` fetches that"),
    (b"<!doctype html", "it is a web page, as a download without its login leaves one: download the file itself"),
    (b"<html", "it is a web page, as a download without its login leaves one: download the file itself"),
    (b"\x89hdf\r\n\x1a\n", "it is an HDF5 file: give it a name that ends in .hdf5"),
    (b"pk\x03\x04", "it is a zip archive, as saved models are: unpack it, or end its name in .npz if numpy.savez wrote it"),
    (b"\x1f\x8b", "it is compressed by gzip: unpack it (gunzip)"),
    (b"\xfd7zxz", "it is compressed by xz: unpack it (unxz)"),
    (b"(\xb5/\xfd", "it is compressed by zstd: unpack it (unzstd)"),
    (b"par1", "it is a Parquet file: give it a name that ends in .parquet"),
    (b"arrow1", "it is an Arrow file: give it a name that ends in .arrow"),
    (b"fea1", "it is a Feather file of version 1: write it anew with a current pandas or pyarrow"),
    (
        b"\xff\xff\xff\xff",
        "it is a stream of Arrow: pyarrow.feather.write_feather(pyarrow.ipc.open_stream(it).read_all(), ...)",
    ),
    (b"\x93numpy", "it is a single array of numpy.save: save all arrays of the data together, by numpy.savez_compressed"),
    (b"\x80", "it is a pickle, which is not read: unpickling runs code. Save the arrays by numpy.savez_compressed"),
)
_LONGEST = max(len(start) for start, _ in _KINDS)


def true_kind(path: Path, *own: bytes) -> str | None:
    """
    The sentence that says what a file really is; None if that is not known, or it begins as its name says.

    :param own: how files of that name begin
    """
    try:
        with path.open("rb") as file:
            begin = file.read(_LONGEST)
    except OSError:
        return None
    if not begin:
        return "it is empty: whatever wrote, copied or downloaded it did not finish"
    if begin.startswith(own or (b"\0" * _LONGEST,)):
        return None
    return next((kind for start, kind in _KINDS if begin.lower().startswith(start)), None)
