"""Envs that are another task than the data's, and spaces in which nothing learns: warned of or refused, with the way on."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnvWrapper, VecMonitor, VecNormalize

from sb3_offline import CQL, DiscreteCOMBO, DiscreteCQL, OfflineSAC
from sb3_offline.datasets import DatasetError, DatasetWarning, SpacesOnlyEnv, load_dataset
from sb3_offline.datasets.envs import task_of

DATA = "sb3_offline/Pendulum-medium-v0"
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 32, "seed": 0, "device": "cpu"}


class Counts(gym.Wrapper):
    """Has a step of its own, and may do anything there."""

    def step(self, action: Any) -> Any:
        return super().step(action)


class Keeps(gym.Wrapper):
    """Adds nothing to a step."""


class HalfTime(gym.wrappers.TimeLimit):
    """Derived from a wrapper that changes nothing."""

    def step(self, action: Any) -> Any:
        observation, reward, *ends = super().step(action)
        return observation, float(reward) / 2, *ends


class Begins(gym.Wrapper):
    def reset(self, **options: Any) -> Any:
        return super().reset(**options)


def made(wrapper: Any) -> gym.Env:
    return wrapper(gym.make(DATA))


CHANGING = {
    "TransformReward": (lambda env: gym.wrappers.TransformReward(env, lambda r: r / 100), "rewards"),
    "NormalizeReward": (gym.wrappers.NormalizeReward, "observations or rewards"),
    "TransformObservation": (
        lambda env: gym.wrappers.TransformObservation(env, lambda o: o / 8, env.observation_space),
        "observations",
    ),
    "TransformAction": (lambda env: gym.wrappers.TransformAction(env, lambda a: -a, env.action_space), "actions"),
    "Counts": (Counts, "observations or rewards"),
    "HalfTime": (lambda env: HalfTime(env, 100), "observations or rewards"),
    "Begins": (Begins, "where episodes begin"),
}


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("vector", [False, True])
def test_wrappers_around_the_datas_env(name: str, vector: bool) -> None:
    wrapper, what = CHANGING[name]
    env: Any = DummyVecEnv([lambda: made(wrapper)]) if vector else made(wrapper)
    with pytest.warns(UserWarning, match=rf"wrapper {name} may change {what}: .*rewards\. Apply the same change to the data"):
        CQL("MlpPolicy", env, **SMALL).learn(1)


class Halves(VecEnvWrapper):
    """Pays half around a vector of environments."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards / 2, dones, infos


