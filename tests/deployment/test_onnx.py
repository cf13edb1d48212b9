"""The exported file does what predict does, from raw observations, for any number of rows."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import CQL, PreQN
from sb3_offline.deployment import onnx as onnx_export
from tests.conftest import FAST

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(path: Path, observations: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"observation": observations})[0]


def test_actions_are_predicts_in_the_environments_units(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST).learn(20)
    path = model.export_onnx(tmp_path / "deep" / "policy")
    assert path == tmp_path / "deep" / "policy.onnx"
    observations = pendulum_arrays["observations"][:7].astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(run(path, observations), expected, atol=1e-5)
    assert run(path, observations[:1]).shape == (1, 1)
    assert [file.name for file in path.parent.iterdir()] == ["policy.onnx"]
    huge = 1e3 * np.ones((1, 3), dtype=np.float32)
    assert abs(run(path, huge)).max() <= 2.0  # Pendulum's torque, not [-1, 1]


def test_the_normaliser_is_baked_in(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    model = CQL("MlpPolicy", env, dataset=pendulum_arrays, **FAST).learn(20)
    observations = pendulum_arrays["observations"][:5].astype(np.float32)
    expected, _ = model.predict(env.normalize_obs(observations), deterministic=True)
    np.testing.assert_allclose(run(model.export_onnx(tmp_path / "policy.onnx"), observations), expected, atol=1e-4)


def test_a_deterministic_actor_is_exported_too(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = PreQN("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, seed=0)
    observations = pendulum_arrays["observations"][:3].astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(run(model.export_onnx(tmp_path / "policy"), observations), expected, atol=1e-5)


def test_a_file_that_cannot_be_written_is_named(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST)
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    for target, remedy in (("file/policy.onnx", "a part of the path is a file"), ("folder.onnx", "it is a folder: name")):
        with pytest.raises(OSError, match=rf"^{tmp_path}/{target} could not be written .*{remedy}"):
            model.export_onnx(tmp_path / target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.onnx"]


def test_a_file_that_would_act_differently_is_not_written(
    pendulum_arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST)
    earlier = tmp_path / "policy.onnx"
    earlier.write_bytes(b"earlier")
    forward = onnx_export.DeterministicPolicy.forward
    monkeypatch.setattr(onnx_export.DeterministicPolicy, "forward", lambda self, *inputs: forward(self, *inputs) + 0.1)
    with pytest.raises(RuntimeError, match=r"by up to 0\.025 of the action space's width"):
        model.export_onnx(earlier)
    assert earlier.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [earlier]
