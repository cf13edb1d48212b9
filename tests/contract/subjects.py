"""Any algorithm, made small: what it supports is asked of its class, never listed."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_offline import registry
from tests.conftest import record

ROOT = Path(__file__).parent.parent.parent
EXAMPLE, EXAMPLE_FILE = "my_td3_bc", ROOT / "examples" / "my_algorithm.py"

#: Whatever of these a constructor takes makes it quick.
QUICK: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "batch_size": 16,
    "seed": 0,
    "device": "cpu",
    "n_action_samples": 2,
    "dynamics_kwargs": {"hidden_sizes": (8,), "n_members": 2, "n_elites": 2, "max_epochs": 1, "batch_size": 64},
    "dynamics_cache": False,
    "rollout_batch_size": 32,
    "rollout_freq": 3,
    "rollout_retain": 2,
    "behavior_kwargs": {"hidden_sizes": (8,), "n_steps": 10},
}
#: A task of each kind of actions, and data that are packaged for it.
TASKS: dict[type[spaces.Space], tuple[str, str]] = {
    spaces.Box: ("Pendulum-v1", "sb3_offline/Pendulum-medium-v0"),
    spaces.Discrete: ("CartPole-v1", "sb3_offline/CartPole-medium-replay-v0"),
}
SIDE = 36  # pixels


@functools.cache
def arrays_of(task: str) -> dict[str, np.ndarray]:
    """At least 200 random steps."""
    return record(task, 2 if task == "Pendulum-v1" else 15)


def register_example() -> None:
    """Run the example's file, as ``--import`` does; it registers its class."""
    spec = importlib.util.spec_from_file_location(EXAMPLE_FILE.stem, EXAMPLE_FILE)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # type: ignore[union-attr,arg-type]


class Subject:
    """One algorithm under test."""

    def __init__(self, name: str):
        self.name = name
        self.cls: Any = registry.find_algorithm(name)
        self.parameters = inspect.signature(self.cls).parameters

    # --- what the class says of itself ---

    @property
    def actions(self) -> type[spaces.Space]:
        return next(kind for kind in TASKS if issubclass(kind, self.cls.supported_spaces["action"]))

    @property
    def task(self) -> str:
        return TASKS[self.actions][0]

    @property
    def data(self) -> str:
        """The id of packaged data."""
        return TASKS[self.actions][1]

    @property
    def is_model_based(self) -> bool:
        return "dynamics_kwargs" in self.parameters

    @property
    def family(self) -> tuple[str, bool]:
        """Its parent among SB3's algorithms, and whether it learns a model of the world."""
        parents = (base for base in self.cls.__mro__ if base.__module__.startswith("stable_baselines3."))
        parent = next(base for base in parents if issubclass(base, BaseAlgorithm))
        return parent.__name__, self.is_model_based

    def takes(self, option: str) -> bool:
        return option in self.parameters

    # --- made small ---

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.task)

    def options(self, **options: Any) -> dict[str, Any]:
        return {name: value for name, value in QUICK.items() if self.takes(name)} | options

    def make(self, env: Any = None, dataset: Any = None, policy: Any = "MlpPolicy", **options: Any) -> Any:
        """The algorithm, on random steps of its task if nothing else is given."""
        dataset = self.arrays if dataset is None else dataset
        return self.cls(policy, self.task if env is None else env, dataset=dataset, **self.options(**options))

    def on(self, space: spaces.Space) -> tuple[gym.Env, dict[str, Any]]:
        """An env that shows samples of a space, with this algorithm's kind of actions, and data of it."""
        env = Shows(space, spaces.Discrete(2) if self.actions is spaces.Discrete else spaces.Box(-2.0, 2.0, (1,)))
        env.action_space.seed(0)
        space.seed(0)
        n = 60
        rows: Any = [space.sample() for _ in range(n + 1)]
        keyed = isinstance(space, spaces.Dict)
        parts: Any = {key: np.array([row[key] for row in rows]) for key in rows[0]} if keyed else np.array(rows)
        cut = (lambda part: {key: p[part] for key, p in parts.items()}) if keyed else (lambda part: parts[part])
        return env, {
            "observations": cut(slice(n)),
            "next_observations": cut(slice(1, None)),
            "actions": np.array([env.action_space.sample() for _ in range(n)]),
            "rewards": np.random.default_rng(0).normal(size=n),
            "terminations": np.zeros(n, dtype=bool),
            "truncations": np.arange(n) % 20 == 19,
        }


class Shows(gym.Env):
    """Samples of a space; every reward is 0."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, True, {}


IMAGES = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
KEYS = spaces.Dict({"speed": spaces.Box(-9.0, 9.0, (2,)), "mode": spaces.Discrete(3)})
#: What may be seen besides vectors: space, policy, options of the policy.
BEYOND_VECTORS: dict[str, tuple[spaces.Space, str, dict[str, Any]]] = {
    "images": (IMAGES, "CnnPolicy", {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}),
    "dicts": (KEYS, "MultiInputPolicy", {"net_arch": [8]}),
}


def weights(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Whether two models' networks are equal, to the bit."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(th.equal(value, second[name]) for name, value in first.items())


def assert_near(found: dict[str, th.Tensor], expected: dict[str, th.Tensor], **tolerances: float) -> None:
    """Networks of the same names, and of the same numbers to rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        th.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerances)


def flat(parameters: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one."""
    if isinstance(parameters, (dict, list, tuple)):
        pairs = parameters.items() if isinstance(parameters, dict) else enumerate(parameters)
        return {k: v for key, value in pairs for k, v in flat(value, f"{prefix}.{key}").items()}
    return {prefix: parameters}


def assert_equal_parameters(one: Any, other: Any) -> None:
    """Networks, optimisers and multipliers."""
    expected, found = flat(one.get_parameters()), flat(other.get_parameters())
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert th.equal(value, found[name]) if isinstance(value, th.Tensor) else value == found[name], name
