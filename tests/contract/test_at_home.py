"""Every algorithm is at home: in RL-Zoo, in its YAML file, in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sb3_offline.cli import main
from sb3_offline.shell.models import load_model
from tests.contract.subjects import QUICK, ROOT, Subject

SHELL = {name: value for name, value in QUICK.items() if name not in ("seed", "device", "dynamics_cache")}


@pytest.mark.one_a_family
def test_train_continue_enjoy_evaluate(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    folder = subject.data.replace("/", "-")
    params = ["-params", *(f"{name}:{value}" for name, value in SHELL.items() if subject.takes(name))]
    train = ["train", "--algo", subject.name, "--env", subject.data, "--seed", "1", "--device", "cpu", "--verbose", "0"]
    first = [*train, "-n", "6", "--eval-freq", "3", "--eval-episodes", "1", "--save-freq", "3", *params]
    assert main(first) == 0, capsys.readouterr().err
    saved = Path("logs") / subject.name / f"{folder}_1" / f"{folder}.zip"
    names = {path.name for path in saved.parent.glob("*.zip")}
    assert names == {saved.name, "best_model.zip", "rl_model_3_steps.zip", "rl_model_6_steps.zip"}
    assert subject.cls.load(saved).num_timesteps == 6
    assert main([*train, "-n", "2", "--eval-freq", "-1", "-i", str(saved), *params]) == 0, capsys.readouterr().err
    assert subject.cls.load(saved.parent.with_name(f"{folder}_2") / saved.name)._n_updates == 8
    capsys.readouterr()
    enjoy = ["enjoy", "--algo", subject.name, "--env", subject.data, "-n", "510", "--no-render", "--device", "cpu"]
    assert main(enjoy) == 0  # beyond the time limit of either task: few steps may have learned to balance
    assert "Episodes" in capsys.readouterr().out
    assert main(["evaluate", str(saved), "-n", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{subject.cls.__name__} in {subject.task}: return ")


def test_its_files_are_recognised(subject: Subject, tmp_path: Path) -> None:
    subject.make().save(tmp_path / "model")
    assert type(load_model(tmp_path / "model").model) is subject.cls


@pytest.mark.packaged
def test_a_yaml_entry_and_a_page(subject: Subject) -> None:
    entries = yaml.safe_load((ROOT / "zoo_configs" / f"{subject.name}.yml").read_text())
    assert {"default", subject.data} <= entries.keys()
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    documented = [page for page in pages if f"import {subject.cls.__name__}" in page or f", {subject.cls.__name__}" in page]
    assert documented, f"no page shows how to import {subject.cls.__name__}"
    (page,) = (
        page for page in pages if f"autoclass:: sb3_offline.{subject.cls.__name__}\n" in page and "## Can I use?" in page
    )
    table = page.split("## Can I use?")[1].split("\n## ")[0]
    (observations,) = re.findall(r"^\| [^|]*Discrete.*\| (\w+)[^|]* \|$", table, re.MULTILINE)
    assert observations == ("no" if subject.cls.vectors_only else "yes")
