"""Every shell command that README and docs show is one: its options are read by the parser that it would meet, and no more."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import typer.core

from sb3_offline.cli import main

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
#: What begins a command of ours inside a line of text.
OURS = ("sb3-offline ", "python -m ", "python examples/", "torchrun ")
#: These look at files before their options; the tests of RL-Zoo's rooms run them.
LOOK_FIRST = {
    "python -m sb3_offline.zoo.plots all -a dromo -e sb3_offline/Pendulum-medium-replay-v0 -f logs --no-million -o results"
}


class Read(BaseException):
    """The options were read, and the command would begin."""


def commands() -> Iterator[tuple[str, str]]:
    """Page and command: of its shell blocks, line by line, and of its text, where nothing is left out of them."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:console|bash|sh|shell)\n(.*?)```", text, re.DOTALL):
            yield from ((page.name, line) for line in re.sub(r"\\\n\s*", "", block).splitlines() if line.strip())
        inline = (" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`", text))
        yield from ((page.name, code) for code in inline if code.startswith(OURS) and "..." not in code)


def test_pages_show_commands() -> None:
    """Of each kind; a page that begins another shell block is found."""
    found = {" ".join(shlex.split(command, comments=True)[:3]) for _, command in commands()}
    assert {"sb3-offline select logs", "python -m benchmarks.run", "python -m sb3_offline.zoo.plots"} <= found
    languages = {word for page in PAGES for word in re.findall(r"^```(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert languages == {"python", "py", "console", "bash", "yaml"}  # py: what needs videos, which are not packaged


def stop(*_: object, **__: object) -> NoReturn:
    raise Read


def of_program(words: list[str]) -> None:
    """``sb3-offline``; what RL-Zoo reads is read by its parser."""
    if words[0] == "--import":
        assert (ROOT / words[1]).exists() or words[1] == "my_cql.py"  # which a reader writes
        words = [word.replace("my_cql", "cql").replace("my_td3_bc", "td3bc") for word in words[2:]]
    if words[0] in ("train", "enjoy"):
        of_module(f"sb3_offline.zoo.{words[0]}", words[1:])
    elif len(words) == 1:  # its name alone
        with pytest.raises(SystemExit, match="0"):
            raise SystemExit(main([*words, "--help"]))
    else:
        with pytest.raises(Read):
            main(words)


def of_module(module: str, words: list[str]) -> None:
    if module in ("sb3_offline.zoo.train", "sb3_offline.zoo.enjoy") and "--algo" not in words:  # named in a sentence
        words = [*words, "--algo", "cql", "--env", "Pendulum-v1"]
    sys.argv[:] = [module, *words]
    with pytest.raises(Read):
        runpy.run_module(module, run_name="__main__")


def parse(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[:2] == ["pip", "install"]:
        pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extra in re.findall(r"\[(.*?)\]", " ".join(words)):
            assert all(re.search(rf"^{name} =", pyproject, re.MULTILINE) for name in extra.split(","))
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {*words[1:]} <= {*targets}
    elif words[0] == "torchrun":
        of_program(words[words.index("sb3_offline") + 1 :] or ["train"])
    elif words[0] == "sb3-offline":
        of_program(words[1:])
    elif words[:3] == ["python", "-m", "sb3_offline"]:
        of_program(words[3:])
    elif words[:2] == ["python", "-m"]:
        of_module(words[2], words[3:])
    elif words[0] == "python":
        sys.argv[:] = words[1:]
        with pytest.raises(Read):
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    else:
        assert words == ["pre-commit", "install"]


@pytest.mark.parametrize("command", sorted({command for _, command in commands()} - LOOK_FIRST))
def test_a_documented_command_is_read(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = argparse.ArgumentParser.parse_args

    def read_and_stop(*arguments: object, **options: object) -> NoReturn:
        read(*arguments, **options)  # type: ignore[call-overload]
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_and_stop)
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", stop)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("sb3_offline.registry._registered", {})  # what an example registers is gone afterwards
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    parse(command)
