"""Tables where there is little room."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from sb3_offline.cli import main
from sb3_offline.shell import consoles


def printed(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> list[str]:
    shown = Console(force_terminal=terminal, color_system=None, width=40, record=True)
    monkeypatch.setattr(consoles, "Console", lambda **options: shown if not options else Console(record=True, **options))
    table = consoles.narrow_table("name", "first", "second", "third", words=("name",), title="of [these]")
    table.add_row("a name of 23 characters", "1.25", "2.25", "3.25")
    return consoles.print_whole(table).export_text().splitlines()


def test_a_narrow_terminal_gets_fewer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, terminal=True)
    assert lines[0].strip() == "of [these]"
    assert lines[3].split() == ["a", "name", "of", "23", "characters", "1.25", "2.25"]
    assert "A wider terminal shows third, too." in " ".join(lines)
    assert max(map(len, lines)) <= 40


def test_a_pipe_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, terminal=False)[3].split()[-3:] == ["1.25", "2.25", "3.25"]


def test_the_data_sets_fit_into_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sb3_offline/CartPole-medium-replay-v0 ") and line.endswith(" 49.7") for line in lines)
    assert max(map(len, lines)) <= 80
