"""``train --seeds``: several runs of RL-Zoo in one process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_offline import TD3BC
from sb3_offline.arguments import parse_seeds
from sb3_offline.zoo.seeds import take_seeds
from sb3_offline.zoo.train import train
from tests.zoo.test_zoo_training import ENV, FOLDER


def words(folder: Path, *more: str) -> list[str]:
    params = ["-params", "policy_kwargs:dict(net_arch=[8])", "batch_size:16"]
    return ["--algo", "td3bc", "--env", ENV, "-n", "20", "-f", str(folder), "--device", "cpu", *more, *params]


def test_each_seed_has_the_run_that_it_would_have_alone(tmp_path: Path) -> None:
    train(words(tmp_path, "--seeds", "3,5", "--eval-freq", "10", "--eval-episodes", "1", "--save-freq", "20"))
    train(words(tmp_path, "--seed", "5", "--eval-freq", "-1"))
    models = [TD3BC.load(tmp_path / "td3bc" / f"{FOLDER}_{run}" / f"{FOLDER}.zip") for run in (1, 2, 3)]
    assert [model.seed for model in models] == [3, 5, 5]
    assert [model.num_timesteps for model in models] == [20] * 3
    for run in (1, 2):
        folder = tmp_path / "td3bc" / f"{FOLDER}_{run}"
        assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [10, 20]
        assert {"best_model.zip", "rl_model_20_steps.zip"} <= {file.name for file in folder.glob("*.zip")}
    first, second, alone = (th.cat([p.detach().flatten() for p in model.actor.parameters()]) for model in models)
    assert float((second - alone).abs().max()) < 1e-5
    assert float((first - alone).abs().max()) > 1e-2


CUT = """
import os, sys
from sb3_offline.training.run import Run
from sb3_offline.zoo.train import train

write = Run._write_siblings

def cut(run):
    if run.model.num_timesteps == 30 and run.model.seed == 5:
        os.kill(os.getpid(), int(sys.argv[1]))
    write(run)

Run._write_siblings = cut
train(sys.argv[2:])
"""


def numbers(folder: Path) -> dict[str, th.Tensor]:
    return TD3BC.load(folder / f"{FOLDER}.zip").policy.state_dict()


@pytest.mark.parametrize(("cut_by", "step"), [(signal.SIGKILL, 20), (signal.SIGINT, 31)])
def test_the_same_command_goes_on_exactly(
    cut_by: signal.Signals, step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--seeds", "3,5", "-n", "50", "--save-freq", "10", "--eval-freq", "20", "--eval-episodes", "1")
    command = words(tmp_path / "logs", *more)
    died = subprocess.run([sys.executable, "-c", CUT, str(int(cut_by)), *command], capture_output=True, text=True, check=False)
    assert died.returncode == (-signal.SIGKILL if cut_by is signal.SIGKILL else 0), died.stderr
    train(command)
    assert f"Seeds 3, 5 were cut off before, and go on at step {step}" in capsys.readouterr().out
    train(words(tmp_path / "whole", *more))
    for run in (f"{FOLDER}_1", f"{FOLDER}_2"):
        folder, whole = (tmp_path / name / "td3bc" / run for name in ("logs", "whole"))
        for name, value in numbers(whole).items():
            assert th.equal(value, numbers(folder)[name]), name
        with np.load(folder / "evaluations.npz") as found:
            assert found["timesteps"].tolist() == [20, 40]
    train(command)  # what is finished is not touched
    assert "go on" not in capsys.readouterr().out
    assert len([*(tmp_path / "logs" / "td3bc").glob(f"{FOLDER}_?")]) == 4


def test_seeds_of_another_configuration_do_not_go_on(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yml"
    recipe.write_text("default: {policy: MlpPolicy, alpha: 2.0}")
    command = words(
        tmp_path / "logs", "--seeds", "3,5", "-n", "40", "--save-freq", "10", "--eval-freq", "-1", "-conf", str(recipe)
    )
    subprocess.run([sys.executable, "-c", CUT, str(int(signal.SIGKILL)), *command], capture_output=True, check=False)
    recipe.write_text("default: {policy: MlpPolicy, alpha: 3.0}")
    with pytest.raises(ValueError, match=r"cut off before\. .*alpha=3.0 \(was 2.0\).*_1, .*_2: move them away"):
        train(command)
    for folder in (tmp_path / "logs" / "td3bc").iterdir():
        folder.rename(tmp_path / folder.name)
    train(command)
    assert [path.name for path in (tmp_path / "logs" / "td3bc").iterdir() if (path / f"{FOLDER}.zip").exists()]


def test_options_of_one_run() -> None:
    assert take_seeds(["--algo", "cql", "--seeds", "0-2", "--share-dynamics"]) == (["--algo", "cql"], [0, 1, 2], True)
    assert take_seeds(["--seed", "1"]) == (["--seed", "1"], [], False)
    for option in (["--seed", "1"], ["-optimize"]):
        with pytest.raises(ValueError, match=f"{option[0]} does not go with --seeds"):
            take_seeds(["--seeds", "0-2", *option])
    with pytest.raises(ValueError, match="--share-dynamics goes with --seeds"):
        take_seeds(["--share-dynamics"])


@pytest.mark.parametrize(("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0,3,5-6", [0, 3, 5, 6])])
def test_seeds_as_they_are_written(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,1", "0-", "1.5"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="seeds"):
        parse_seeds(text)
