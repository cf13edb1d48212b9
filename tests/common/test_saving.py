"""Saved models: everything comes back, and a file runs no code."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_offline
from sb3_offline import CQL, OfflineSAC, PreQN, load_dataset
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.model_file import HEADER, ModelFile
from sb3_offline.files.trust import trusting
from sb3_offline.training.schedules import HoldThenDecay
from tests.conftest import Arrays, Trap
from tests.contract.subjects import assert_equal_parameters
from tests.witness import nothing_unpickled

DATA = "sb3_offline/Pendulum-medium-v0"
OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "seed": 0, "device": "cpu"}
PREQN = SMALL | {"policy_kwargs": {"net_arch": [8], "activation_fn": th.nn.Tanh}}


def test_load_takes_the_data_of_a_given_env(tmp_path: Path) -> None:
    """As an id and as an object; so does set_env. Data that are named go before the env's."""
    model = CQL("MlpPolicy", DATA, **SMALL)
    model.save(tmp_path / "model")
    other = "sb3_offline/Pendulum-medium-replay-v0"
    for env in (other, gym.make(other), DummyVecEnv([lambda: gym.make(other)])):
        loaded = CQL.load(tmp_path / "model", env=env, device="cpu")
        assert loaded.load_dataset().info.dataset_id == other
    loaded = CQL.load(tmp_path / "model", env=gym.make(other), dataset=DATA, device="cpu")
    assert loaded.load_dataset().info.dataset_id == DATA
    model.set_env(gym.make(other))
    assert model.load_dataset().info.dataset_id == other
    model.set_env(gym.make("Pendulum-v1"))  # which has none: no data are left
    with pytest.raises(ValueError, match="No data to learn from"):
        model.load_dataset()
    loaded = CQL.load(tmp_path / "model", env=gym.make("Pendulum-v1"), device="cpu")
    assert loaded.load_dataset().info.dataset_id == DATA


def test_a_path_that_ends_in_a_slash_names_the_file_beside_the_folder(tmp_path: Path) -> None:
    """As SB3's; no hidden file inside."""
    model = small()
    (tmp_path / "folder").mkdir()
    model.save(f"{tmp_path}/folder/")
    assert [path.name for path in tmp_path.glob("**/*.zip")] == ["folder.zip"]
    for path in ("", "."):
        with pytest.raises(ValueError, match="give the file's name"):
            model.save(path)


def test_load_does_not_change_the_policy(tmp_path: Path) -> None:
    CQL("MlpPolicy", DATA, **SMALL).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"load cannot change activation_fn\. Leave policy_kwargs out"):
        CQL.load(tmp_path / "model", policy_kwargs={"net_arch": [8], "activation_fn": th.nn.Tanh})
    assert CQL.load(tmp_path / "model", policy_kwargs={"net_arch": [8], "use_sde": False}, gamma=0.5).gamma == 0.5
    with pytest.raises(TypeError, match=r"'learnign_rate'\. Did you mean 'learning_rate'"):
        CQL.load(tmp_path / "model", learnign_rate=1e-3)
    with pytest.raises(FileRefused, match="does not make a CQL with the given learning_rate"):
        CQL.load(tmp_path / "model", custom_objects={"learning_rate": "x"})


def test_normalised_observations_stay_normalised(tmp_path: Path) -> None:
    """Networks that were trained on VecNormalize's observations are not trained on raw ones, nor the other way round."""

    def wrapped(**options: Any) -> VecNormalize:
        return VecNormalize(DummyVecEnv([lambda: gym.make(DATA)]), **options)

    raw = CQL("MlpPolicy", DATA, **SMALL)
    raw.set_env(wrapped(norm_reward=False))  # before training either will do
    raw.set_env(gym.make(DATA))
    raw.learn(2)
    with pytest.raises(ValueError, match="trained on raw observations"):
        raw.set_env(wrapped(norm_reward=False))
    with pytest.raises(ValueError, match="norm_reward=True"):
        raw.set_env(wrapped())
    raw.set_env(wrapped(norm_obs=False, norm_reward=False))
    env = wrapped(norm_reward=False)
    model = CQL("MlpPolicy", env, **SMALL).learn(2)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="trained on normalised observations"):
        CQL.load(tmp_path / "model", env=gym.make(DATA), device="cpu").learn(2)
    fresh = wrapped(norm_reward=False)
    again = CQL.load(tmp_path / "model", env=fresh, device="cpu")
    seen = env.normalize_obs(OBSERVATIONS)
    np.testing.assert_allclose(fresh.normalize_obs(OBSERVATIONS), seen, rtol=1e-6)  # the training's statistics
    alone = CQL.load(tmp_path / "model", device="cpu")  # predict itself normalises nothing, as in SB3
    for loaded in (again, alone):
        np.testing.assert_array_equal(*(each.predict(seen, deterministic=True)[0] for each in (model, loaded)))
    again.learn(2)


