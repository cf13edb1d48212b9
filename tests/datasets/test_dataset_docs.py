"""The page "Bring your own data" and the section "The data gate" run from top to bottom, and print what they say."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from sb3_offline.datasets.checks import gate

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "datasets.md"
GATE = DOCS / "when_things_go_wrong.md"


def test_the_examples_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        exec(block, names)
    (comment,) = re.findall(r"print\(error\)\n((?: +# .*\n)+)", PAGE.read_text(encoding="utf-8"))
    said = " ".join(line.strip().removeprefix("# ") for line in comment.splitlines())
    assert said.startswith("arrays: rewards hold NaN")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("page", ["tables.md", "other_libraries.md"])
def test_pages_of_other_sources_print_what_they_quote(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(block, names)
    printed = " ".join(capsys.readouterr().out.split())
    quoted = re.findall(r"print\([\w()]+\)\n((?: *# .*\n)+)", text)
    assert quoted
    for comment in quoted:
        assert " ".join(" ".join(line.strip().removeprefix("# ") for line in comment.splitlines()).split()) in printed


def test_the_gate_says_what_its_page_quotes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_passed", set())
    section = re.split(r"^## ", GATE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = next(part for part in section if part.startswith("The data gate"))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    out = capsys.readouterr().out
    quoted = " ".join(line.removeprefix("> ") for line in text.splitlines() if line.startswith("> "))
    assert quoted in out
    assert "\nwarning reward_scale 29850\n" in out  # 150 episodes lose their last row, and no reward is exactly zero
    assert "# warning reward_scale 29850" in text


def test_the_page_lists_every_check_of_the_gate() -> None:
    folder = Path(gate.__file__).parent
    source = "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py")))
    checks = set(re.findall(r'(?:_warning\(|_error\(|finding\()\s*(?:dataset,)?\s*"(\w+)"', source))
    listed = set(re.findall(r"^\| `(\w+)` \|", GATE.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(checks) >= 26
    assert listed >= checks
