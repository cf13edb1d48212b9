"""Values as JSON and back; what is not known is refused both ways."""

from __future__ import annotations

import functools
import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.sac.policies import SACPolicy

from sb3_offline.datasets import load_dataset
from sb3_offline.files.encoding import NotPlain, decode, encode, is_known_class
from sb3_offline.training.schedules import HoldThenDecay


def there_and_back(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        1e300,
        0.1,
        math.inf,
        "text",
        [1, [2.5, None]],
        {"a": {"b": [1]}},
        (1, (2, "x")),
        {1: "a", None: "b", ("t", 0): {"!": "not a kind"}},
        {"!": "Box"},
        Path("a") / "b",
        th.nn.Tanh,
        th.optim.AdamW,
        SACPolicy,
        CombinedExtractor,
        np.float32,
        HoldThenDecay(1e-3),
        TrainFreq(3, TrainFrequencyUnit.EPISODE),
        deque([1, (2, 3)], maxlen=5),
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(5),
        spaces.MultiBinary([2, 3]),
        spaces.Box(-2.0, np.array([1.0, np.inf], dtype=np.float32)),
        spaces.Box(0, 255, (2, 2, 3), np.uint8),
        spaces.Box(-1.0, 1.0, (2,), np.float64),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, ()))),
        spaces.Dict({"!": spaces.Discrete(2), "b": spaces.Dict({"c": spaces.Box(-1.0, 1.0, (1,))})}),
    ],
    ids=str,
)
def test_there_and_back(value: Any) -> None:
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value", [np.arange(6, dtype=">i2").reshape(2, 3).T, np.zeros((0, 4)), np.array(True), np.float64(0.1)]
)
def test_numbers_keep_their_bits_shape_and_type(value: Any) -> None:
    found = there_and_back(value)
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert found.tobytes() == value.tobytes()


def test_spaces_keep_their_keys_order_and_bounds() -> None:
    space = spaces.Dict([("b", spaces.Box(-1.0, 1.0, (1,))), ("a", spaces.Discrete(3))])
    assert list(there_and_back(space).spaces) == list(space.spaces)
    box = there_and_back(spaces.Box(np.array([-1.0, -np.inf], dtype=np.float32), 2.0, dtype=np.float32))
    assert box.dtype == np.float32
    assert box.bounded_below.tolist() == [True, False]


@pytest.mark.parametrize(
    ("schedule", "at_half"),
    [
        (ConstantSchedule(3e-4), 3e-4),
        (LinearSchedule(1.0, 0.5, 0.8), 1 - 0.5 * 0.5 / 0.8),
        (FloatSchedule(LinearSchedule(2.0, 0.0, 1.0)), 1.0),
    ],
)
def test_schedules(schedule: Any, at_half: float) -> None:
    found = there_and_back(schedule)
    assert type(found) is type(schedule)
    assert found(0.5) == pytest.approx(at_half)


def test_rl_zoos_schedule() -> None:
    pytest.importorskip("rl_zoo3")
    from rl_zoo3.utils import SimpleLinearSchedule

    assert there_and_back(SimpleLinearSchedule(0.3))(0.7) == 0.7 * 0.3


@pytest.mark.parametrize("noise", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
def test_action_noise(noise: Any) -> None:
    made = noise(np.array([1.0, 2.0]), np.array([0.5, 0.25]))
    found = there_and_back(made)
    np.random.seed(0)  # noqa: NPY002 (SB3's noise draws from numpy's own stream)
    expected = made()
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(found(), expected)


def test_what_is_known_of_data() -> None:
    info = load_dataset("Pendulum-medium-v0").info
    found = there_and_back(info)
    assert found == info
    assert found.make_env().unwrapped.spec.id == "Pendulum-v1"


def test_an_environments_code_is_what_is_registered_here() -> None:
    written = encode(gym.spec("Pendulum-v1"))
    assert "entry_point" not in written
    assert decode(written | {"kwargs": {"g": 9.0}}).entry_point == gym.spec("Pendulum-v1").entry_point
    assert decode(written | {"id": "Nowhere-v3"}).entry_point is None


class Extractor(BaseFeaturesExtractor):
    """Somebody's own."""


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (lambda progress: progress, r"value is .*<lambda>"),
        ({"a": [1, Extractor]}, r"value\['a'\]\[1\] is .*Extractor"),
        (functools.partial(th.nn.LeakyReLU, 0.2), r"object of functools\.partial"),
        (FloatSchedule(lambda progress: progress), r"value\['value_schedule'\] is .*<lambda>"),
        (np.array([object()]), "object of numpy.ndarray"),
        (print, r"builtins\.print"),
        (dict, r"builtins\.dict"),
        (spaces.Text(3), r"object of gymnasium.*Text"),
        (th.zeros(2), r"object of torch\.Tensor"),
    ],
)
def test_what_only_pickle_could_write(value: Any, what: str) -> None:
    with pytest.raises(NotPlain, match=what):
        encode(value)


@pytest.mark.parametrize(
    "written",
    [
        {"!": "os.system"},
        {"!": ["Box"]},
        {"!": "class", "name": "os.system"},
        {"!": "class", "name": "builtins.eval"},
        {"!": "class", "name": "torch.nn.modules.activation.F"},
        {"!": "class", "name": "torch.nn.modules.antigravity.Module"},
        {"!": "class", "name": "sb3_offline.common.saving.pathlib"},
        {"!": "class", "name": 3},
        {"!": "function", "name": "os.getcwd"},
        {"!": "function", "name": "sb3_offline.cli.main"},
        {"!": "record", "name": "subprocess.Popen", "state": {}},
        {"!": "record", "name": "stable_baselines3.common.utils.FloatSchedule", "state": 3},
        {"!": "dtype", "name": "O"},
        {"!": "array", "dtype": "O", "shape": [1], "data": "AAAAAAAAAAA="},
        {"!": "array", "dtype": "<f4", "shape": [10**12], "data": "AAAA"},
        {"!": "array", "dtype": "<f4", "shape": [2], "data": "AAAA"},
        {"!": "array", "dtype": "<f4", "shape": [1], "data": "not base64"},
        {"!": "Discrete", "n": -1, "start": 0},
        {"!": "Discrete"},
        {"!": "Box", "low": "x", "high": [1], "dtype": 3},
        {"!": "TrainFreq", "frequency": 1, "unit": "century"},
        {"!": "EnvSpec", "id": "a b c", "max_episode_steps": 1, "kwargs": {}, "wrappers": []},
        {"!": "EnvSpec", "id": "Pendulum-v1", "max_episode_steps": 1, "kwargs": {}, "wrappers": [{"x": 1}]},
        {"!": "dict", "items": [[["unhashable"], 1]]},
    ],
    ids=str,
)
def test_what_is_not_known_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match=r"no .*"):
        decode(written)


def test_known_classes_are_networks_optimisers_and_buffers() -> None:
    assert is_known_class("torch.nn.modules.activation.ReLU")
    assert is_known_class("stable_baselines3.common.buffers.ReplayBuffer")
    assert not is_known_class("stable_baselines3.common.vec_env.subproc_vec_env.SubprocVecEnv")
    assert not is_known_class("torch.hub.load")