def test_the_witness_sees_pickles() -> None:
    with pytest.raises(AssertionError, match="find_class"), nothing_unpickled():
        pickle.loads(pickle.dumps(Path("a")))


def small(algorithm: Any = CQL, **options: Any) -> Any:
    return algorithm("MlpPolicy", DATA, **(SMALL | options))


def rewrite(path: Path, **changed: bytes | None) -> None:
    """Put other members into a file; None takes one away."""
    with zipfile.ZipFile(path) as archive:
        members: dict[str, Any] = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | changed).items():
            if content is not None:
                archive.writestr(name, content)


def edit(path: Path, **changed: Any) -> None:
    """Other hyperparameters in a file."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    rewrite(path, data=json.dumps(data | changed).encode())


def as_before(path: Path) -> None:
    """The file as SB3 alone, and earlier versions, wrote it."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for item in data.values():
        if isinstance(item, dict):
            item.pop(":json:", None)
    rewrite(path, **{"data": json.dumps(data).encode(), HEADER: None})


# --- what comes back ---


def test_known_classes_and_schedules_need_nothing(tmp_path: Path) -> None:
    policy_kwargs = {
        "net_arch": {"pi": [8], "qf": [8]},
        "activation_fn": th.nn.Tanh,
        "optimizer_class": th.optim.AdamW,
        "features_extractor_class": FlattenExtractor,
    }
    options = {"learning_rate": HoldThenDecay(1e-3), "qf_learning_rate": LinearSchedule(1e-3, 1e-4, 0.5)}
    model = small(policy_kwargs=policy_kwargs, **options)
    model.save(tmp_path / "model")
    with nothing_unpickled():
        loaded = CQL.load(tmp_path / "model", device="cpu")
    assert loaded.policy_kwargs | policy_kwargs == loaded.policy_kwargs
    assert isinstance(loaded.actor.optimizer, th.optim.AdamW)
    assert loaded.lr_schedule(0.25) == HoldThenDecay(1e-3)(0.25)
    assert loaded.qf_lr_schedule(0.75) == pytest.approx(1e-3 - 0.25 * 9e-4 / 0.5)


