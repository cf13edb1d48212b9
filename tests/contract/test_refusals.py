"""Every algorithm refuses by name what cannot be, before anything is trained."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_offline import registry
from sb3_offline.datasets import SpacesOnlyEnv
from tests.common.test_doors import with_option
from tests.contract.subjects import TASKS, Subject


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_sise": 8}, TypeError, "takes no argument 'batch_sise'. Did you mean 'batch_size'"),
        ({"train_freq": 4}, TypeError, "takes no 'train_freq': one timestep is one gradient step"),
        ({"buffer_size": 10}, TypeError, "takes no 'buffer_size'"),
        ({"gamma": 1.5}, ValueError, "gamma must"),
        ({"gamma": float("nan")}, ValueError, "gamma must"),
        ({"batch_size": 0}, ValueError, "batch_size must"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"reward_scale": 0.0}, ValueError, "reward_scale must"),
        ({"seed": -1}, ValueError, "seed must"),
        ({"policy_kwargs": 3}, TypeError, "policy_kwargs must be a dict"),
        ({"policy_kwargs": {"net_arc": [8]}}, TypeError, "takes no 'net_arc'. Did you mean 'net_arch'"),
    ],
)
def test_options_that_cannot_be(subject: Subject, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        subject.make(**options)


def test_numbers_of_the_signature_are_checked(subject: Subject) -> None:
    """Not a number is no value of any option whose default is a number."""
    for name, parameter in subject.parameters.items():
        if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
            if name in ("verbose", "stats_window_size"):
                continue  # SB3's own
            with pytest.raises((TypeError, ValueError), match=name):
                subject.make(**{name: float("nan")})


def test_options_of_others_are_refused(subject: Subject) -> None:
    """What some other algorithm takes and this one does not."""
    known = {name for cls in registry.algorithms().values() for name in inspect.signature(cls).parameters}
    for name in sorted(known - {*subject.parameters}):
        with pytest.raises(TypeError, match=f"takes no .*'{name}'"):
            subject.make(**{name: 1})


def test_actions_that_it_cannot_take_are_refused_with_who_can(subject: Subject) -> None:
    others = [task for kind, (task, _) in TASKS.items() if not issubclass(kind, subject.cls.supported_spaces["action"])]
    for task in others:
        who = ", ".join(registry.learners(action_space=gym.make(task).action_space))
        with pytest.raises(ValueError, match=rf"{subject.cls.__name__} needs actions in a \w+ space.*{who} can learn from it"):
            subject.make(task)


def test_no_data_no_env_and_too_many(subject: Subject) -> None:
    with pytest.raises(ValueError, match="No data to learn from"):
        subject.cls("MlpPolicy", **subject.options())
    with pytest.raises(ValueError, match="No data to learn from"):
        subject.cls("MlpPolicy", subject.task, **subject.options()).learn(1)
    with pytest.raises(ValueError, match="got 2 environments"):
        subject.make(DummyVecEnv([lambda: gym.make(subject.task)] * 2))
    with pytest.raises(ValueError, match="at least"):
        subject.make().learn(0)


def test_data_of_another_task_are_refused(subject: Subject) -> None:
    env = SpacesOnlyEnv(spaces.Box(-1.0, 1.0, (7,)), gym.make(subject.task).action_space)
    with pytest.raises(ValueError, match="observation"):
        subject.make(env).learn(1)


def test_rewards_that_are_nan_are_refused(subject: Subject) -> None:
    rewards = subject.arrays["rewards"].astype(np.float64).copy()
    rewards[7] = np.nan
    with pytest.raises(ValueError, match="row 7"):
        subject.make(dataset=subject.arrays | {"rewards": rewards}).learn(1)


@pytest.mark.one_a_family
def test_a_received_model_asks_for_no_more_memory_than_it_accounts_for(subject: Subject, tmp_path: Path) -> None:
    """Whatever number multiplies rows is refused by its name before anything is allocated, unless the caller gives it."""
    subject.make().learn(1).save(tmp_path / "m.zip")
    for name in sorted({name for names in subject.cls.rows_at_once for name in names}):
        forged = with_option(tmp_path / "m.zip", tmp_path / "forged.zip", name, 10**9)
        with pytest.raises(ValueError, match=rf"forged\.zip: .*{name}=1,000,000,000.* GB.*load\(path, .*{name}="):
            subject.cls.load(forged)
        assert getattr(subject.cls.load(forged, **{name: 2}), name) == 2
        assert getattr(subject.cls.load(tmp_path / "m.zip", **{name: 10**9}), name) == 10**9


@pytest.mark.one_a_family
def test_load_refuses_what_the_constructor_refuses(subject: Subject, tmp_path: Path) -> None:
    """Every option, by its name."""
    subject.make().save(tmp_path / "m.zip")
    refused = 0
    for name in sorted({*subject.parameters} - {"policy", "env", "dataset", "device", "verbose", "tensorboard_log"}):
        for wrong in ("zzz", float("nan"), -1.5, object()):
            try:
                subject.make(**{name: wrong})
            except (ValueError, TypeError):
                refused += 1
                with pytest.raises((ValueError, TypeError), match=name.replace("_", ".")):  # SB3 writes "policy kwargs"
                    subject.cls.load(tmp_path / "m.zip", **{name: wrong})
    assert refused > 3 * len(subject.parameters) / 2
