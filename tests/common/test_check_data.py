"""`learn` passes its data through the gate, and takes the task from the env where the data name none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import COMBO, CQL, PreQN
from sb3_offline.datasets import DatasetError
from sb3_offline.datasets.checks import gate
from sb3_offline.datasets.errors import DatasetWarning
from sb3_offline.dynamics.termination import known_rule
from tests.conftest import FAST, FAST_MODEL_BASED, Arrays, fast_options


@pytest.fixture(autouse=True)
def nothing_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_passed", set())


@pytest.fixture
def arrays(pendulum_arrays: Arrays) -> Arrays:
    return {name: values.copy() for name, values in pendulum_arrays.items()}


@pytest.fixture
def broken(arrays: Arrays) -> Arrays:
    arrays["next_observations"][[17, 42]] += 0.5
    return arrays


def cql(dataset: Arrays, **options: Any) -> CQL:
    return CQL("MlpPolicy", "Pendulum-v1", dataset=dataset, **fast_options(CQL), **options)


def said(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in caught if issubclass(warning.category, DatasetWarning)]


def test_data_that_cannot_be_right_are_refused_before_the_first_step(broken: Arrays) -> None:
    model = cql(broken)
    message = r"arrays: next_observations, rows 17, 42: .*inside an episode \(2 of 995 rows\).*check_data=False"
    with pytest.raises(DatasetError, match=message):
        model.learn(3)
    assert model.num_timesteps == 0
    with pytest.raises(DatasetError, match="rows 17, 42"):  # what was refused has not passed
        model.learn(3)


def test_the_gate_can_be_left_open_and_stays_so_in_a_saved_model(broken: Arrays, tmp_path: Path) -> None:
    model = cql(broken, check_data=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(2)
    assert said(caught) == []
    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    loaded.dataset = broken
    assert loaded.learn(2).num_timesteps == 2
    open_again = CQL.load(tmp_path / "model", env=gym.make("Pendulum-v1"), check_data=True)
    open_again.dataset = broken
    with pytest.raises(DatasetError, match="rows 17, 42"):
        open_again.learn(2)


def test_other_roots_have_the_gate_too(broken: Arrays) -> None:
    options = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "device": "cpu"}
    with pytest.raises(DatasetError, match="rows 17, 42"):
        PreQN("MlpPolicy", "Pendulum-v1", dataset=broken, **options).learn(1)
    assert PreQN("MlpPolicy", "Pendulum-v1", dataset=broken, check_data=False, **options).learn(1).num_timesteps == 1


def test_rl_zoo_takes_it_as_a_hyperparameter() -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_offline.zoo.configs import check_hyperparams

    check_hyperparams(CQL, {"policy": "MlpPolicy", "n_timesteps": 10, "check_data": False}, "here")
    with pytest.raises(TypeError, match="check_data"):
        check_hyperparams(CQL, {"policy": "MlpPolicy", "n_timesteps": 10, "check_dat": False}, "here")


def test_warnings_are_said_once_for_equal_data(arrays: Arrays) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = cql(arrays).learn(1)
        model.learn(1, reset_num_timesteps=False)
        cql({name: values.copy() for name, values in arrays.items()}).learn(1)
    assert said(caught) == [
        "arrays: data: few transitions (1,000 of 5,000 rows wanted). Bring more if you can, and hold CQL, IQL or TD3BC "
        "beside what learns a dynamics model from so few."
    ]
    assert {warning.filename for warning in caught if issubclass(warning.category, DatasetWarning)} == {__file__}
    arrays["rewards"][0] += 1.0
    with pytest.warns(DatasetWarning, match="few transitions"):
        cql(arrays).learn(1)


def test_the_gate_draws_no_random_numbers(arrays: Arrays) -> None:
    weights = [cql(arrays, check_data=check).learn(3).policy.state_dict() for check in (True, False)]
    assert all(th.equal(weights[0][name], weights[1][name]) for name in weights[0])


# --- the task ---


def test_the_env_is_the_task_of_data_that_name_none(arrays: Arrays) -> None:
    model = COMBO("MlpPolicy", "Pendulum-v1", dataset=arrays, **FAST_MODEL_BASED)
    assert model.dataset_info is not None
    assert model.dataset_info.env_spec is not None
    assert model.dataset_info.env_spec.id == "Pendulum-v1"
    dataset = model.load_dataset()
    assert dataset.env_spec is not None
    assert dataset.env_spec.id == "Pendulum-v1"
    assert dataset.normalized_score(float(dataset.info.reference_max_score or 0.0)) == 100.0
    vec_env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)  # the data stay raw
    loaded = CQL("MlpPolicy", vec_env, dataset=arrays, **FAST).load_dataset()
    assert loaded.env_spec is not None


def test_a_task_in_the_data_comes_before_the_env(arrays: Arrays) -> None:
    arrays["env_id"] = "sb3_offline/Pendulum-medium-v0"
    env = gym.make("Pendulum-v1")
    info = CQL("MlpPolicy", env, dataset=arrays, **FAST).dataset_info
    assert info is not None
    assert info.env_spec is not None
    assert info.env_spec.id == "sb3_offline/Pendulum-medium-v0"


def test_an_env_that_a_wrapper_may_have_changed_is_no_known_task(arrays: Arrays) -> None:
    class Shifted(gym.Wrapper):
        pass

    info = CQL("MlpPolicy", Shifted(gym.make("Pendulum-v1")), dataset=arrays, **FAST).dataset_info
    assert info is not None
    assert info.env_spec is None


def test_arrays_of_hopper_end_by_hoppers_rule() -> None:
    """Hopper ends where its height is not above 0.7 (or its angle not within 0.2), which the data need not show."""
    pytest.importorskip("mujoco")
    n = 400
    rng = np.random.default_rng(0)
    observations = rng.normal(0.0, 0.01, size=(n, 11))
    observations[:, 0] += 1.25
    truncations = np.arange(n) % 100 == 99
    arrays = {
        "observations": observations,
        "actions": rng.uniform(-1, 1, size=(n, 3)),
        "rewards": rng.normal(size=n),
        "next_observations": np.roll(observations, -1, axis=0),
        "terminations": np.arange(n) == 5,
        "truncations": truncations,
    }
    model = COMBO("MlpPolicy", "Hopper-v5", dataset=arrays, **FAST_MODEL_BASED)
    dataset = model.load_dataset()
    assert known_rule(dataset.env_spec) is not None
    states = th.as_tensor(observations[:2], dtype=th.float32)
    fallen = states.clone()
    fallen[1, 0] = 0.69
    ended = model.resolve_termination(dataset)(states, th.zeros(2, 3), fallen)
    assert ended.tolist() == [False, True]
