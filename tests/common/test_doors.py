"""What the constructor refuses, no other door lets in: ``load``'s arguments, files, and assignments before ``learn``."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from typer.testing import CliRunner

from sb3_offline import BC, CQL, DROMO, MOPO, SACN, DiscreteCQL, OfflineSAC
from sb3_offline.cli import app
from sb3_offline.datasets import load_dataset
from sb3_offline.files.refusal import FileRefused
from tests.conftest import FAST_MODEL_BASED, record

DATA = "sb3_offline/Pendulum-medium-v0"
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "seed": 0, "device": "cpu"}
WRONG = [
    ("gamma", 5),
    ("tau", -3),
    ("batch_size", 0),
    ("precision", "zzz"),
    ("execution", "zzz"),
    ("reward_scale", -1),
    ("learning_rate", -1.0),
    ("qf_learning_rate", float("nan")),
    ("storage", "zzz"),
    ("check_data", "no"),
    ("conservative_weight", -1.0),
    ("averaging_rate", 3.0),
    ("seed", -1),
    ("stats_window_size", 0),
    ("stats_window_size", "x"),
    ("verbose", "x"),
    ("verbose", -1),
    ("tensorboard_log", 5),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "m.zip"
    CQL("MlpPolicy", DATA, **SMALL).learn(2).save(path)
    return path


def with_option(path: Path, target: Path, name: str, value: Any) -> Path:
    """The file with another hyperparameter."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    data = json.loads(members["data"])
    name = name if name in data else f"_{name}"  # SB3's attribute of an option
    assert name in data
    data[name] = value
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return target


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_options_are_refused_at_every_door(name: str, value: Any, saved: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=f"(?i){name}"):
        CQL("MlpPolicy", DATA, **SMALL | {name: value})
    with pytest.raises(ValueError, match=f"(?i){name}"):
        CQL.load(saved, **{name: value})
    with pytest.raises(ValueError, match=f"(?i){name}"):
        CQL.load(saved, custom_objects={name: value})
    with pytest.raises(ValueError, match=f"(?i){name}"):
        CQL.load(with_option(saved, tmp_path / "forged.zip", name, value))
    model = CQL.load(saved)
    setattr(model, name, value)
    with pytest.raises((ValueError, TypeError), match=f"(?i){name}"):
        model.learn(1)


#: Arguments of calls, not options of the model.
CALLS: list[tuple[str, Any]] = [
    ("device", "zzz"),
    ("device", None),
    ("env", 5),
    ("print_system_info", "no"),
    ("force_reset", "no"),
    ("trust", "no"),
    ("dataset", 5),
    ("dataset", "missing.npz"),
    ("custom_objects", 5),
    ("custom_objects", {5: 1}),
    ("custom_objects", {"gama": 0.9}),
    ("custom_objects", {"policy_kwargs": 5}),
]


@pytest.mark.parametrize(("name", "value"), CALLS)
def test_arguments_of_load_are_checked_at_once(name: str, value: Any, saved: Path) -> None:
    says = {
        "dataset": r"Data cannot be read from a int|no such file",
        "custom_objects": "custom_objects|'gamma'|policy_kwargs",
    }
    with pytest.raises((ValueError, TypeError), match=says.get(name, name)):
        CQL.load(saved, **{name: value})


@pytest.mark.parametrize("name", ["exclude", "include"])
def test_names_of_what_is_saved_are_a_list(name: str, saved: Path, tmp_path: Path) -> None:
    model = CQL.load(saved)
    for value in ("ab", 5, [5]):
        with pytest.raises(TypeError, match=f"{name} must be a list of names"):
            model.save(tmp_path / "m", **{name: value})
    model.save(tmp_path / "m", **{name: {"gamma"}})


@pytest.mark.parametrize(("name", "value"), [("device", "zzz"), ("device", None), ("env", 5)])
def test_the_constructor_says_the_same(name: str, value: Any, saved: Path) -> None:
    arguments = {"policy": "MlpPolicy", "env": DATA, **SMALL, name: value}
    with pytest.raises((ValueError, TypeError), match=f"{name} must be"):
        CQL(**arguments)
    if name == "env":
        with pytest.raises(TypeError, match="env must be"):
            CQL.load(saved).set_env(value)


