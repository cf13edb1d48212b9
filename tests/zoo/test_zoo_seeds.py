"""``train --seeds``: several runs of RL-Zoo in one process."""

from __future__ import annotations

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
