"""Files that are whole or absent, and that tell when they were altered."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch as th

from sb3_offline.files.archives import FileRefused
from sb3_offline.files.atomic import draft_of, named_target, write_atomically
from sb3_offline.files.checksum import MAGIC, DamagedFileError, read_checked, read_label, write_checked


def write_state(path: Path, content: dict[str, Any], label: str = "") -> None:
    write_atomically(path, lambda file: write_checked(file, content, label))


def test_written_whole_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write_atomically(path, lambda file: file.write(b"one"))
    write_atomically(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """The system itself refuses to let files grow beyond 4 kB."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"file could not be written \(File too large\); what was there before") as error:
            write_atomically(path, lambda file: file.write(bytes(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failing_sync_counts_as_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(tmp_path / "file", lambda file: file.write(b"new"))
    assert list(tmp_path.iterdir()) == []


def test_the_outermost_target_is_named_with_the_systems_reason() -> None:
    said = pytest.raises(OSError, match=r"^outer could not be written \(No space left on device\); what")
    with said as error, named_target("outer"), named_target("middle"), named_target("inner"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.errno == errno.ENOSPC


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    with pytest.raises(OSError, match="no folder/file could not be written"):
        write_atomically(tmp_path / "no folder" / "file", lambda file: file.write(b"new"))


@pytest.mark.parametrize("writer", ["write_atomically", "draft_of"])
def test_errors_say_what_to_do(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path) -> None:
        if writer == "write_atomically":
            write_atomically(path, lambda file: file.write(b"new"))
        else:
            with draft_of(path) as draft:
                draft.write_bytes(b"new")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(IsADirectoryError, match=rf"^{tmp_path}/folder could not .*; it is a folder: name a file\.$"):
        write(tmp_path / "folder")
    with pytest.raises(NotADirectoryError, match=r"^.*file/a/b could not .*; a part of the path is a file: take another"):
        write(tmp_path / "file" / "a" / "b")
    write(tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == b"new"
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError, match=r"^.*file could not .*; you may not write there: take another path\.$") as error:
        write(tmp_path / "file")
    assert error.value.errno == errno.EACCES
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "file", "folder", "inner", "new"]


def test_content_comes_back(tmp_path: Path) -> None:
    content = {"tensor": th.arange(3), "list": [1, 2.5, None, "text"], "nested": {"empty": th.empty(0)}}
    write_state(tmp_path / "file", content, "a label")
    assert read_label(tmp_path / "file") == "a label"
    back = read_checked(tmp_path / "file")
    assert th.equal(back["tensor"], th.arange(3))
    assert back["list"] == content["list"]
    assert back["nested"]["empty"].shape == (0,)


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_state(path, {"tensor": th.arange(50)}, "label")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="file is"):
            read_checked(path)
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match="file is"):
            read_checked(path)


def test_reading_runs_no_code(tmp_path: Path) -> None:
    write_state(tmp_path / "file", {"call": print})
    with pytest.raises(DamagedFileError, match="holds more than tensors, numbers and text"):
        read_checked(tmp_path / "file")


def test_foreign_files_have_no_label(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    (tmp_path / "other").write_bytes(bytes(500))
    assert read_label(tmp_path / "short") is None
    assert read_label(tmp_path / "other") is None


def test_a_write_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_where_torch_writes(tmp_path: Path) -> None:
    """torch itself says inline_container.cc, and no file."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"a\.resume could not be written \(File too large\)"):
            write_state(tmp_path / "a.resume", {"tensor": th.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def resealed(path: Path, body: bytes) -> None:
    """Another body, under a checksum that fits."""
    tag = path.read_bytes()[len(MAGIC) : len(MAGIC) + 64]
    path.write_bytes(MAGIC + tag + hashlib.sha256(tag + body).digest() + body)


def test_a_packed_body_is_not_unpacked(tmp_path: Path) -> None:
    path, plain, packed = tmp_path / "a.resume", io.BytesIO(), io.BytesIO()
    write_state(path, {})
    th.save({"tensor": th.zeros(1_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    resealed(path, packed.getvalue())
    with pytest.raises(DamagedFileError, match=r"a\.resume would unpack .* as a zip bomb"):
        read_checked(path)
    resealed(path, plain.getvalue())
    assert read_checked(path)["tensor"].numel() == 1_000_000


@pytest.mark.parametrize("value", [th.zeros(1).expand(1000), th.zeros(3).to_sparse(), [th.zeros(3)], 5])
def test_a_body_of_other_things(value: Any, tmp_path: Path) -> None:
    body = io.BytesIO()
    th.save({"a": value} if isinstance(value, th.Tensor) else value, body)
    write_state(tmp_path / "a.resume", {})
    resealed(tmp_path / "a.resume", body.getvalue())
    with pytest.raises(DamagedFileError, match=r"a\.resume is not ours"):
        read_checked(tmp_path / "a.resume")


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes here")
    os.mkfifo(tmp_path / "a.resume")
    (tmp_path / "b.resume").symlink_to("/dev/zero")
    for name in ("a.resume", "b.resume"):
        assert read_label(tmp_path / name) is None
        with pytest.raises(FileRefused, match="a device or a pipe"):
            read_checked(tmp_path / name)