@pytest.mark.parametrize(
    ("name", "value"), [("progress_bar", "no"), ("reset_num_timesteps", "no"), ("tb_log_name", 5), ("log_interval", "x")]
)
def test_arguments_of_learn_are_checked_at_once(name: str, value: Any, saved: Path) -> None:
    model = CQL.load(saved)
    with pytest.raises(TypeError, match=f"{name} must be"):
        model.learn(1, **{name: value})
    assert model.num_timesteps == 2


@pytest.mark.parametrize("name", ["trust", "download"])
def test_a_no_in_quotes_trusts_and_downloads_nothing(name: str, tmp_path: Path) -> None:
    """Python takes any text for true."""
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'no'"):
        load_dataset(tmp_path / "buffer.pkl", **{name: "no"})
    if name == "trust":
        with pytest.raises(TypeError, match="trust must be True or False"):
            CQL("MlpPolicy", DATA, **SMALL).load_replay_buffer(tmp_path / "buffer.pkl", trust="no")  # type: ignore[arg-type]


def test_custom_objects_that_the_file_does_not_name_count_too(saved: Path, tmp_path: Path) -> None:
    """The window that SB3 keeps by another name; RL-Zoo gives what only some algorithms have."""
    model = CQL.load(saved, custom_objects={"stats_window_size": 7, "lr_schedule": None, "clip_range": None})
    assert model.learn(1).ep_info_buffer.maxlen == 7  # type: ignore[union-attr]
    model.save(tmp_path / "m")
    assert CQL.load(tmp_path / "m").learn(1).ep_info_buffer.maxlen == 7  # type: ignore[union-attr]
    assert CQL.load(tmp_path / "m", verbose=True, tensorboard_log=tmp_path).learn(1).verbose == 1


def test_a_missing_file_is_named_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.zip'$"):
        CQL.load(tmp_path / "none.zip")


def test_a_folder_names_the_models_in_it(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "best_model.zip").parent.mkdir()
    with pytest.raises(ValueError, match=r"runs is a folder: give a model's file, a \.zip\.$"):
        CQL.load(tmp_path / "runs")
    (tmp_path / "runs" / "best_model.zip").write_bytes(saved.read_bytes())
    with pytest.raises(ValueError, match=r"runs is a folder: give a model's file in it, such as best_model\.zip\.$"):
        CQL.load(tmp_path / "runs")
    (tmp_path / "runs.zip").write_bytes(saved.read_bytes())  # as SB3 finds it
    CQL.load(tmp_path / "runs")


@pytest.mark.parametrize("name", ["buffer_size", "learning_starts", "target_update_interval", "train_freq"])
def test_load_takes_no_more_of_sb3s_arguments_than_the_constructor(name: str, saved: Path) -> None:
    """The file holds them, for SB3's own load."""
    with pytest.raises(TypeError, match=f"CQL takes no .*'{name}'"):
        CQL("MlpPolicy", DATA, **SMALL | {name: 5})
    with pytest.raises(TypeError, match=f"CQL takes no .*'{name}'"):
        CQL.load(saved, **{name: 5})


@pytest.mark.parametrize(("name", "value"), [("num_timesteps", -5), ("_n_updates", 1.5)])
def test_counts_of_a_file_are_counts(name: str, value: Any, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"forged\.zip: {name} must be"):
        CQL.load(with_option(saved, tmp_path / "forged.zip", name, value))


def test_options_of_a_child_are_refused_too(tmp_path: Path) -> None:
    MOPO("MlpPolicy", DATA, **FAST_MODEL_BASED).learn(1).save(tmp_path / "m")
    for name, value in (("real_ratio", 2.0), ("rollout_length", 0), ("dynamics_kwargs", {"max_epoch": 3})):
        with pytest.raises(ValueError, match=name if name != "dynamics_kwargs" else "max_epoch"):
            MOPO.load(tmp_path / "m", **{name: value})
    data = {"env": "CartPole-v1", "dataset": record("CartPole-v1", 20)}
    DiscreteCQL("MlpPolicy", **data, **SMALL).learn(1).save(tmp_path / "d")
    with pytest.raises(ValueError, match="target_update_interval"):
        DiscreteCQL.load(tmp_path / "d", target_update_interval=0)


