"""What enjoy reads from a run's folder: no pickle, and no YAML that runs code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch as th
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

pytest.importorskip("rl_zoo3")

from huggingface_sb3 import EnvironmentName

from sb3_offline.common.saving import trusting
from sb3_offline.files.archives import FileRefused
from sb3_offline.zoo.arguments import take_trust
from sb3_offline.zoo.enjoy import enjoy
from sb3_offline.zoo.playing import check_run_folder
from sb3_offline.zoo.plots import plots
from sb3_offline.zoo.train import train

ENV = "sb3_offline/Pendulum-medium-v0"
FOLDER = "sb3_offline-Pendulum-medium-v0"


def test_what_rl_zoo_writes_is_read(tmp_path: Path) -> None:
    arguments = OrderedDict(env=EnvironmentName(ENV), env_kwargs=None, hyperparams={"policy_kwargs": {"net_arch": (8,)}})
    (tmp_path / "args.yml").write_text(yaml.dump(arguments))
    config = {"policy_kwargs": {"activation_fn": th.nn.Tanh}, "normalize": "dict(norm_obs=True, norm_reward=False)"}
    (tmp_path / "config.yml").write_text(yaml.dump(config | {"env_wrapper": [{"gymnasium.wrappers.TimeLimit": {"n": 1}}]}))
    check_run_folder(tmp_path)
    for normalize in (True, False, None, {"norm_obs": True}, "{'norm_obs': True}", "True"):
        (tmp_path / "config.yml").write_text(yaml.dump({"normalize": normalize}))
        check_run_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.yml", "args.yml"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.mkdir [trace]", "makes python/object/apply:os.mkdir, and that can run any code"),
        ("- [1, {b: !!python/object/new:os.system [id]}]", "makes python/object/new:os.system"),
        ("a: !!python/name:os.system", "makes python/name:os.system"),
        ("a: !!python/module:antigravity", "makes python/module"),
        ("? !!python/object:os.X {}\n: 1", "makes python/object:os.X"),
        ("normalize: __import__('os').mkdir('trace')", "evaluates normalize"),
        ("normalize: dict(norm_obs=print(1))", "evaluates normalize"),
        ("normalize: dict(**open('x'))", "evaluates normalize"),
        ("env_wrapper: subprocess.Popen", "imports env_wrapper: 'subprocess.Popen'"),
        ("env_wrapper: [gymnasium.X, {os.system: {a: 1}}]", r"imports env_wrapper: 'os\.system'"),
        ("vec_env_wrapper: os.system", "imports vec_env_wrapper"),
        ("a: [", "is no YAML"),
    ],
)
def test_code_in_yaml_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FileRefused, match=message):
        check_run_folder(tmp_path)
    with trusting(True):
        check_run_folder(tmp_path)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    command = [
        "--algo",
        "cql",
        "--env",
        ENV,
        "-n",
        "10",
        "--seed",
        "1",
        "--device",
        "cpu",
        "-f",
        str(folder),
        "--verbose",
        "0",
    ]
    options = ["batch_size:16", "n_action_samples:2", "normalize:dict(norm_obs=True,norm_reward=False)"]
    train([*command, "--eval-freq", "10", "--eval-episodes", "1", "--verbose", "0", "-params", *options])
    return folder


def play(logs: Path, *more: str) -> None:
    enjoy(["--algo", "cql", "--env", ENV, "-f", str(logs), "-n", "5", "--no-render", "--device", "cpu", *more])


def test_enjoy_and_continue_use_no_pickle(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    play(logs)
    saved = next(logs.rglob(f"{FOLDER}.zip"))
    command = ["--algo", "cql", "--env", ENV, "-n", "2", "--eval-freq", "-1", "-i", str(saved), "-f", str(logs / "more")]
    train([*command, "--device", "cpu", "--verbose", "0"])
    mine, before = (next(folder.rglob("vecnormalize.json")) for folder in (logs / "more", saved.parent))
    assert mine.read_text() == before.read_text()


def test_enjoy_refuses_pickles_and_code_of_a_run(logs: Path, tmp_path: Path) -> None:
    folder = next(path.parent for path in logs.rglob("config.yml") if "more" not in path.parts)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    try:
        (folder / "config.yml").write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'trace'}']")
        with pytest.raises(FileRefused, match=r"config\.yml makes python"):
            play(logs)
        assert not (tmp_path / "trace").exists()
        (folder / "config.yml").write_bytes(before[folder / "config.yml"])
        (folder / "vecnormalize.json").unlink()
        with pytest.raises(ValueError, match="has no statistics"):
            play(logs)
        VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")])).save(str(folder / "vecnormalize.pkl"))
        with pytest.raises(FileRefused, match=r"vecnormalize\.pkl is pickled"):
            play(logs)
        play(logs, "--trust")
    finally:
        (folder / "vecnormalize.pkl").unlink(missing_ok=True)
        for path, content in before.items():
            path.write_bytes(content)


def test_trust_is_taken_out_of_the_command_line() -> None:
    words: list[Any] = ["--algo", "cql", "--trust", "-n", "5"]
    assert take_trust(words) == (["--algo", "cql", "-n", "5"], True)
    assert take_trust(words[:2]) == (words[:2], False)


def test_plots_from_a_pickle_need_trust(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a pickle, which can run any code"):
        plots(["from-file", "-i", str(tmp_path / "results.pkl")])
