"""Where an offline algorithm's spaces, task and data come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_offline.buffers.statistics import normalized_env, statistics_of, take_statistics
from sb3_offline.datasets import DatasetInfo, DatasetSource, OfflineDataset, SpacesOnlyEnv, open_dataset
from sb3_offline.datasets.bounded import is_bounded
from sb3_offline.datasets.bounds import bounds_of_data, with_bounds
from sb3_offline.datasets.checks.spaces import check_space, way_on
from sb3_offline.datasets.envs import task_of
from sb3_offline.datasets.goals import relabel_goals
from sb3_offline.datasets.sources import Source
from sb3_offline.datasets.wrappers import warn_of_wrappers
from sb3_offline.networks.observations import has_images
from sb3_offline.registry import learners

_NO_DATA = (
    "No data to learn from. Give one of: dataset=... (a packaged or Minari id, an .hdf5 or .npz file, a dict of arrays, a "
    "filled SB3 ReplayBuffer); an env whose unwrapped.get_dataset() returns its data, such as "
    'gym.make("sb3_offline/Pendulum-medium-replay-v0"); or a dataset\'s id as env.'
)


def resolve_env(model: Any, env: GymEnv | str | None, dataset: Source | None, loading: bool) -> GymEnv:
    """
    Find the spaces, the task and the data: explicit ``dataset``, else the env's own, else the env as a dataset's id.

    :param loading: True inside SB3's ``load``, which knows the spaces already and may have no env.
    :raises ValueError: if neither gives spaces, or if they do not fit each other or this algorithm.
    """
    if loading and env is None:
        return None  # type: ignore[return-value]
    env = _bounded(model, _find_env(model, env, dataset))
    for kind, space in (("action", env.action_space), ("observation", env.observation_space)):
        check_space(kind, space, type(model).__name__)
        way = way_on(kind, space)
        if way or not isinstance(space, model.supported_spaces[kind]):
            kinds = [each.__name__ for each in model.supported_spaces[kind]]
            names = " or ".join(each for each in kinds if not each.startswith("Multi"))  # several Discrete ones
            names += " space" + (" of floats within finite bounds" if kind == "action" and names == "Box" else "")
            others = learners(action_space=env.action_space, observation_space=env.observation_space)
            hint = way or (f" {', '.join(others)} can learn from it." if others else "")
            raise ValueError(f"{type(model).__name__} needs {kind}s in a {names}; this task has {space}.{hint}")
    return env


def check_env(env: object) -> None:
    """:raises TypeError: for what is no environment at all"""
    if not hasattr(env, "action_space"):
        raise TypeError(f"env must be an environment of gymnasium, a VecEnv or an id; got {env!r:.80}.")


def _find_env(model: Any, env: GymEnv | str | None, dataset: Source | None) -> GymEnv:
    if isinstance(env, str) and dataset is None:
        env, dataset = _by_id(env)
    elif isinstance(env, str):
        env = gym.make(env)
    if env is not None:
        check_env(env)
    if isinstance(env, VecEnv):
        check_wrappers(model, env)
    model.dataset = dataset
    if dataset is None:
        if env is None:
            raise ValueError(_NO_DATA)
        return env
    info = open_dataset(
        dataset,
        observation_space=None if env is None else env.observation_space,
        action_space=None if env is None else env.action_space,
        env_spec=None if env is None else task_of(env),
    ).info
    model.dataset_info = replace(info, goals=None)  # a function, which belongs to the data and is not saved
    return env_of(type(model), info) if env is None else env


def _bounded(model: Any, env: GymEnv) -> GymEnv:
    """
    Where continuous actions have no bounds those of the data take their place.

    :raises ValueError: if there are no data to take them from
    """
    space = env.action_space
    if not isinstance(space, spaces.Box) or is_bounded(space) or spaces.Box not in model.supported_spaces["action"]:
        return env
    known = None if model.dataset_info is None else model.dataset_info.action_space
    if isinstance(known, spaces.Box) and is_bounded(known):
        return with_bounds(env, known)
    source = _source_of(model, env)
    data = open_dataset(source, observation_space=env.observation_space, action_space=space, env_spec=task_of(env)).load()
    box = bounds_of_data(data, space)
    model._loaded = source, replace(data, info=replace(data.info, action_space=box))
    return with_bounds(env, box)


def with_goals(model: Any, dataset: OfflineDataset) -> OfflineDataset:
    """
    With ``goal_relabel`` the same data, whose goals are replaced where batches are drawn; what the data say themselves comes
    before.

    :raises ValueError: without an env that has ``compute_reward``, or for data without goals
    """
    env = model.env
    if model.goal_relabel is None or dataset.info.goals is not None:
        return dataset
    if env is None or not env.has_attr("compute_reward"):
        raise ValueError(
            f"goal_relabel={model.goal_relabel!r} asks the task's compute_reward for the rewards of other goals, and there "
            "is no env that has one: give env=, or dataset=sb3_offline.datasets.relabel_goals(data, compute_reward)."
        )

    def compute_reward(achieved: Any, desired: Any, infos: Any) -> Any:
        return env.env_method("compute_reward", achieved, desired, infos, indices=[0])[0]

    return relabel_goals(dataset, compute_reward, model.n_sampled_goal, model.goal_relabel)


def check_wrappers(model: Any, env: VecEnv) -> None:
    """:raises ValueError: for more than one environment, or statistics that mean nothing offline"""
    if env.num_envs != 1:
        name = type(model).__name__
        way_on = " After learn(), model.to_sac(env) goes on in several, as SB3's own SAC." if hasattr(model, "to_sac") else ""
        raise ValueError(f"{name} got {env.num_envs} environments. Give one.{way_on}")
    normalizer = unwrap_vec_normalize(env)
    if normalizer is not None and normalizer.norm_reward:
        raise ValueError(
            "VecNormalize(norm_reward=True) would change the logged rewards' meaning offline. Use norm_reward=False "
            '(RL-Zoo: normalize: "dict(norm_obs=True, norm_reward=False)").'
        )
    if normalizer is not None and normalizer.norm_obs:
        space = normalizer.venv.observation_space
        if isinstance(space, spaces.Dict) or has_images(space):
            raise ValueError(
                f"VecNormalize(norm_obs=True) is for vectors here; this task has {space}. Use norm_obs=False: the policy "
                "divides images by 255 itself; scale the vectors of a Dict in the data and in an env wrapper."
            )


def set_env(model: Any, env: GymEnv, force_reset: bool = True) -> None:
    """
    As in SB3; data that the env carries take the place of the model's.

    :raises TypeError: for what is no environment
    :raises ValueError: for an env that the constructor would refuse, or that normalises observations where the one that
        was trained with did not, or the other way round.
    """
    if isinstance(env, str):
        raise TypeError(f"set_env takes an environment, as in SB3: gymnasium.make({env!r}), or load(path, env={env!r}).")
    check_env(env)
    if isinstance(env, VecEnv):
        check_wrappers(model, env)
    match_normalization(model, unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None)
    OffPolicyAlgorithm.set_env(model, with_bounds(env, model.action_space), force_reset)
    if carries_data(env):
        model.dataset = model.dataset_info = None
    elif model.dataset_info is not None:
        warn_of_wrappers(env, model.dataset_info.dataset_id, model.dataset_info.env_spec)


def match_normalization(model: Any, normalizer: VecNormalize | None) -> None:
    """
    A fresh normaliser takes the statistics of the training.

    :raises ValueError: if only one of the env and the training normalises
    """
    normalizes = normalizer is not None and normalizer.norm_obs
    if model.trained_normalized not in (None, normalizes):
        raise ValueError(
            "Wrap the env in VecNormalize as that of the training was, or neither: these networks were trained on "
            f"{'normalised' if model.trained_normalized else 'raw'} observations. "
            "policy_kwargs=dict(normalize_observations=True) needs no wrapper."
        )
    if normalizer is not None and model.observation_statistics is not None:
        take_statistics(normalizer, model.observation_statistics)


def keep_statistics(model: Any) -> None:
    """Those of the env, where it normalises: a file needs no other, to be exported or for a fresh normaliser."""
    if model._vec_normalize_env is not None and model._vec_normalize_env.norm_obs:
        model.observation_statistics = statistics_of(model._vec_normalize_env)


def open_id(cls: type, name: str) -> tuple[gym.Env, dict[str, Any]]:
    """For ``load``: the env that the constructor makes of an id, and the attributes that belong to it."""
    env, dataset = _by_id(name)
    env = env_of(cls, open_dataset(name).info) if env is None else env
    return env, {} if dataset is None else {"dataset": dataset}


def env_of(cls: type, info: DatasetInfo) -> gym.Env:
    """The dataset's own task where it can be made here, else an env that only has its spaces."""
    if info.env_spec is not None:
        try:
            return info.make_env()
        except Exception as error:
            print(f"{cls.__name__}: training without a simulator ({info.env_spec.id} cannot be made: {error})")
    return SpacesOnlyEnv(info.observation_space, info.action_space)


