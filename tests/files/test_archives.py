"""Archives that no reader should trust, and tensors that are not only tensors."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_offline.files.archives import FileRefused, check_expansion, open_archive, read_members, read_tensors
from tests.conftest import Trap


def archive(**members: bytes) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return stream


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    th.save(value, stream)
    return stream.getvalue()


def test_members_are_read_whole() -> None:
    with open_archive(archive(a=b"one", b=b""), "x") as opened:
        assert read_members(opened, "x") == {"a": b"one", "b": b""}


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "..\\evil", "\\\\host\\share\\evil"])
def test_names_that_leave_the_archive(name: str) -> None:
    with pytest.raises(FileRefused, match="outside of the archive"):
        open_archive(archive(**{name: b""}), "x")


def test_a_member_twice() -> None:
    stream = archive(a=b"one")
    with zipfile.ZipFile(stream, "a") as written, pytest.warns(UserWarning, match="Duplicate name"):
        written.writestr("a", b"two")
    with pytest.raises(FileRefused, match="'a' twice"):
        open_archive(stream, "x")


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = archive(a=bytes(3_000_000))  # 1000 to 1
    open_archive(bomb, "x", limits=(3_000_000, 1))
    with pytest.raises(FileRefused, match=r"would unpack \d,\d+ bytes into 3,000,000"):
        open_archive(bomb, "x", limits=(2_999_999, 20))


def test_members_that_overlap() -> None:
    """One packed stream that two entries of the directory point to (Fifield's bomb)."""
    stream = archive(a=bytes(range(256)) * 40, b=b"")
    content = bytearray(stream.getvalue())
    first = content.find(b"PK\x01\x02")
    second = content.find(b"PK\x01\x02", first + 4)
    content[second + 16 : second + 28] = content[first + 16 : first + 28]  # checksum and both sizes of a
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # and its place
    with pytest.raises(FileRefused, match=r"overlap|damaged"), open_archive(io.BytesIO(bytes(content)), "x") as opened:
        read_members(opened, "x")


def test_a_size_that_is_not_declared_is_not_unpacked() -> None:
    content = bytearray(archive(a=bytes(100_000)).getvalue())
    entry = content.find(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (10).to_bytes(4, "little")
    with open_archive(io.BytesIO(bytes(content)), "x") as opened, pytest.raises(FileRefused, match="damaged"):
        read_members(opened, "x")


def test_unusual_packing_and_encryption() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_BZIP2) as written:
        written.writestr("a", b"one")
    with pytest.raises(FileRefused, match="unusual"):
        open_archive(stream, "x")
    content = bytearray(archive(a=b"one").getvalue())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(FileRefused, match="encrypted"):
        open_archive(io.BytesIO(bytes(content)), "x")


def test_expansion_bound() -> None:
    check_expansion("x", 1000, 1, limits=(1000, 2))
    check_expansion("x", 2000, 1000, limits=(1000, 2))
    with pytest.raises(FileRefused, match="without compression"):
        check_expansion("x", 2001, 1000, limits=(1000, 2))


def test_tensors_come_back() -> None:
    value = {"weight": th.arange(6.0).reshape(2, 3), "state": [{"step": th.tensor(1), "name": "a"}], "none": None}
    found = read_tensors(saved(value), "x")
    assert th.equal(found["weight"], value["weight"])  # type: ignore[arg-type]
    assert found["state"] == value["state"]


def test_code_among_tensors_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match=r"names (posix|nt)\.mkdir, which no tensor needs") as refused:
        read_tensors(saved({"weight": th.zeros(1), "trap": Trap(tmp_path / "trace")}), "x")
    assert "weights_only" not in str(refused.value)  # torch's advice is to load it all the same
    with pytest.raises(FileRefused, match="no zip archive"):
        read_tensors(pickle.dumps(Trap(tmp_path / "trace")), "x")
    assert not (tmp_path / "trace").exists()


def test_one_number_shown_as_a_huge_tensor() -> None:
    huge = th.zeros(1).expand(10**12)
    with pytest.raises(FileRefused, match=r"shape \(1000000000000,\) that its bytes do not fill"):
        read_tensors(saved({"a": [huge]}), "x")
    assert read_tensors(saved(th.arange(6.0).reshape(2, 3).T), "x").shape == (3, 2)


def test_a_bomb_among_tensors() -> None:
    plain = io.BytesIO(saved(th.zeros(1_000_000)))
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    with pytest.raises(FileRefused, match="zip bomb"):
        read_tensors(packed.getvalue(), "x", limits=(1_000_000, 20))
