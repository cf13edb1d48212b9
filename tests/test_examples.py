"""The examples, and the code that README and docs show, run as they are written (with fewer steps)."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sb3_offline
from sb3_offline.datasets import DatasetWarning
from sb3_offline.datasets.checks import gate

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
EXAMPLES = {
    "offline_from_replay_buffer.py": ["--online-steps", "300", "--offline-steps", "30"],
    "my_algorithm.py": ["--steps", "20", "--episodes", "1"],
    "your_own_data.py": ["--steps", "30"],
}
#: Every page that shows Python.
PAGES = [
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python" in page.read_text(encoding="utf-8")
]
# What makes a page's code quick without changing what it shows
QUICK = {
    "5_000": "20",
    "1_000": "10",
    "learn(200": "learn(5",
    "learn(100)": "learn(5)",
    "learn_online(1000": "learn_online(20",
    "fit_ood_detector()": "fit_ood_detector(n_steps=10)",
    "env, policy_kwargs=": 'env, dynamics_kwargs={"max_epochs": 1}, behavior_kwargs={"n_steps": 10}, policy_kwargs=',
    '"max_epochs": 2': '"max_epochs": 1',
    "eval_freq=1000, n_eval_episodes=10": "eval_freq=10, n_eval_episodes=1",
}


def run(code: list[str], folder: Path) -> str:
    result = subprocess.run([sys.executable, *code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_every_extra_is_in_the_table() -> None:
    extras = re.search(r"^\[project.optional-dependencies\]\n(.*?)\n\n", PYPROJECT.read_text(), re.DOTALL | re.MULTILINE)
    assert extras is not None
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = {name for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
    assert listed == set(re.findall(r"^(\w+) =", extras[1], re.MULTILINE)) != set()


def test_every_exported_name_is_documented() -> None:
    """By autodoc, in a page that the index lists."""
    listed = re.findall(r"^(\w+)$", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in listed]
    blocks = "\n".join(block for page in pages for block in re.findall(r"```{eval-rst}\n(.*?)```", page, re.DOTALL))
    documented = set(re.findall(r"^.. auto(?:class|function):: sb3_offline\.(\w+)$", blocks, re.MULTILINE))
    for members in re.findall(r"^.. automodule:: sb3_offline\n   :members: (.*)$", blocks, re.MULTILINE):
        documented |= set(members.split(", "))
    assert documented >= set(sb3_offline.__all__) - {"__version__"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    output = run([str(ROOT / "examples" / name), *EXAMPLES[name]], tmp_path)
    assert re.search(r"-?\d", output)


@pytest.mark.parametrize("page", PAGES)
def test_code_of_page(page: str, tmp_path: Path) -> None:
    """All python blocks of a page, one after another; those that need data which is not packaged are left out."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    blocks = [block for block in blocks if "hopper" not in block]
    assert blocks
    code = "\n".join(blocks)
    for written, quick in QUICK.items():
        code = code.replace(written, quick)
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    run([str(script)], tmp_path)


def test_the_pictures_of_the_page_can_be_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both rewards are logged, so the data gate has nothing to say about them."""
    monkeypatch.setattr(gate, "_passed", set())
    page = (ROOT / "docs" / "images_and_dicts.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0].replace("learn(100)", "learn(1)")
    names: dict[str, Any] = {}
    with pytest.warns(DatasetWarning) as warned:
        exec(code, names)
    assert set(names["rewards"]) == {0.0, 1.0}
    assert not [warning for warning in warned if "nothing to learn" in str(warning.message)]


def test_what_the_pages_import_is_documented() -> None:
    """Every name that a page's code takes from any room of the package is in some autodoc."""
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in [*PAGES, "docs/api.md"])
    documented: set[str] = set()
    for kind, target, options in re.findall(r"\.\. auto(module|class|function):: (\S+)\n((?:   :.*\n)*)", text):
        module, _, name = target.rpartition(".")
        documented.add(name)
        assert kind == "module" or hasattr(importlib.import_module(module), name), f"{target} is gone"
        members = re.search(r":members:(.*)", options) if kind == "module" else None
        if members is not None:
            named = [name.strip() for name in members[1].split(",") if name.strip()]
            documented.update(named or getattr(importlib.import_module(target), "__all__", []))
    shown = set(sb3_offline.evaluation.__all__)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        imports = (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom))
        shown |= {alias.name for node in imports if (node.module or "").startswith("sb3_offline") for alias in node.names}
    assert {"CQL", "DistilledCounts", "OfflineSelectionCallback", "ntk"} <= shown
    assert not shown - documented
