"""A normaliser's statistics beside a model, as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline.buffers.statistics import STATISTICS, load_statistics, save_statistics
from sb3_offline.files.archives import FileRefused


def pendulum() -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make("Pendulum-v1")])


@pytest.fixture
def normalizer() -> VecNormalize:
    made = VecNormalize(pendulum(), clip_obs=7.0, epsilon=1e-6)
    made.reset()
    for _ in range(20):
        made.step(np.ones((1, 1), dtype=np.float32))
    return made


def test_the_same_numbers_come_back(normalizer: VecNormalize, tmp_path: Path) -> None:
    save_statistics(normalizer, tmp_path / "run")
    found = load_statistics(tmp_path / "run", pendulum())
    assert found is not None
    observations = np.random.default_rng(0).normal(scale=10, size=(50, 3))
    np.testing.assert_array_equal(found.normalize_obs(observations), normalizer.normalize_obs(observations))
    assert np.abs(found.normalize_obs(observations)).max() == 7.0
    assert found.obs_rms.count == normalizer.obs_rms.count  # type: ignore[attr-defined]
    assert found.ret_rms.var == normalizer.ret_rms.var
    assert not found.training
    assert not found.norm_reward
    assert load_statistics(tmp_path, pendulum()) is None


def test_without_observations(tmp_path: Path) -> None:
    save_statistics(VecNormalize(pendulum(), norm_obs=False), tmp_path)
    found = load_statistics(tmp_path, pendulum())
    assert found is not None
    assert not found.norm_obs


def test_pickled_statistics_need_trust(normalizer: VecNormalize, tmp_path: Path) -> None:
    normalizer.save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(FileRefused, match=r"vecnormalize\.pkl is pickled.*--trust"):
        load_statistics(tmp_path, pendulum())
    found = load_statistics(tmp_path, pendulum(), trust=True)
    assert found is not None
    assert found.clip_obs == 7.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: f"[{text}]",
        lambda text: text.replace('"clip_obs"', '"clip_sbo"'),
        lambda text: text.replace("RunningMeanStd", "RunningMean"),
        lambda text: text.replace('"shape": [3]', '"shape": [1]'),
        lambda text: json.dumps(json.loads(text) | {"obs_rms": 3}),
    ],
)
def test_damaged_statistics(damage, normalizer: VecNormalize, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_statistics(normalizer, tmp_path)
    path = tmp_path / STATISTICS
    path.write_text(damage(json.dumps(without_checksum(path))))
    with pytest.raises(FileRefused, match=r"vecnormalize\.json is damaged, or belongs to another task"):
        load_statistics(tmp_path, pendulum())


def without_checksum(path: Path) -> dict[str, object]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}


def test_no_flipped_bit_is_taken(normalizer: VecNormalize, tmp_path: Path) -> None:
    save_statistics(normalizer, tmp_path)
    path, rng = tmp_path / STATISTICS, np.random.default_rng(0)
    whole, before = path.read_bytes(), normalizer.obs_rms
    for position in rng.integers(len(whole) * 8, size=200):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            taken = load_statistics(tmp_path, pendulum())
        except FileRefused:
            continue
        assert taken is not None
        assert vars(taken.obs_rms).keys() == vars(before).keys()
        np.testing.assert_array_equal(taken.obs_rms.mean, before.mean)  # the name of the checksum was hit
    path.write_bytes(whole)
    path.write_text(json.dumps(without_checksum(path)))  # as earlier versions wrote it
    found = load_statistics(tmp_path, pendulum())
    assert found is not None
    np.testing.assert_array_equal(found.obs_rms.var, before.var)


def test_links_out_of_the_folder_are_not_followed(normalizer: VecNormalize, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save_statistics(normalizer, tmp_path)
    (tmp_path / "run" / STATISTICS).symlink_to(tmp_path / STATISTICS)
    with pytest.raises(FileRefused, match=r"vecnormalize\.json is a link out of the run's folder"):
        load_statistics(tmp_path / "run", pendulum())


def test_statistics_of_another_task(normalizer: VecNormalize, tmp_path: Path) -> None:
    save_statistics(normalizer, tmp_path)
    with pytest.raises(FileRefused, match="obs_rms is of another shape"):
        load_statistics(tmp_path, DummyVecEnv([lambda: gym.make("MountainCarContinuous-v0")]))