def test_wrappers_around_a_vector_of_environments() -> None:
    def venv() -> DummyVecEnv:
        return DummyVecEnv([lambda: gym.make(DATA)])

    with pytest.warns(UserWarning, match="wrapper Halves may change observations or rewards"):
        CQL("MlpPolicy", Halves(venv()), **SMALL).learn(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CQL("MlpPolicy", VecCheckNan(VecMonitor(venv())), **SMALL).learn(1)


@pytest.mark.parametrize("wrapper", [Monitor, Keeps, gym.wrappers.RecordEpisodeStatistics, lambda env: env])
def test_wrappers_that_change_nothing(wrapper: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CQL("MlpPolicy", made(wrapper), **SMALL).learn(1)
        normalized = VecNormalize(DummyVecEnv([lambda: made(wrapper)]), norm_reward=False)
        CQL("MlpPolicy", normalized, **SMALL).learn(1)


def test_data_that_name_their_task_by_themselves_and_data_that_do_not() -> None:
    env = gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r: r / 100)
    with pytest.warns(UserWarning, match="Pendulum-medium-v0 was logged on Pendulum-v1 itself"):
        CQL("MlpPolicy", env, dataset="Pendulum-medium-v0", **SMALL).learn(1)
    data = load_dataset("Pendulum-medium-v0")
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    arrays = {name: getattr(data, name) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CQL("MlpPolicy", env, dataset=arrays, **SMALL).learn(1)  # logged through the wrapper, for all we know


@pytest.mark.parametrize("vector", [False, True])
def test_an_env_that_was_made_otherwise(vector: bool) -> None:
    def env(**given: Any) -> Any:
        return DummyVecEnv([lambda: gym.make("Pendulum-v1", **given)]) if vector else gym.make("Pendulum-v1", **given)

    with pytest.warns(UserWarning, match=r"logged on Pendulum-v1 itself, but the env was made with g=2\.0 \(not 10\.0\)"):
        CQL("MlpPolicy", env(g=2.0), dataset="Pendulum-medium-v0", **SMALL).learn(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CQL("MlpPolicy", env(g=10.0, render_mode="rgb_array"), dataset="Pendulum-medium-v0", **SMALL).learn(1)


def test_the_time_limit_of_rl_zoo_changes_nothing() -> None:
    patches = pytest.importorskip("rl_zoo3.gym_patches")
    env = patches.PatchedTimeLimit(gym.make("Pendulum-v1").unwrapped, 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = CQL("MlpPolicy", env, dataset="Pendulum-medium-v0", **SMALL).learn(1)
    spec = task_of(env)
    assert spec is not None
    assert (spec.id, spec.max_episode_steps) == ("Pendulum-v1", 200)
    assert model.dataset_info is not None


def test_an_env_that_comes_later() -> None:
    model = OfflineSAC("MlpPolicy", DATA, **SMALL).learn(1)
    env = gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r: r / 100)
    with pytest.warns(UserWarning, match="TransformReward may change rewards"):
        model.learn_online(5, env=env)


# --- spaces ---


def of(observation: Any, action: Any) -> SpacesOnlyEnv:
    return SpacesOnlyEnv(observation, action)


BOX, ACTION = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-1, 1, (1,))


def test_an_action_that_cannot_move() -> None:
    space = spaces.Box(np.array([-1, 0, 2], np.float32), np.array([1, 0, 2], np.float32))
    message = r"no room in dimension 1, 2: its low is its high \(0, 2\).*Leave such dimensions out"
    with pytest.raises(ValueError, match="^arrays: .*" + message):
        CQL("MlpPolicy", of(BOX, space), dataset={}, **SMALL)
    with pytest.raises(ValueError, match="^CQL: .*" + message):
        CQL("MlpPolicy", of(BOX, space), **SMALL)
    with pytest.raises(DatasetError, match="^arrays: .*" + message):
        load_dataset({}, observation_space=BOX, action_space=space)


def test_keys_that_hold_no_numbers() -> None:
    space = spaces.Dict(arm=BOX, task=spaces.Text(8))
    with pytest.raises(ValueError, match=r"observations\['task'\] live in Text.*Leave it out.*FilterObservation"):
        CQL("MultiInputPolicy", of(space, ACTION), dataset={}, **SMALL)
    nested = spaces.Dict(arm=BOX, more=spaces.Dict(leg=BOX))
    with pytest.raises(ValueError, match=r"observations\['more'\] live in Dict.*SB3 takes no nested spaces: flatten it"):
        load_dataset({}, observation_space=nested, action_space=ACTION)


def test_spaces_of_the_old_gym(monkeypatch: pytest.MonkeyPatch) -> None:
    class Box:
        def __init__(self, shape: tuple[int, ...]):
            self.shape = shape

    Box.__module__, Box.__qualname__ = "gym.spaces.box", "Box"
    monkeypatch.setitem(sys.modules, "gym", types.ModuleType("gym"))
    message = r"is a gym\.spaces\.box\.Box, not a space of gymnasium: make it by gymnasium\.spaces\.Box\..*shimmy"
    with pytest.raises(DatasetError, match=message):
        load_dataset({}, observation_space=Box((3,)), action_space=ACTION)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        CQL("MlpPolicy", of(Box((3,)), ACTION), dataset={}, **SMALL)


def frozen_lake() -> tuple[gym.Env, dict[str, Any]]:
    env = gym.make("FrozenLake-v1")
    env.action_space.seed(0)
    observation, rows = env.reset(seed=0)[0], []
    for _ in range(1000):
        action = env.action_space.sample()
        after, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, reward, terminated, truncated, after))
        observation = env.reset()[0] if terminated or truncated else after
    keys = ("observations", "actions", "rewards", "terminations", "truncations", "next_observations")
    return env, dict(zip(keys, map(np.array, zip(*rows, strict=True)), strict=True))


@pytest.mark.filterwarnings("ignore")
def test_states_that_are_counted_train_one_hot_as_the_message_says() -> None:
    env, data = frozen_lake()
    with pytest.raises(ValueError, match=r"DiscreteCQL, DiscreteIQL can learn from it.*FlattenObservation around the env"):
        DiscreteCOMBO("MlpPolicy", env, dataset=data, **SMALL)
    assert DiscreteCQL("MlpPolicy", env, dataset=data, **SMALL).learn(2).replay_buffer.size() == 1000
    for key in ("observations", "next_observations"):
        data[key] = np.eye(16, dtype=np.float32)[data[key]]
    model = DiscreteCQL("MlpPolicy", gym.wrappers.FlattenObservation(env), dataset=data, **SMALL).learn(2)
    assert model.replay_buffer.size() == 1000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])
