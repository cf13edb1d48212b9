"""What SB3's users do between two steps, and around a run, does what it does in SB3."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_offline import CQL, MOPO, DiscreteCQL, OfflineSAC
from tests.conftest import FAST, FAST_MODEL_BASED, record

DATA = "sb3_offline/Pendulum-medium-v0"
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "device": "cpu"}
OBSERVATION = np.ones(3, np.float32)


class Dropout(BaseFeaturesExtractor):
    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, 8)
        self.net = th.nn.Sequential(th.nn.Linear(space.shape[0], 8), th.nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


class Does(BaseCallback):
    """Something at every step, whose results are kept."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what, self.seen = what, []  # type: ignore[var-annotated]

    def _on_step(self) -> bool:
        self.seen.append(self.what(self))
        return True


# --- train and eval mode ---


def mode_during_updates(monkeypatch: pytest.MonkeyPatch, algorithm: Any, data: Any, act: Any) -> list[bool]:
    """Whether the networks were in training mode while each update ran."""
    modes: list[bool] = []
    original = algorithm.gradient_step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        network = self.q_net if hasattr(self, "q_net") else self.critic
        modes.append(network.training and (not hasattr(self, "actor") or self.actor.training))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(algorithm, "gradient_step", watched)
    options = SMALL | {"policy_kwargs": {"features_extractor_class": Dropout, "net_arch": [8]}}
    algorithm("MlpPolicy", **data, **options).learn(6, Does(act))
    return modes


def test_every_update_trains_whatever_a_callback_does(monkeypatch: pytest.MonkeyPatch) -> None:
    acts = [
        lambda callback: callback.model.predict(OBSERVATION),
        lambda callback: callback.model.actor.eval(),
        lambda callback: evaluate_policy(callback.model, gym.make("Pendulum-v1", max_episode_steps=2), 1, warn=False),
    ]
    for act in acts:
        assert mode_during_updates(monkeypatch, CQL, {"env": DATA}, act) == [True] * 6


def test_every_update_trains_of_a_q_network(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"env": "CartPole-v1", "dataset": record("CartPole-v1", 20)}
    modes = mode_during_updates(monkeypatch, DiscreteCQL, data, lambda c: c.model.predict(np.ones(4, np.float32)))
    assert modes == [True] * 6


def test_export_in_a_callback_leaves_training_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    modes = mode_during_updates(
        monkeypatch,
        OfflineSAC,
        {"env": DATA},
        lambda c: c.model.export_onnx(tmp_path / "m.onnx") if c.n_calls == 3 else None,
    )
    assert modes == [True] * 6


# --- random streams ---


def trained_after(seed: int | None, path: Path, algorithm: Any = CQL) -> np.ndarray:
    model = algorithm.load(path)
    model.set_random_seed(seed)
    return model.learn(5).predict(OBSERVATION, deterministic=True)[0]