def test_what_load_gives_is_what_the_constructor_makes_of_it(tmp_path: Path) -> None:
    """A whole number where a fraction is meant, and an option of what was fitted."""
    MOPO("MlpPolicy", DATA, **FAST_MODEL_BASED).save(tmp_path / "m")
    model = MOPO.load(tmp_path / "m", target_uncertainty=1).learn(1)
    assert (model.penalty_target.dtype, float(model.penalty_target)) == (th.float32, 1.0)
    assert float(MOPO.load(tmp_path / "m", penalty_weight=3).learn(1).penalty_coefficient) == 3.0
    SACN("MlpPolicy", DATA, ent_coef=0.5, **SMALL).save(tmp_path / "s")
    assert float(SACN.load(tmp_path / "s", ent_coef=0.25).ent_coef_tensor) == 0.25
    assert float(SACN.load(tmp_path / "s").ent_coef_tensor) == 0.5
    DROMO("MlpPolicy", DATA, **FAST_MODEL_BASED).save(tmp_path / "d")
    DROMO.load(tmp_path / "d", visitation="knn")
    with pytest.raises(ValueError, match=r"visitation='simhash' cannot take the place of 'knn'.*make a new model"):
        DROMO.load(tmp_path / "d", visitation="simhash")


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (CQL, "target_gap", 5.0),
        (CQL, "ent_coef", "auto"),
        (OfflineSAC, "ent_coef", 0.1),
        (BC, "deterministic", True),
        (DiscreteCQL, "target_gap", "auto"),
        (DiscreteCQL, "support_threshold", 0.3),
    ],
)
def test_options_that_change_what_is_learned(cls: Any, name: str, value: Any, tmp_path: Path) -> None:
    """``load`` names the option; where the policy is the same, the way on makes a model that acts as the old one did."""
    data: dict[str, Any] = {"env": "Pendulum-v1", "dataset": DATA}
    if cls is DiscreteCQL:
        data = {"env": "CartPole-v1", "dataset": record("CartPole-v1", 20)}
    old, path = cls("MlpPolicy", **data, **SMALL), tmp_path / "m.zip"
    old.save(path)
    advice = f"with the given {name}: .*leave {name} out, or train a new {cls.__name__} so"
    doors: list[dict[str, Any]] = [{name: value}, {"custom_objects": {name: value}}, {name: value, "dataset": None}]
    for door in doors:
        with pytest.raises(FileRefused, match=advice) as refused:
            cls.load(path, **door)
    model = cls("MlpPolicy", **data, **SMALL | {"seed": 1, name: value})
    way_on = re.search(r"policy: (model\..*)\.$", str(refused.value))
    same_policy = name in ("target_gap", "ent_coef")
    assert (way_on is not None) == same_policy
    if way_on is not None:
        exec(way_on[1], {"model": model, cls.__name__: cls, "path": path})
        observation = old.observation_space.sample()
        assert np.array_equal(
            model.predict(observation, deterministic=True)[0], old.predict(observation, deterministic=True)[0]
        )
    model.learn(1)


def test_networks_of_a_file_keep_their_make(tmp_path: Path) -> None:
    SACN("MlpPolicy", DATA, **SMALL).save(tmp_path / "m")
    assert SACN.load(tmp_path / "m", policy_kwargs={"net_arch": [8]}).policy_kwargs["n_critics"] == 10
    with pytest.raises(FileRefused, match=r"load cannot change net_arch\. Leave policy_kwargs out, or train a new SACN"):
        SACN.load(tmp_path / "m", policy_kwargs={"net_arch": [16]})
    with pytest.raises(
        FileRefused, match=r"with the given policy_kwargs: .*size mismatch.*leave policy_kwargs out, or train a new SACN so\.$"
    ):
        SACN.load(tmp_path / "m", custom_objects={"policy_kwargs": {"net_arch": [16]}})
    with pytest.raises(ValueError, match=r"n_critics is 11.*A saved model keeps its own"):
        SACN.load(tmp_path / "m", n_critics=11)