def test_several_discrete_actions_train_as_they_are(space: Any) -> None:
    rng = np.random.default_rng(0)
    actions = np.array([space.sample() for _ in range(100)])
    data = {"observations": rng.normal(size=(100, 3)), "actions": actions, "rewards": rng.normal(size=100)}
    data |= {"terminations": np.zeros(100), "truncations": np.arange(100) % 10 == 9}
    model = DiscreteCQL("MlpPolicy", of(BOX, space), dataset=data, **SMALL).learn(2)
    sizes = (2, 3) if isinstance(space, spaces.MultiDiscrete) else (2, 2)
    kept = np.arange(100) % 10 != 9
    np.testing.assert_array_equal(model.replay_buffer.actions[:, 0], np.ravel_multi_index(actions.T, sizes)[kept])


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max, 1e35])
def test_unbounded_actions_train_in_the_datas_bounds_or_declared_ones(bound: float) -> None:
    """float32 has no room for the span of the wider ones."""
    arrays = cartpole_like(np.random.default_rng(0).normal(size=(400, 1)))
    env: gym.Env = SpacesOnlyEnv(spaces.Box(-9, 9, (3,)), spaces.Box(-bound, bound, (1,)))
    low, high = arrays["actions"].min(axis=0), arrays["actions"].max(axis=0)
    with pytest.warns(DatasetWarning, match="without bounds; those of the data are taken"):
        model = CQL("MlpPolicy", env, dataset=arrays, **SMALL)
    np.testing.assert_allclose([model.action_space.low, model.action_space.high], [low, high], rtol=1e-6)
    bounded = gym.wrappers.TransformAction(env, lambda action: action, spaces.Box(low, high))  # type: ignore[arg-type]
    assert CQL("MlpPolicy", bounded, dataset=arrays, **SMALL).learn(1).replay_buffer.size() == 400
    free = {"observation_space": spaces.Box(-9, 9, (3,)), "action_space": spaces.Box(low, high)}
    assert CQL("MlpPolicy", dataset=load_dataset(arrays, **free), **SMALL).learn(1).replay_buffer.size() == 400


def test_observations_of_one_number_train_with_a_dimension_as_the_message_says() -> None:
    arrays = cartpole_like(np.random.default_rng(0).uniform(-1, 1, (400, 1)))
    arrays |= {name: arrays[name][:, 0] for name in ("observations", "next_observations")}
    env: gym.Env = SpacesOnlyEnv(spaces.Box(-9, 9, ()), spaces.Box(-1, 1, (1,)))
    with pytest.raises(DatasetError, match=r"Declare the shape \(1,\).*TransformObservation\(env, numpy.atleast_1d, Box\("):
        CQL("MlpPolicy", env, dataset=arrays, **SMALL)
    env = gym.wrappers.TransformObservation(env, np.atleast_1d, spaces.Box(-9, 9, (1,)))
    assert CQL("MlpPolicy", env, dataset=arrays, **SMALL).learn(1).replay_buffer.size() == 400
    by_key = {"observations": {"x": arrays["observations"]}, "next_observations": {"x": arrays["next_observations"]}}
    seen = spaces.Dict({"x": spaces.Box(-9, 9, ())})
    with pytest.raises(DatasetError, match=r"space of 'x'.*lambda x: \{\*\*x, 'x': numpy.atleast_1d\(x\['x'\]\)\}"):
        load_dataset(arrays | by_key, observation_space=seen, action_space=spaces.Box(-1, 1, (1,)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_whole_number_actions_train_enumerated_as_the_message_says(dtype: Any) -> None:
    arrays = cartpole_like(np.random.default_rng(0).integers(2, 5, (400, 1)))
    whole = spaces.Box(2, 4, (1,), dtype)
    with pytest.raises(ValueError, match=r"of floats within finite bounds; .*subtract low"):
        CQL("MlpPolicy", SpacesOnlyEnv(spaces.Box(-9, 9, (3,)), whole), dataset=arrays, **SMALL)
    numbered = SpacesOnlyEnv(spaces.Box(-9, 9, (3,)), spaces.Discrete(3))
    arrays["actions"] = arrays["actions"][:, 0] - 2
    model = DiscreteCQL("MlpPolicy", numbered, dataset=arrays, **SMALL).learn(1)
    assert model.predict(np.zeros(3, np.float32))[0] in (0, 1, 2)


@pytest.mark.parametrize("name", ["action_masks", "action_mask", "legal_actions", "avail_actions"])
def test_masks_of_actions_are_heeded(name: str) -> None:
    arrays = cartpole_like(np.random.default_rng(0).integers(0, 2, 400)) | {name: np.ones((400, 2), bool)}
    free = {"observation_space": spaces.Box(-9, 9, (3,)), "action_space": spaces.Discrete(2)}
    assert load_dataset(arrays, **free).action_masks.shape == (380, 2)  # type: ignore[union-attr]


def cartpole_like(actions: np.ndarray) -> dict[str, np.ndarray]:
    """400 rows of a random walk in episodes of 20."""
    states = np.cumsum(np.random.default_rng(1).normal(scale=0.1, size=(401, 3)), axis=0).clip(-9, 9)
    ends = np.arange(400) % 20 == 19
    rows = {"observations": states[:-1], "next_observations": states[1:], "rewards": states[:-1, 0]}
    return rows | {"actions": actions, "terminations": np.zeros(400, bool), "truncations": ends}