def trained_env(model: Any, info: DatasetInfo) -> GymEnv:
    """The dataset's task, its observations normalised if those of the training were."""
    env = env_of(type(model), info)
    state = model.observation_statistics
    return env if state is None else normalized_env(DummyVecEnv([lambda: env]), state)


def load_dataset(model: Any) -> OfflineDataset:
    """
    Read the data that this model was given, or that its env offers.

    :raises ValueError: if there is none (after ``load`` from a file, pass ``env=`` or set ``model.dataset``).
    """
    source = _source_of(model, model.env)
    loaded, model._loaded = model._loaded, None
    dataset = loaded[1] if loaded is not None and loaded[0] is source else open_source(model, source).load()
    model.dataset_info = replace(dataset.info, goals=None)
    if model.env is not None:
        warn_of_wrappers(model.env, dataset.info.dataset_id, dataset.env_spec)
    return dataset


def open_source(model: Any, source: Source) -> DatasetSource:
    """
    Data as this model's, described and not yet read.

    :raises ValueError: if they are none, or of other spaces
    """
    task = None if model.env is None else task_of(model.env)
    if task is None and model.dataset_info is not None:
        task = model.dataset_info.env_spec
    return open_dataset(source, observation_space=model.observation_space, action_space=model.action_space, env_spec=task)


def _source_of(model: Any, env: GymEnv | None) -> Source:
    """:raises ValueError: if neither the model nor the env has data"""
    source: Source | None = model.dataset
    if source is None and env is not None and carries_data(env):
        source = env.env_method("get_dataset")[0] if isinstance(env, VecEnv) else env.unwrapped.get_dataset()  # type: ignore[attr-defined]
    if source is None:
        raise ValueError(_NO_DATA)
    return source


def carries_data(env: GymEnv) -> bool:
    """Whether ``get_dataset`` of an env, or of the first of a vector of them, gives data."""
    return env.has_attr("get_dataset") if isinstance(env, VecEnv) else hasattr(env.unwrapped, "get_dataset")


def _by_id(name: str) -> tuple[gym.Env | None, str | None]:
    """An id's env and data, which :meth:`save` remembers as an id: what is not registered is taken for data."""
    if name not in gym.registry:
        return None, name
    env = gym.make(name)
    return env, name if carries_data(env) else None