def test_kwargs_custom_objects_and_env_as_in_sb3(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    env = gym.make("Pendulum-v1")
    loaded = CQL.load(tmp_path / "model", env, "cpu", {"gamma": 0.5}, batch_size=4)
    assert (loaded.gamma, loaded.batch_size) == (0.5, 4)
    assert loaded.get_env().num_envs == 1
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        CQL.load(tmp_path / "model", env=gym.make("MountainCarContinuous-v0"), device="cpu")
    with pytest.raises(ValueError, match="must be a dict"):
        CQL.load(tmp_path / "model", custom_objects=["gamma"])  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        CQL.load(tmp_path / "nothing")


def test_env_by_id(tmp_path: Path, pendulum_arrays: Arrays) -> None:
    """As in the constructor: an id of data brings them, a task's id leaves those of the file."""
    replay = "sb3_offline/Pendulum-medium-replay-v0"
    model = CQL("MlpPolicy", "sb3_offline/Pendulum-medium-v0", policy_kwargs={"net_arch": [8]}, batch_size=8, device="cpu")
    model.save(tmp_path / "model")
    for env_id, task, data in [
        ("Pendulum-v1", "Pendulum-v1", "sb3_offline/Pendulum-medium-v0"),
        (replay, replay, replay),
        ("Pendulum-medium-replay-v0", "Pendulum-v1", "Pendulum-medium-replay-v0"),
    ]:
        loaded = CQL.load(tmp_path / "model", env=env_id, device="cpu")
        assert loaded.get_env().get_attr("spec")[0].id == task
        assert loaded.dataset == data
    loaded.learn(1)
    assert loaded.dataset_info.dataset_id == replay
    log = str(tmp_path / "log.npz")
    np.savez(log, **pendulum_arrays)
    assert CQL.load(tmp_path / "model", env=replay, dataset=log, device="cpu").dataset == log
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        CQL.load(tmp_path / "model", env="MountainCarContinuous-v0", device="cpu")
    with pytest.raises(ValueError, match=r"no gymnasium id.*Pendulum-v1 "):
        CQL.load(tmp_path / "model", env="Pendulm-v1", device="cpu")


def test_sb3s_tools_read_our_file(tmp_path: Path) -> None:
    model = small(ent_coef="auto", averaging_rate=0.0).learn(2)
    model.save(tmp_path / "model")
    data, parameters, variables = load_from_zip_file(tmp_path / "model.zip", device="cpu")
    assert data is not None
    assert data["observation_space"] == model.observation_space
    assert data["policy_class"] is type(model.policy)
    assert th.equal(variables["log_ent_coef"], model.log_ent_coef)  # type: ignore[index]
    plain = SAC.load(tmp_path / "model", device="cpu")  # the policy, without this package's algorithm
    expected, found = (m.predict(OBSERVATIONS, deterministic=True)[0] for m in (model, plain))
    np.testing.assert_array_equal(expected, found)
    assert parameters.keys() == model.get_parameters().keys()


@pytest.mark.parametrize(
    ("sb3", "names"), [(SAC, "OfflineSAC CQL SACN EDAC"), (TD3, "TD3BC ReBRAC PreQN"), (DQN, "DiscreteCQL")]
)
def test_sb3_loads_what_the_page_lists(sb3: Any, names: str, tmp_path: Path) -> None:
    """docs/online_after_offline.md, With SB3's own load."""
    data = "sb3_offline/CartPole-medium-replay-v0" if sb3 is DQN else "sb3_offline/Pendulum-medium-v0"
    for name in names.split():
        model = getattr(sb3_offline, name)("MlpPolicy", data, policy_kwargs={"net_arch": [8, 8]}, device="cpu")
        model.save(tmp_path / "model")
        rows = np.ones((2, *model.observation_space.shape), np.float32)
        plain = sb3.load(tmp_path / "model", device="cpu")
        expected, found = (each.predict(rows, deterministic=True)[0] for each in (model, plain))
        np.testing.assert_array_equal(expected, found)


def test_parameters_from_a_file(tmp_path: Path) -> None:
    model, other = small().learn(2), small(seed=1)
    model.save(tmp_path / "model")
    with nothing_unpickled():
        other.set_parameters(tmp_path / "model", device="cpu")
    assert_equal_parameters(model, other)
    assert ModelFile(tmp_path / "model").parameters().keys() == model.get_parameters().keys()
    as_before(tmp_path / "model.zip")  # its tensors never were a danger
    small(seed=2).set_parameters(str(tmp_path / "model.zip"))


# --- what is not plain data ---


def halved(progress: float) -> float:
    return 1e-3 * 0.5 ** (1 - progress)


def test_a_schedule_of_ones_own(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"learning_rate is .*halved, which is not plain data.*custom_objects="):
        small(learning_rate=halved).save(tmp_path / "model")
    with pytest.raises(FileRefused, match=r"needs what only unpickling.*'learning_rate' \(<class 'function'>\)"):
        CQL.load(tmp_path / "model")
    with nothing_unpickled():
        loaded = CQL.load(tmp_path / "model", custom_objects={"learning_rate": halved}, device="cpu")
        assert CQL.load(tmp_path / "model", learning_rate=1e-4, device="cpu").lr_schedule(1.0) == 1e-4
    assert loaded.lr_schedule(0.0) == 5e-4
    assert CQL.load(tmp_path / "model", device="cpu", trust=True).learning_rate(0.0) == 5e-4  # type: ignore[operator]


class OwnExtractor(FlattenExtractor):
    """Somebody's own."""


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    policy_kwargs = {"net_arch": [8], "features_extractor_class": OwnExtractor}
    with pytest.warns(UserWarning, match=r"policy_kwargs\['features_extractor_class'\] is .*OwnExtractor"):
        small(policy_kwargs=policy_kwargs).save(tmp_path / "model")
    with pytest.raises(FileRefused, match="'policy_kwargs'"):
        CQL.load(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", custom_objects={"policy_kwargs": policy_kwargs}, device="cpu")
    assert isinstance(loaded.actor.features_extractor, OwnExtractor)


def test_files_of_before_need_trust(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path / "model")
    as_before(tmp_path / "model.zip")
    with pytest.raises(FileRefused, match=r"model is pickled: .*CQL\.load\(path, trust=True\), then save it again"):
        CQL.load(tmp_path / "model")
    assert_equal_parameters(model, CQL.load(tmp_path / "model", device="cpu", trust=True))
    with trusting(True):
        assert CQL.load(tmp_path / "model", device="cpu").gamma == model.gamma
    with trusting(False), pytest.raises(FileRefused):
        CQL.load(tmp_path / "model")


def test_another_class_is_named(tmp_path: Path) -> None:
    small(OfflineSAC).save(tmp_path / "model")
    with pytest.raises(FileRefused, match=r"holds a OfflineSAC, not a CQL: load it by OfflineSAC\.load"):
        CQL.load(tmp_path / "model", trust=True)
    assert ModelFile(tmp_path / "model").header()["class"] == "OfflineSAC"  # type: ignore[index]


# --- files that mean harm ---


def test_code_in_any_member_is_not_run(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    original = (tmp_path / "model.zip").read_bytes()
    trap = Trap(tmp_path / "trace")
    stream = io.BytesIO()
    th.save({"weight": trap}, stream)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = archive.namelist()
    for name in [*names, "evil.pth", "tensors.pth", "evil.pkl"]:
        for content in (pickle.dumps(trap), stream.getvalue()):
            (tmp_path / "model.zip").write_bytes(original)
            rewrite(tmp_path / "model.zip", **{name: content})
            with nothing_unpickled():
                if name in ("_stable_baselines3_version", "system_info.txt", "evil.pkl"):
                    CQL.load(tmp_path / "model", device="cpu")  # nobody reads these
                    continue
                with pytest.raises(FileRefused, match=r"model"):
                    CQL.load(tmp_path / "model", device="cpu")
    assert not (tmp_path / "trace").exists()


def test_a_pickle_among_hyperparameters_is_not_run(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    evil = {":type:": "float", ":serialized:": base64.b64encode(pickle.dumps(Trap(tmp_path / "trace"))).decode()}
    original = (tmp_path / "model.zip").read_bytes()
    with nothing_unpickled():
        for key in ("gamma", "observation_space", "something_new", "_logger"):
            edit(tmp_path / "model.zip", **{key: evil})
            with pytest.raises(FileRefused, match=f"needs what only unpickling could bring back.*'{key}'"):
                CQL.load(tmp_path / "model")
            (tmp_path / "model.zip").write_bytes(original)
        edit(tmp_path / "model.zip", gamma=evil | {":json:": 0.5})  # what plain data there is, is taken
        assert CQL.load(tmp_path / "model", device="cpu").gamma == 0.5
    assert not (tmp_path / "trace").exists()
    edit(tmp_path / "model.zip", gamma=evil)
    with pytest.raises(FileRefused, match="gamma must be a number"):  # what it made is none
        CQL.load(tmp_path / "model", device="cpu", trust=True)  # the trap is real
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"predict": 1}, "'predict', which is none of CQL"),
        ({"logger": 1}, "'logger', which is none of CQL"),
        ({"env": "os:system-v0"}, "'env', which is none of CQL"),
        ({"policy_class": {":serialized:": "", ":json:": {"!": "class", "name": "os.system"}}}, "policy_class cannot be read"),
        ({"policy_class": "NoPolicy"}, "NoPolicy"),
        ({"policy_kwargs": 3}, "does not make a CQL"),
        (
            {"policy_kwargs": {"net_arch": [16], "layer_norm": True}},
            "does not make a CQL: RuntimeError: .*SACPolicy: size mismatch",
        ),
        ({"policy_kwargs": {"net_arch": [10**9, 10**9]}}, "asks for networks much larger than its tensors"),
        ({"policy_kwargs": {"net_arch": [1] * 50_000}}, "asks for networks much larger"),
        ({"observation_space": None}, "observation_space is no space"),
        ({"gamma": {"!": "x"}, "action_space": [1]}, "action_space is no space"),
        ({"learning_rate": "fast"}, "does not make a CQL"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_hyperparameters_that_cannot_be(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    edit(tmp_path / "model.zip", **changed)
    with nothing_unpickled(), pytest.raises(ValueError, match=message):
        CQL.load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": None}, "no member 'data'"),
        ({"data": b"\xff"}, "is damaged: its hyperparameters are no JSON"),
        ({"data": b"[" * 100_000}, "is damaged: its hyperparameters are no JSON"),
        ({"data": b"[]"}, "are no JSON object"),
        ({"policy.pth": None}, r"is damaged: policy\.pth is missing"),
        ({HEADER: b"{}"}, "is of format None"),
        ({HEADER: json.dumps({"format": 1, "class": "CQL", "members": [[], 1]}).encode()}, r"damaged: \[\], 1 is missing"),
        (
            {HEADER: json.dumps({"format": 2, "class": "CQL", "members": [], "version": "9"}).encode()},
            "format 2.*reads 1.*version 9",
        ),
        ({"../evil": b""}, "outside of the archive"),
        ({"zeros": bytes(10)}, None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_members_that_cannot_be(changed: dict[str, bytes | None], message: str | None, tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    rewrite(tmp_path / "model.zip", **changed)
    if message is None:
        CQL.load(tmp_path / "model", device="cpu")
        return
    with nothing_unpickled(), pytest.raises(FileRefused, match=message):
        CQL.load(tmp_path / "model", device="cpu")


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(70 * 2**20))
    with pytest.raises(FileRefused, match="as a zip bomb does"):
        CQL.load(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_no_model_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(FileRefused, match=r"model\.zip is no zip archive"):
        CQL.load(tmp_path / "model.zip")
    with pytest.raises(FileRefused, match="no zip archive"):
        small().set_parameters(tmp_path / "model.zip")


# --- buffers ---


def test_the_buffer_is_data_and_no_pickle(tmp_path: Path) -> None:
    model = small().learn(1)
    model.save_replay_buffer(tmp_path / "buffer")
    data = load_dataset(tmp_path / "buffer.npz", env_id="Pendulum-v1")
    assert data.fingerprint() == load_dataset(DATA).fingerprint()
    other = CQL("MlpPolicy", "Pendulum-v1", **SMALL)
    other.load_replay_buffer(tmp_path / "buffer.npz")
    other.learn(1)
    assert len(other.replay_buffer.observations) == len(data)


@pytest.mark.parametrize("name", ["buffer", "buffer.pkl"])
def test_a_buffer_comes_back_by_the_name_that_was_saved(name: str, tmp_path: Path) -> None:
    model, path = small(), tmp_path / name
    model.save_replay_buffer(path)
    other = CQL("MlpPolicy", "Pendulum-v1", **SMALL)
    for given in (path, str(path)):
        other.load_replay_buffer(given)
        assert other.dataset == str(tmp_path / "buffer.npz")
    path.write_bytes(b"")  # what is there by that very name goes first
    with pytest.raises(FileRefused, match=r"buffer\S* is no \.npz or \.hdf5 file"):
        other.load_replay_buffer(path)


def test_a_buffer_that_was_not_saved_is_refused_by_the_given_name(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match=r"buffer\.pkl is no \.npz"):
        small().load_replay_buffer(tmp_path / "buffer.pkl")


def test_what_was_collected_online_is_data_too(tmp_path: Path) -> None:
    model = PreQN("MlpPolicy", "Pendulum-v1", **PREQN)
    model.learn_online(30, learning_starts=50)
    model.save_replay_buffer(tmp_path / "buffer.npz")
    assert len(load_dataset(tmp_path / "buffer.npz", env_id="Pendulum-v1")) == 30


def test_a_pickled_buffer_needs_trust(tmp_path: Path) -> None:
    online = SAC("MlpPolicy", "Pendulum-v1", learning_starts=100, policy_kwargs={"net_arch": [8]}).learn(40)
    online.save_replay_buffer(tmp_path / "buffer.pkl")
    model = CQL("MlpPolicy", "Pendulum-v1", **SMALL)
    with nothing_unpickled(), pytest.raises(FileRefused, match=r"buffer\.pkl is no \.npz.*say trust=True"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl", trust=True)
    assert len(model.load_dataset()) == 40