def test_right_options_pass(saved: Path) -> None:
    model = CQL.load(saved, gamma=0.5, tau=1.0, precision="bf16", seed=3, learning_rate=lambda progress: 1e-3 * progress)
    assert (model.gamma, model.tau, model.precision, model.seed) == (0.5, 1.0, "bf16", 3)
    model.learn(1)


# --- normalised observations ---


def normalized(env_id: str = DATA) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: gym.make(env_id)]), norm_reward=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[CQL, Path]:
    model = CQL("MlpPolicy", normalized(), **SMALL).learn(50)
    path = tmp_path_factory.mktemp("normalized") / "m.zip"
    model.save(path)
    return model, path


def test_load_refuses_the_env_that_set_env_refuses(trained: tuple[CQL, Path], saved: Path) -> None:
    with pytest.raises(ValueError, match="normalised observations"):
        CQL.load(trained[1], env=gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="raw observations"):
        CQL.load(saved, env=normalized())


def test_statistics_travel_with_the_model(trained: tuple[CQL, Path], tmp_path: Path) -> None:
    """Of 5,000 rows, as NumPy computes them; SB3 adds 1e-4 of a row of mean 0 and variance 1."""
    model, path = trained
    rows = model.load_dataset().observations.astype(np.float64)
    kept = CQL.load(path).observation_statistics
    assert kept is not None
    np.testing.assert_allclose(kept["mean"], rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(kept["var"], rows.var(axis=0), atol=1e-6)
    fresh = normalized("Pendulum-v1")
    loaded = CQL.load(path, env=fresh)
    np.testing.assert_allclose(fresh.obs_rms.mean, rows.mean(axis=0), atol=1e-6)  # type: ignore[union-attr]
    loaded.save(tmp_path / "again")
    assert CQL.load(tmp_path / "again").observation_statistics == kept


def test_an_env_with_statistics_keeps_its_own(trained: tuple[CQL, Path]) -> None:
    env = normalized("Pendulum-v1")
    env.obs_rms.mean, env.obs_rms.count = np.full(3, 7.0), 100.0  # type: ignore[union-attr]
    CQL.load(trained[1], env=env)
    assert env.obs_rms.mean.tolist() == [7.0, 7.0, 7.0]  # type: ignore[union-attr]


def test_export_takes_raw_observations_after_load(trained: tuple[CQL, Path], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, path = trained
    raw = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    expected, _ = model.predict(normalizer.normalize_obs(raw), deterministic=True)
    for name, exporter in (("kept", model), ("loaded", CQL.load(path))):
        file = exporter.export_onnx(tmp_path / name)
        (actions,) = onnxruntime.InferenceSession(str(file)).run(None, {"observation": raw})
        np.testing.assert_allclose(actions, expected, atol=1e-4)


def test_a_loaded_model_trains_on_as_it_did(trained: tuple[CQL, Path]) -> None:
    """Without an env: its task is made again, and normalised as before."""
    learner = CQL.load(trained[1], dataset=DATA).learn(2)
    assert learner._vec_normalize_env is not None
    assert learner.observation_statistics == CQL.load(trained[1]).observation_statistics


def test_the_shell_evaluates_with_the_models_statistics(trained: tuple[CQL, Path]) -> None:
    model, path = trained
    result = CliRunner().invoke(app, ["evaluate", str(path), "--episodes", "2", "--seed", "0"])
    assert result.exit_code == 0, result.output
    env = normalized("Pendulum-v1")
    CQL.load(path, env=env)
    env.seed(0)
    mean, _ = evaluate_policy(model, env, 2, warn=False)
    assert f"return {mean:.1f}" in result.output


@pytest.mark.parametrize("change", [{"mean": [0.0]}, {"var": [-1.0, 1.0, 1.0]}, {"clip_obs": "x"}, {"epsilon": None}])
def test_forged_statistics_are_refused(trained: tuple[CQL, Path], change: dict[str, Any], tmp_path: Path) -> None:
    state = trained[0].observation_statistics
    assert state is not None
    forged = with_option(trained[1], tmp_path / "forged.zip", "observation_statistics", state | change)
    with pytest.raises(ValueError, match="observation_statistics"):
        CQL.load(forged)