@pytest.mark.parametrize("own_seed", [0, None])
def test_set_random_seed_decides_after_load(own_seed: int | None, tmp_path: Path) -> None:
    CQL("MlpPolicy", DATA, seed=own_seed, **SMALL).learn(2).save(tmp_path / "m")
    first, again, other = (trained_after(seed, tmp_path / "m") for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_set_random_seed_repeats_within_a_process() -> None:
    """Drawn before it: the same streams begin anew."""
    model = OfflineSAC("MlpPolicy", DATA, **SMALL).learn(3)
    draws = []
    for seed in (5, 5, 6):
        model.set_random_seed(seed)
        draws.append((model.sample_batch().rewards, model.normals(4)))
    assert th.equal(draws[0][0], draws[1][0])
    assert th.equal(draws[0][1], draws[1][1])
    assert not th.equal(draws[0][0], draws[2][0])
    assert not th.equal(draws[0][1], draws[2][1])


def test_set_random_seed_reaches_the_rollouts(tmp_path: Path) -> None:
    MOPO("MlpPolicy", DATA, **FAST_MODEL_BASED).learn(2).save(tmp_path / "m")
    first, again, other = (trained_after(seed, tmp_path / "m", MOPO) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# --- the log ---


def test_callbacks_read_the_means_of_the_steps_since_the_last_line() -> None:
    def look(callback: BaseCallback) -> tuple[bool, float, float]:
        values = callback.logger.name_to_value
        return "train/critic_loss" in values, values["train/critic_loss"], dict(values.items())["train/critic_loss"]

    looks = Does(look)
    model = CQL("MlpPolicy", DATA, **SMALL | {"seed": 0})
    losses: list[float] = []
    original = model.critic_loss

    def watched(*args: Any) -> Any:
        result = original(*args)
        losses.append(float(result[0]))
        return result

    model.critic_loss = watched  # type: ignore[method-assign]
    model.learn(7, looks, log_interval=4)
    expected = [np.mean(losses[(0 if step < 4 else 4) : step + 1]) for step in range(7)]
    assert [found for found, _, _ in looks.seen] == [True] * 7
    np.testing.assert_allclose([mean for _, mean, _ in looks.seen], expected, rtol=1e-5)
    np.testing.assert_allclose([mean for _, _, mean in looks.seen], expected, rtol=1e-5)


def test_looking_changes_no_weight() -> None:
    results = [
        CQL("MlpPolicy", DATA, **SMALL, seed=0).learn(5, callback).predict(OBSERVATION, deterministic=True)[0]
        for callback in (None, Does(lambda c: c.logger.name_to_value["train/q_data"]))
    ]
    assert np.array_equal(*results)


def scalars(folder: Path, tag: str) -> list[int]:
    """The steps at which a run's TensorBoard file holds a value."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(next(folder.iterdir())))
    events.Reload()
    return [event.step for event in events.Scalars(tag)] if tag in events.Tags()["scalars"] else []


@pytest.mark.parametrize(("log_interval", "steps"), [(1000, [7]), (7, [7]), (3, [3, 6, 7]), (None, [])])
def test_a_run_ends_with_a_log_line(log_interval: int | None, steps: list[int], tmp_path: Path) -> None:
    CQL("MlpPolicy", DATA, tensorboard_log=str(tmp_path), **SMALL).learn(7, log_interval=log_interval)
    assert scalars(tmp_path, "train/critic_loss") == steps


# --- SB3's own algorithm takes a file on ---


def test_a_file_holds_what_sb3_begins_with(tmp_path: Path) -> None:
    CQL("MlpPolicy", DATA, **FAST).learn(2).save(tmp_path / "m")
    sac, fresh = SAC.load(tmp_path / "m", env=gym.make("Pendulum-v1")), SAC("MlpPolicy", "Pendulum-v1")
    for name in ("buffer_size", "learning_starts", "train_freq", "gradient_steps", "action_noise", "target_update_interval"):
        assert getattr(sac, name) == getattr(fresh, name), name
    assert sac.replay_buffer.buffer_size == 1_000_000
    sac.learn(150)
    assert sac.replay_buffer.size() == 150
    assert sac._n_updates == 2 + 150 - 100


# --- copies ---


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_in_a_callback_is_the_model_of_that_step_and_trains_on(copied: Any) -> None:
    keeps = Does(lambda callback: (copied(callback.model), callback.model.predict(OBSERVATION, deterministic=True)[0]))
    CQL("MlpPolicy", DATA, **SMALL | {"seed": 0, "verbose": 1}).learn(2, keeps)
    (first, action), (second, later) = keeps.seen
    assert np.array_equal(first.predict(OBSERVATION, deterministic=True)[0], action)
    assert not np.array_equal(action, later)
    first.learn(1, reset_num_timesteps=False)  # the step that the original took next
    assert first.num_timesteps == second.num_timesteps == 2
    assert np.array_equal(first.predict(OBSERVATION, deterministic=True)[0], later)
