"""Every entry of every packaged YAML file makes a model, and published numbers arrive in it as they should."""

from __future__ import annotations

import inspect
import math
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces

import sb3_offline
from sb3_offline import CQL
from sb3_offline.catalogue import BUILTIN_TASKS
from sb3_offline.datasets import SpacesOnlyEnv
from sb3_offline.training.schedules import parse_schedule
from sb3_offline.zoo import algorithms, config_path
from sb3_offline.zoo.configs import ZOO_KEYS, check_hyperparams, find_recipe

# observation and action dimensions of D4RL's tasks
DIMENSIONS = {
    "hopper": (11, 3),
    "halfcheetah": (17, 6),
    "walker2d": (17, 6),
    "antmaze": (29, 8),
    "pen": (45, 24),
    "door": (39, 28),
    "hammer": (46, 26),
    "relocate": (39, 30),
}
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")

# OfflineRL-Kit's suggestions for COMBO: rollout length, weight
PUBLISHED_COMBO = {
    "halfcheetah-medium-v2": (5, 0.5),
    "hopper-medium-v2": (5, 5.0),
    "walker2d-medium-v2": (1, 5.0),
    "halfcheetah-medium-replay-v2": (5, 0.5),
    "hopper-medium-replay-v2": (5, 0.5),
    "walker2d-medium-replay-v2": (1, 0.5),
    "halfcheetah-medium-expert-v2": (5, 5.0),
    "hopper-medium-expert-v2": (5, 5.0),
    "walker2d-medium-expert-v2": (1, 5.0),
}


