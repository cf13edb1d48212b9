"""Every algorithm learns, repeats itself by its seed, goes on after an interruption, and is called back as SB3's are."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.kill_and_resume import digest
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.execution import precision
from sb3_offline.execution.updates import UpdateRunner
from sb3_offline.seeds import train_seeds
from tests.contract.subjects import BEYOND_VECTORS, Subject, assert_equal_parameters, assert_near, same, weights
from tests.witness import nothing_unpickled

pytestmark = pytest.mark.filterwarnings("ignore::sb3_offline.datasets.DatasetWarning")


def test_it_learns(subject: Subject) -> None:
    model = subject.make()
    assert isinstance(model, OffPolicyAlgorithm)
    before = weights(model)
    assert model.learn(5) is model
    assert (model.num_timesteps, model._n_updates) == (5, 5)
    assert any(not th.equal(before[name], value) for name, value in weights(model).items())
    assert all(value.isfinite().all() for value in weights(model).values())
    actions, _ = model.predict(subject.arrays["observations"][:7], deterministic=True)
    assert all(model.action_space.contains(action) for action in actions)
    assert len({action.tobytes() for action in actions}) > 1 or subject.actions is gym.spaces.Discrete


def test_same_seed_same_weights_and_another_seed_others(subject: Subject) -> None:
    first = subject.make(seed=3).learn(6)
    th.rand(5), np.random.rand(3)  # noqa: NPY002  (the global generators must not matter)
    assert same(first, subject.make(seed=3).learn(6))
    assert not same(first, subject.make(seed=4).learn(6))


def test_a_model_and_its_data_are_freed_with_the_last_reference(subject: Subject) -> None:
    """And not by Python's full collections, which come as seldom as they are long: a study's worker grew with each run."""
    model, callback = subject.make(), Save(Path(), step=-1, stop=99)
    gc.collect()
    gc.disable()
    try:
        model.learn(5, callback=[callback], validation=0.3 if can_be_validated(subject) else None)
        held = [weakref.ref(each) for each in (model, model.policy, model.replay_buffer, callback)]
        del model, callback
        assert [each() for each in held] == [None] * 4
    finally:
        gc.enable()


class Save(BaseCallback):
    """Saves at a step, and ends training after another, as a crash does."""

    def __init__(self, path: Path, step: int, stop: int):
        super().__init__()
        self.path, self.step, self.stop = path, step, stop

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.model.save(self.path)
        return self.num_timesteps < self.stop


def test_resumed_is_uninterrupted(subject: Subject, tmp_path: Path) -> None:
    """Interrupted at step 7 of 11, between two rollouts and two log lines: networks, optimisers, random streams, logs."""
    whole = subject.make().learn(11, log_interval=5)
    subject.make().learn(11, Save(tmp_path / "at_7", 7, stop=8), log_interval=5)
    resumed = subject.cls.resume(tmp_path, env=subject.task, dataset=subject.arrays)
    assert resumed.num_timesteps == 7
    resumed.learn(log_interval=5)
    assert resumed.num_timesteps == 11
    assert digest(resumed) == digest(whole)
    assert digest(resumed) != digest(subject.make().learn(1))  # the digest sees something


def test_every_callback_of_sb3(subject: Subject, tmp_path: Path) -> None:
    steps: list[int] = []
    seen: list[str] = []

    class Tick(BaseCallback):
        def _on_training_start(self) -> None:
            seen.append("start")

        def _on_rollout_start(self) -> None:
            seen.append("rollout start")

        def _on_rollout_end(self) -> None:
            seen.append("rollout end")

        def _on_training_end(self) -> None:
            seen.append("end")

        def _on_step(self) -> bool:
            steps.append(self.num_timesteps)
            return True

    env = Monitor(gym.make(subject.task, max_episode_steps=3))
    evaluation = EvalCallback(
        env,
        callback_on_new_best=StopTrainingOnRewardThreshold(1e9),
        callback_after_eval=StopTrainingOnNoModelImprovement(5),
        eval_freq=4,
        n_eval_episodes=1,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    every = EveryNTimesteps(3, Tick())
    functions = [ConvertCallback(lambda local_variables, _: local_variables["self"].num_timesteps < 8)]
    others = [CheckpointCallback(4, str(tmp_path)), every, LogEveryNTimesteps(2), StopTrainingOnMaxEpisodes(3)]
    callbacks = CallbackList([Tick(), evaluation, *others, *functions])
    model = subject.make().learn(10, callback=callbacks, progress_bar=True)
    assert model.num_timesteps == 8  # the function stopped it
    assert steps == sorted([*range(1, 9), 3, 6])
    assert (seen[0], seen[-1]) == ("start", "end")
    assert ("rollout start" in seen) == ("rollout end" in seen)
    if subject.is_model_based:
        assert seen.count("rollout start") == 3  # ahead of updates 0, 3 and 6; SB3 tells events no rollouts
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [4, 8]
    names = {path.name for path in tmp_path.glob("*.zip")}
    assert names == {"best_model.zip", "rl_model_4_steps.zip", "rl_model_8_steps.zip"}


def test_everything_comes_back(subject: Subject, tmp_path: Path) -> None:
    model = subject.make().learn(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # everything is plain data
        model.save(tmp_path / "model")
    assert subject.cls.load.__func__ is not BaseAlgorithm.load.__func__  # nobody brings SB3's own back, which unpickles
    with nothing_unpickled():
        loaded = subject.cls.load(tmp_path / "model", device="cpu")
    assert_equal_parameters(model, loaded)
    for name in ("gamma", "batch_size", "observation_space", "action_space", "policy_class", "train_freq"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.dataset_info.dataset_id == model.dataset_info.dataset_id
    rows = subject.arrays["observations"][:5]
    expected, found = (m.predict(rows, deterministic=True)[0] for m in (model, loaded))
    np.testing.assert_array_equal(expected, found)
    loaded.set_env(gym.make(subject.task))
    loaded.dataset = subject.arrays
    assert loaded.learn(2, reset_num_timesteps=False).num_timesteps == 5
    assert not same(loaded, model)


def test_normalised_observations(subject: Subject, tmp_path: Path) -> None:
    """The statistics are those of the data, and an env that normalises rewards is refused."""

    def wrapped(**options: Any) -> VecNormalize:
        return VecNormalize(DummyVecEnv([lambda: gym.make(subject.task)]), **options)

    with pytest.raises(ValueError, match="norm_reward=True"):
        subject.make(wrapped())
    env = wrapped(norm_reward=False)
    model = subject.make(env).learn(3)
    rows = subject.arrays["observations"]
    np.testing.assert_allclose(env.obs_rms.mean, rows.mean(axis=0), atol=1e-3)  # type: ignore[union-attr]
    np.testing.assert_allclose(env.obs_rms.var, rows.var(axis=0), rtol=1e-2)  # type: ignore[union-attr]
    assert not same(model, subject.make().learn(3))
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="normalised observations"):
        subject.cls.load(tmp_path / "model", env=gym.make(subject.task), dataset=subject.arrays, device="cpu").learn(1)


@pytest.mark.parametrize("kind", BEYOND_VECTORS)
def test_images_and_dicts(subject: Subject, kind: str, tmp_path: Path) -> None:
    """Learned from, saved, loaded and resumed; or refused, with the algorithms that can."""
    space, policy, policy_kwargs = BEYOND_VECTORS[kind]
    env, data = subject.on(space)
    if subject.cls.vectors_only is not None:
        for what, given in ((repr(policy), policy), ("images" if kind == "images" else "dict observations", "MlpPolicy")):
            reason = f"{subject.cls.__name__} takes no {what}: {subject.cls.vectors_only}.* there are .*CQL"
            with pytest.raises(ValueError, match=reason):
                subject.make(env, data, given, policy_kwargs=policy_kwargs)
        return
    model = subject.make(env, data, policy, policy_kwargs=policy_kwargs).learn(4, Save(tmp_path / "at_2", 2, stop=9))
    model.save(tmp_path / "model")
    loaded = subject.cls.load(tmp_path / "model", env=env, device="cpu")
    rows = {key: part[:5] for key, part in data["observations"].items()} if kind == "dicts" else data["observations"][:5]
    expected, found = (m.predict(rows, deterministic=True)[0] for m in (model, loaded))
    np.testing.assert_array_equal(expected, found)
    assert all(env.action_space.contains(action) for action in found)
    resumed = subject.cls.resume(tmp_path / "at_2.resume", env=env, dataset=data).learn()
    assert same(model, resumed)


def can_be_validated(subject: Subject) -> bool:
    names = ("held_out_values", "held_out_figures")
    return any(getattr(subject.cls, name) is not getattr(OfflineAlgorithm, name) for name in names)


def test_held_out_episodes_are_looked_at_or_refused_at_once(subject: Subject) -> None:
    model = subject.make()
    if not can_be_validated(subject):
        with pytest.raises(ValueError, match=f"{subject.cls.__name__} has no validation: leave it out"):
            model.learn(3, validation=0.3)
        assert model._n_updates == 0
        return
    model.learn(3, validation=0.3)
    figures = model.validation.figures()
    assert "likelihood" in figures
    assert np.isfinite(list(figures.values())).all()
    assert figures == model.validation.figures()  # the same noise each time


class Counts(BaseFeaturesExtractor):
    """An extractor with statistics of what it has seen."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 8)
        self.norm = th.nn.BatchNorm1d(get_flattened_obs_dim(observation_space))
        self.last = th.nn.Linear(self.norm.num_features, 8)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.last(self.norm(observations))


