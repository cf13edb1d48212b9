"""``select`` and ``certify``: from a folder of models and a log to a table, a page and an exit status."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sb3_offline import CQL
from sb3_offline.cli import main
from tests.conftest import FAST, record


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, two models that learned nothing yet, and a file that is none."""
    folder = tmp_path_factory.mktemp("select")
    arrays = record("Pendulum-v1", 25)
    np.savez_compressed(folder / "log.npz", **arrays, env_id="Pendulum-v1")  # type: ignore[arg-type]
    for seed in (0, 1):
        model = CQL("MlpPolicy", "Pendulum-v1", dataset=arrays, **(FAST | {"seed": seed}))
        model.save(folder / "runs" / f"run <{seed}>" / "cql.zip")
    (folder / "runs" / "notes.zip").write_text("no model")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.setattr("sb3_offline.ope.behavior.FIT_STEPS", 250)
    monkeypatch.chdir(models)


def test_select_prints_a_table_and_writes_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "runs", "--data", "log.npz", "--fit-steps", "30", "--html", "page.html"]) == 0
    said = capsys.readouterr()
    assert "run <0>/cql.zip" in said.out
    assert "CQL" in said.out
    assert "notes.zip is passed over" in said.err
    page = Path("page.html").read_text(encoding="utf-8")
    assert "run &lt;1&gt;/cql.zip" in page
    assert "<svg" in page
    assert "http" not in page  # nothing from the network
    assert page.count("<tr>") == 3  # the head, and two models


def test_certify_says_no_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """An untrained policy is not better than random actions by nine times their size."""
    command = ["certify", "runs/run <0>/cql.zip", "--data", "log.npz", "--fit-steps", "30", "--margin", "9"]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert said.startswith("NOT CERTIFIED")
    assert "required" in said.splitlines()[1]


def test_select_shows_names_as_they_are(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as rich's markup, nor as what a terminal obeys; a damaged model is passed over by name."""
    good = models / "runs" / "run <0>" / "cql.zip"
    for name in ("a[/b].zip", "[red]c.zip", "\x1b[31md.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(good, tmp_path / name)
    (tmp_path / "\x1b[31me.zip").write_text("no model")
    assert main(["select", str(tmp_path), "--data", "log.npz", "--fit-steps", "5"]) == 0
    said = capsys.readouterr()
    assert all(name in said.out for name in ("a[/b].zip", "[red]c.zip", "\\x1b[31md.zip"))
    assert "\\x1b[31me.zip is passed over" in said.err
    assert "\x1b[31m" not in said.out + said.err


@pytest.mark.parametrize("data", [b"[1]", b'"a"', b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"\xff", b"{"])
def test_models_that_do_not_tell_what_they_are(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the header, in whose place the hyperparameters would say it."""
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("data", data)
    assert main(["certify", str(tmp_path / "m.zip"), "--data", "log.npz"]) == 2
    assert "m.zip is damaged: its hyperparameters" in capsys.readouterr().err
    assert main(["select", str(tmp_path), "--data", "log.npz"]) == 2
    assert "None of the models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["select", "nowhere", "--data", "log.npz"], "no saved model"),
        (["certify", "runs/run <0>/cql.zip", "--data", "log.npz", "--confidence", "0.5"], "confidence"),
        (["certify", "runs/run <0>/cql.zip", "--data", "log.npz", "--margin", "-1"], "margin"),
        (["certify", "runs/notes.zip", "--data", "log.npz"], "notes.zip"),
    ],
)
def test_mistakes_are_named(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert named in capsys.readouterr().err
