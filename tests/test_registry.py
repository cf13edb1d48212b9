"""The registry of algorithms: names, classes of one's own, and what is not imported before it is asked for."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gymnasium import spaces
from stable_baselines3 import SAC

import sb3_offline
from sb3_offline import CQL, DiscreteCQL, register_algorithm, registry
from sb3_offline.cli import main

PLUGIN = """
from sb3_offline import CQL

class MyCQL(CQL):
    pass
"""
DATA = "sb3_offline/Pendulum-medium-v0"
SMALL = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "seed": 0, "device": "cpu"}


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is known to it alone."""
    monkeypatch.setattr(registry, "_registered", {})
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()


def python(code: str, *paths: Path) -> str:
    path = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", str(Path(sb3_offline.__file__).parent.parent))])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- names ---


def test_a_name_is_that_of_the_module_and_the_class_is_where_the_registry_says() -> None:
    for name, path in registry.BUILT_IN.items():
        module, _, class_name = path.partition(":")
        assert module.rpartition(".")[2] == name
        cls = registry.find_algorithm(name)
        assert (cls.__module__, cls.__name__) == (module, class_name)
        assert getattr(sb3_offline, class_name) is cls
        assert registry.class_names()[class_name] == name
    assert registry.names() == sorted(registry.BUILT_IN) == list(registry.algorithms())


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown algorithm 'cmbo'\. Did you mean 'combo'\? Known are awac, bc, combo, "):
        registry.find_algorithm("cmbo")


def test_who_can_learn_from_what() -> None:
    discrete = registry.learners(action_space=spaces.Discrete(3))
    assert "DiscreteCQL" in discrete
    assert "CQL" not in discrete
    assert set(registry.learners(beyond_vectors=True)) >= {"CQL", "DiscreteCQL", "OfflineSAC"}
    assert not {"COMBO", "PreQN"} & set(registry.learners(beyond_vectors=True))


# --- classes of one's own ---


def test_one_call_registers() -> None:
    class MyCQL(CQL):
        pass

    assert register_algorithm(MyCQL) is MyCQL
    assert registry.find_algorithm("my_cql") is MyCQL
    assert "MyCQL" in registry.learners(action_space=spaces.Box(-1.0, 1.0, (1,)))
    assert "MyCQL" not in registry.learners(action_space=spaces.Discrete(2))
    register_algorithm(DiscreteCQL.__class__("Mine", (DiscreteCQL,), {}), name="own_one")
    assert registry.class_names()["Mine"] == "own_one"


def test_a_module_may_be_run_again() -> None:
    for _ in range(2):
        names: dict[str, object] = {"__name__": "notebook"}
        exec(f"{PLUGIN}\nimport sb3_offline\nsb3_offline.register_algorithm(MyCQL)", names)
    assert registry.find_algorithm("my_cql") is names["MyCQL"]


@pytest.mark.parametrize(
    ("class_name", "name", "message"),
    [
        ("Mine", "cql", r"'cql' is the name of CQL \(sb3_offline\.cql\.cql\): give another one by name="),
        ("CQL", "mine", r"there is a CQL already \('cql'\)"),
        ("Other", "taken", "'taken' is the name of First"),
        ("First", "again", "there is a First already"),
        ("Mine", "My CQL", "'My CQL' is no name"),
    ],
)
def test_what_is_taken_is_refused(class_name: str, name: str, message: str) -> None:
    register_algorithm(type("First", (CQL,), {"__module__": "elsewhere"}), name="taken")
    before = registry.names()
    with pytest.raises(ValueError, match=message):
        register_algorithm(type(class_name, (CQL,), {"__module__": "here"}), name=name)
    assert registry.names() == before


@pytest.mark.parametrize("what", [SAC, int, "CQL", None])
def test_what_is_no_algorithm_is_refused(what: object) -> None:
    with pytest.raises(TypeError, match="takes a child of"):
        register_algorithm(what)  # type: ignore[type-var]