@pytest.mark.parametrize(
    "policy_kwargs",
    [{"net_arch": [8], "layer_norm": False}, {"net_arch": []}, {"net_arch": [8], "features_extractor_class": Counts}],
    ids=["plain ReLU", "linear", "BatchNorm"],
)
def test_networks_of_ones_own(subject: Subject, policy_kwargs: dict[str, Any], tmp_path: Path) -> None:
    """They learn, and come back by what save's warning names; PreQN refuses statistics, which leave no kernel of rows."""
    if subject.name == "preqn" and "features_extractor_class" in policy_kwargs:
        with pytest.raises(ValueError, match=r"BatchNorm layer.*no kernel"):
            subject.make(policy_kwargs=policy_kwargs).learn(3)
        return
    if not subject.cls.default_policy_kwargs.get("layer_norm"):  # which some classes' policies do not have
        policy_kwargs = {name: value for name, value in policy_kwargs.items() if name != "layer_norm"}
    model = subject.make(policy_kwargs=policy_kwargs).learn(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.save(tmp_path / "model")
    again = subject.cls.load(tmp_path / "model", custom_objects={"policy_kwargs": policy_kwargs}, device="cpu")
    rows = np.ones((2, *model.observation_space.shape), np.float32)
    found = [each.predict(rows, deterministic=True)[0] for each in (model, again)]
    np.testing.assert_array_equal(*found)


def test_what_tensorboard_shows(subject: Subject, tmp_path: Path) -> None:
    subject.make(tensorboard_log=str(tmp_path)).learn(6, log_interval=3)
    folder = tmp_path / f"{subject.cls.__name__}_1"
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    losses = [tag for tag in tags if tag.startswith("train/") and tag.endswith("loss")]
    assert losses
    assert {"time/fps", "train/learning_rate"} <= {*tags}
    if subject.is_model_based:
        assert {"dynamics/holdout_error", "model_rollout/reward_mean"} <= {*tags}
    for tag in [*losses, "train/learning_rate"]:
        assert [event.step for event in events.Scalars(tag)] == [3, 6]
        assert np.isfinite([event.value for event in events.Scalars(tag)]).all()


@pytest.mark.one_a_family
def test_its_losses_compile_whole(subject: Subject) -> None:
    """Each is one graph without a break, and gives the numbers of eager execution."""
    model, eager = (subject.make().learn(1) for _ in range(2))
    if not isinstance(model, GradientAlgorithm) or model.capture_obstacle() is not None:
        pytest.skip("it is not compiled")
    graphs = []
    th.compiler.reset()  # torch counts how often a function was compiled, whichever algorithm's it was

    def backend(module: Any, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    model.execution = "compile"
    model._runner = UpdateRunner(model, compile_backend=backend)  # type: ignore[arg-type]
    for _ in range(3):
        model.update()
        eager.update()
    assert graphs
    assert_near(weights(model), weights(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.one_a_family
def test_products_in_bf16_leave_float32_weights(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded, and no more than that."""
    if not subject.takes("precision"):
        pytest.skip("it has no precision")
    monkeypatch.setattr(precision, "available_precision", lambda wanted, _: wanted)  # slow where torch emulates it, but exact
    exact, rounded = (weights(subject.make(precision=kind).learn(3)) for kind in ("float32", "bf16"))
    differences = [float((value - rounded[name]).abs().max()) for name, value in exact.items() if value.is_floating_point()]
    assert 0 < max(differences) < 0.05
    assert all(rounded[name].dtype == value.dtype for name, value in exact.items())


def test_seeds_in_one_process_are_runs_alone(subject: Subject) -> None:
    """As one where the algorithm's update can be stacked, in turn where not; to rounding, which ten Adam steps spread."""
    options = subject.options()
    del options["seed"]
    members = train_seeds(subject.cls, "MlpPolicy", subject.task, subject.arrays, seeds=(1, 2), total_timesteps=10, **options)
    for seed, member in zip((1, 2), members, strict=True):
        reference, found = weights(subject.make(seed=seed).learn(10)), weights(member)
        assert all(th.allclose(found[name].double(), value.double(), atol=1e-4) for name, value in reference.items())