def entries(algo: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(config_path(algo).read_text())


ALL_ENTRIES = [(algo, key) for algo in algorithms() for key in entries(algo)]


def env_for(algo: str, key: str) -> gym.Env:
    if "/" in key:
        return gym.make(key)
    if spaces.Discrete in algorithms()[algo].supported_spaces["action"]:
        return gym.make("CartPole-v1")
    observation, action = DIMENSIONS.get(key.partition("-")[0], (3, 1))
    return SpacesOnlyEnv(spaces.Box(-np.inf, np.inf, (observation,), np.float64), spaces.Box(-1.0, 1.0, (action,), np.float32))


@pytest.mark.parametrize(("algo", "key"), ALL_ENTRIES)
def test_every_entry_makes_its_model(algo: str, key: str) -> None:
    hyperparams = entries(algo)[key]
    check_hyperparams(algorithms()[algo], hyperparams, key)
    assert isinstance(hyperparams["n_timesteps"], int)
    options = {name: value for name, value in hyperparams.items() if name not in (*ZOO_KEYS, "policy")}
    for name, value in options.items():
        if isinstance(value, str):
            assert not re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?", value), (name, value)  # 1e-4 without a dot is text to YAML
            options[name] = parse_schedule(value) or value  # as the zoo does
    model = algorithms()[algo](hyperparams["policy"], env_for(algo, key), seed=0, device="cpu", **options)
    for name, value in options.items():
        if name in ("policy_kwargs", "learning_rate"):
            continue
        read = getattr(model, name)
        if is_dataclass(read) and isinstance(value, dict):  # an option of several fields
            read = {"kind": value["kind"]} | {field: getattr(read, field) for field in value if field != "kind"}
        assert read == value, name


@pytest.mark.parametrize("algo", algorithms())
def test_every_algorithm_has_its_default_and_its_data(algo: str) -> None:
    discrete = spaces.Discrete in algorithms()[algo].supported_spaces["action"]
    task = "CartPole-v1" if discrete else "Pendulum-v1"
    packaged = {f"sb3_offline/{name}" for name in BUILTIN_TASKS if BUILTIN_TASKS[name] == task}
    assert {"default", *packaged} <= entries(algo).keys()


@pytest.mark.parametrize("algo", ["cql", "combo", "dromo", "mopo"])
def test_locomotion_is_covered(algo: str) -> None:
    wanted = {f"{task}-{quality}-v2" for task in ("hopper", "halfcheetah", "walker2d") for quality in QUALITIES}
    assert wanted <= entries(algo).keys()


@pytest.mark.parametrize("algo", algorithms())
def test_default_is_the_constructors_or_says_why(algo: str) -> None:
    """Run by the zoo without an entry, an algorithm is what its class and its page in the docs say."""
    text = re.search(r"^default:\n((?:  .*\n)+)", config_path(algo).read_text(), re.MULTILINE)
    assert text is not None
    explained = set(re.findall(r"^  (\w+):.*  # \S", text[1], re.MULTILINE))
    parameters = inspect.signature(algorithms()[algo]).parameters
    for name, value in entries(algo)["default"].items():
        if name in (*ZOO_KEYS, "policy", "policy_kwargs", *explained):
            continue
        assert parameters[name].default == value, name


@pytest.mark.parametrize("algo", ["mopo"])
def test_learned_weight_never_goes_with_stale_rollouts(algo: str) -> None:
    """docs/mopo.md: alpha follows the latest rollouts, and stale ones make it swing."""
    most = inspect.signature(algorithms()[algo]).parameters["rollout_freq"].default
    for key, entry in entries(algo).items():
        assert "penalty_weight" in entry or entry.get("rollout_freq", most) <= most, key


@pytest.mark.parametrize("algo", ["combo", "dromo"])
def test_locomotion_is_the_recipe_it_cites(algo: str) -> None:
    """OfflineRL-Kit's penalty: all rows of the batch, one action of each kind."""
    for key in entries(algo):
        if key.startswith(("hopper", "halfcheetah", "walker2d")):
            entry = entries(algo)[key]
            penalty = (entry["conservative"], entry["penalty_states"], entry["n_action_samples"])
            assert penalty == ("logsumexp", "mix", 1), key


@pytest.mark.parametrize("algo", ["combo", "dromo"])
def test_published_weights_are_halved(algo: str) -> None:
    for key, (length, weight) in PUBLISHED_COMBO.items():
        entry = entries(algo)[key]
        assert (entry["rollout_length"], entry["conservative_weight"]) == (length, weight / 2), key


def test_the_weight_of_cql_is_half_of_the_published_5() -> None:
    assert {entries("cql")[f"hopper-{quality}-v2"]["conservative_weight"] for quality in QUALITIES} == {2.5}


@pytest.mark.parametrize("algo", algorithms())
def test_each_converted_number_names_the_published_one(algo: str) -> None:
    lines = re.findall(
        r"^ +(conservative_weight|target_gap): (\S+)(?:  # (.*))?$", config_path(algo).read_text(), re.MULTILINE
    )
    for name, value, comment in lines:
        if not comment:  # the packaged data, for which nothing is published
            weights = {"cql": "1.0", "discrete_cql": "5.0", "discrete_combo": "2.0", "discrete_dromo": "2.0"}
            assert (name, value) == ("conservative_weight", weights.get(algo, "0.1"))
            continue
        published = float(re.fullmatch(r"(?:published|half of) (\S+)", comment).group(1))  # type: ignore[union-attr]
        ours = published / 2 if name == "conservative_weight" else published - math.log(3 * 10)
        assert float(value) == pytest.approx(ours, abs=1e-4)
    if algo == "cql":
        assert len(lines) == 5


def test_half_the_published_weight_has_the_published_gradient() -> None:
    """Published: sum_j mean (Q_j - y)^2 + w gap_j. Its gradient is twice that of our loss with w / 2."""
    published_weight = 5.0
    model = CQL(
        "MlpPolicy",
        "sb3_offline/Pendulum-medium-v0",
        conservative_weight=published_weight / 2,
        policy_kwargs={"net_arch": [16]},
        batch_size=32,
        seed=0,
        device="cpu",
    )
    model.prepare(model.load_dataset(), progress_bar=False)
    nets, batch = model.networks(), model.sample_batch()
    noise = model.draw_noise(batch)
    parameters = list(model.critic.parameters())
    loss, _ = model.critic_loss(nets, batch, noise)
    ours = th.autograd.grad(loss, parameters)

    q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
    squared = (q - model.td_target(nets, batch, noise)).square().mean(dim=1).sum()
    gap = (model.terms[0].out_of_data_value(nets, batch, noise) - q).mean(dim=1).sum()
    published = th.autograd.grad(squared + published_weight * gap, parameters)
    for mine, theirs in zip(ours, published, strict=True):
        th.testing.assert_close(2 * mine, theirs)


@pytest.mark.parametrize(
    ("data", "recipe"),
    [
        ("minari/mujoco.hopper.medium-v0", "hopper-medium-v2"),
        ("minari/offline.hopper.medium-replay-v0", "hopper-medium-replay-v2"),
        ("data/hopper_medium_expert-v2.hdf5", "hopper-medium-expert-v2"),
        ("halfcheetah_medium-v0.hdf5", "halfcheetah-medium-v2"),
        ("D4RL/pen/human-v2", "pen-human-v1"),
        ("D4RL/antmaze/umaze-diverse-v1", "antmaze-umaze-diverse-v2"),
        ("mujoco/hopper/simple-v0", None),
        ("Hopper-v5", None),
        ("log.npz", None),
        ("default", None),
    ],
)
def test_an_entry_is_found_by_the_name_of_the_data(data: str, recipe: str | None) -> None:
    keys = [key for key in entries("cql") if key != "default"]
    assert find_recipe(keys, data) == recipe


def test_an_algorithm_of_ones_own_has_the_constructors_defaults() -> None:
    assert config_path("of_my_own").name == "default.yml"
    assert entries("of_my_own") == {"default": {"policy": "MlpPolicy", "n_timesteps": 100_000}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"conservativ_weight": 1.0}, TypeError, "Did you mean 'conservative_weight'"),
        ({"zzqqxx": 1}, TypeError, r"takes no 'zzqqxx'\. It takes: averaging_rate, batch_size, (?!.*_init_setup_model)"),
        ({"_init_setup_model": False}, TypeError, "takes no '_init_setup_model'"),
        ({"n_timestep": 1}, TypeError, "Did you mean 'n_timesteps'"),
        ({"n_timesteps": None}, ValueError, "has no 'n_timesteps'"),
        ({"policy": None}, ValueError, "has no 'policy'"),
        ({"n_envs": 4}, ValueError, "n_envs=4 cannot apply"),
        ({"normalize": True}, ValueError, "norm_reward=False"),
        ({"normalize": {"norm_obs": True}}, ValueError, "norm_reward=False"),
        ({"replay_buffer_class": "HerReplayBuffer"}, TypeError, "the dataset is the buffer"),
        ({"frame_stack": 4}, TypeError, "single observations"),
        ({"noise_type": "normal"}, TypeError, "nothing is explored"),
        ({"train_freq": 4}, TypeError, "one timestep is one gradient step"),
        ({"tensorboard_log": "logs"}, TypeError, "give it to the command, by --tensorboard-log"),
        ({"env": "Pendulum-v1"}, TypeError, "give it to the command, by --env"),
        ({"seed": 1}, TypeError, "by --seed"),
    ],
)
def test_bad_entries_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    hyperparams = {"policy": "MlpPolicy", "n_timesteps": 10, **change}
    hyperparams = {name: value for name, value in hyperparams.items() if value is not None}
    with pytest.raises(error, match=message):
        check_hyperparams(CQL, hyperparams, "cql.yml (default)")


@pytest.mark.parametrize(
    "normalize", [False, "dict(norm_obs=True, norm_reward=False)", {"norm_obs": True, "norm_reward": False}]
)
def test_observations_may_be_normalised(normalize: Any) -> None:
    check_hyperparams(CQL, {"policy": "MlpPolicy", "n_timesteps": 10, "normalize": normalize}, "here")


@pytest.mark.slow
def test_the_wheel_holds_the_configurations(tmp_path: Path) -> None:
    root, copy = Path(sb3_offline.__file__).parent.parent, tmp_path / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    for name in ("sb3_offline", "zoo_configs"):
        shutil.copytree(root / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True, capture_output=True)  # in a copy: setuptools leaves its build/ behind
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"sb3_offline/zoo_configs/{algo}.yml" for algo in algorithms()} <= set(names)
