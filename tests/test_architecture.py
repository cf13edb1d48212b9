"""The order of the house, as pyproject.toml states it: who imports whom."""

from __future__ import annotations

from pathlib import Path

import pytest

import sb3_offline

ROOT = Path(__file__).parent.parent


def test_rooms_import_from_below_and_in_no_circle(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Imports for type checkers count. To put a new room on its floor, name it in pyproject.toml."""
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT)
    status = cli.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_nobody_imports_the_root_package() -> None:
    """It stands above all: whatever imports it is part of one circle with everything."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("sb3_offline", cache_dir=None)
    assert graph.find_modules_that_directly_import("sb3_offline") == set()


@pytest.mark.parametrize("room", sorted(path.parent.name for path in Path(sb3_offline.__file__).parent.glob("*/__init__.py")))
def test_every_room_says_what_lives_there(room: str) -> None:
    text = (Path(sb3_offline.__file__).parent / room / "__init__.py").read_text()
    assert text.startswith('"""')
    assert "Import" in text.split('"""')[1] or "numpy only" in text.split('"""')[1]  # and what it may import