# --- packages of others ---


def install(folder: Path, **entries: str) -> None:
    """A distribution as pip leaves it."""
    (folder / "their_package.py").write_text(PLUGIN)
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[sb3_offline.algorithms]", *lines]))


def test_an_installed_package_brings_its_algorithms(tmp_path: Path) -> None:
    install(tmp_path, theirs="their_package:MyCQL")
    out = python("from sb3_offline import registry; print(registry.find_algorithm('theirs'), registry.names())", tmp_path)
    assert "<class 'their_package.MyCQL'>" in out
    assert "'theirs'" in out


def test_a_package_that_is_broken_or_takes_a_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, broken="not_there:Nothing", cql="their_package:MyCQL")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match="their_package:MyCQL is not registered: 'cql' is another algorithm's name"):
        assert registry.find_algorithm("cql") is CQL
    with pytest.warns(UserWarning, match=r"'broken' cannot be imported from not_there:Nothing"):
        assert "broken" not in registry.algorithms()
    with pytest.raises(ImportError, match="'broken' cannot be imported"):
        registry.find_algorithm("broken")


# --- in the shell ---


def test_the_shell_runs_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained by the packaged defaults, evaluated and continued; the file is told by its class's name."""
    pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f"{PLUGIN}\nimport sb3_offline\nsb3_offline.register_algorithm(MyCQL)\n")
    params = ["-params", "policy_kwargs:dict(net_arch=[8])", "batch_size:8"]
    train = ["train", "--algo", "my_cql", "--env", DATA, "-n", "3", "--eval-freq", "-1", "--device", "cpu", *params]
    assert main([*train, "--import", "mine.py"]) == 0
    saved = "logs/my_cql/sb3_offline-Pendulum-medium-v0_1/sb3_offline-Pendulum-medium-v0.zip"
    capsys.readouterr()
    assert main(["--import", "mine", "evaluate", saved, "-n", "1"]) == 0
    assert capsys.readouterr().out.startswith("MyCQL in Pendulum-v1: return -")
    assert main([*train, "-i", saved]) == 0
    monkeypatch.setattr(registry, "_registered", {})
    assert main(["evaluate", saved]) == 2
    assert "holds a MyCQL, which is not registered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, "--import missing.py: there is no such file (looked in"),
        ("nowhere", None, "--import nowhere: it cannot be imported (No module named 'nowhere')"),
        ("bad.py", "import nowhere", "--import bad.py: it cannot be imported (No module named 'nowhere')"),
    ],
)
def test_what_cannot_be_imported_is_named(
    name: str,
    content: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content)
    assert main(["--import", name, "datasets"]) == 2
    assert f"sb3-offline datasets: {message}" in capsys.readouterr().err


# --- the root package ---


def test_type_checkers_see_what_there_is() -> None:
    """The names under TYPE_CHECKING are those that are imported late."""
    tree = ast.parse(Path(sb3_offline.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {alias.name: item.module for item in block.body if isinstance(item, ast.ImportFrom) for alias in item.names}
    assert shown.keys() == sb3_offline._EXPORTS.keys()
    for name, module in shown.items():
        assert getattr(__import__(str(module), fromlist=[name]), name) is getattr(sb3_offline, name)
    assert set(sb3_offline.__all__) == {*shown, "__version__", "register_algorithm"} <= set(dir(sb3_offline))


def test_names_come_late_and_ids_at_once() -> None:
    out = python(
        "import sys, sb3_offline, gymnasium\n"
        "print('torch' in sys.modules, 'sb3_offline/Pendulum-medium-v0' in gymnasium.registry, hasattr(sb3_offline, 'no'))\n"
        "print(sb3_offline.datasets.load_dataset is sb3_offline.load_dataset)\n"
        "from sb3_offline import *\n"
        "print(CQL.__name__, 'torch' in sys.modules)\n"
    )
    assert out.split() == ["False", "True", "False", "True", "CQL", "True"]
