"""What SB3's users do between two steps, and around a run, does what it does in SB3."""

from __future__ import annotations

import copy
import csv
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import CQL, MOPO, TD3BC, DiscreteCQL, OfflineEvalCallback, OfflineSAC
from sb3_offline.dynamics import resolve_termination
from sb3_offline.training.time_estimate import TimeEstimate
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


@pytest.mark.parametrize(("steps", "lines"), [(6, [3, 6]), (7, [3, 6, 7])])
def test_an_evaluation_at_the_end_is_its_log_line(steps: int, lines: list[int], tmp_path: Path) -> None:
    """It shows the training's means; the same once more would be a second table of the same step."""
    model = CQL("MlpPolicy", DATA, **SMALL)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(steps, callback=EvalCallback(Monitor(gym.make("Pendulum-v1")), eval_freq=3, n_eval_episodes=1, verbose=0))
    rows = list(csv.DictReader((tmp_path / "progress.csv").open()))
    assert [int(row["time/total_timesteps"]) for row in rows] == lines
    assert all(row["train/critic_loss"] for row in rows)


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


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_with_normalised_observations_trains_on(copied: Any) -> None:
    """VecNormalize forgets the env in it when it is copied."""
    env = VecNormalize(DummyVecEnv([lambda: gym.make(DATA)]), norm_reward=False)
    model = CQL("MlpPolicy", env, **SMALL | {"seed": 0}).learn(2)
    other = copied(model)
    assert other.get_vec_normalize_env() is other.env
    assert other.env.venv is not env.venv
    actions = [one.learn(1, reset_num_timesteps=False).predict(OBSERVATION, deterministic=True)[0] for one in (model, other)]
    assert np.array_equal(*actions)
    assert np.array_equal(other.env.obs_rms.mean, env.obs_rms.mean)


def test_a_loaded_model_of_every_kind_travels_to_another_process() -> None:
    """By pickle, as multiprocessing's spawn sends it; imagined episodes end in the copy as in the original."""
    model = MOPO("MlpPolicy", DATA, **FAST_MODEL_BASED).learn(2)
    copied = pickle.loads(pickle.dumps(model))
    assert np.array_equal(
        copied.predict(OBSERVATION, deterministic=True)[0], model.predict(OBSERVATION, deterministic=True)[0]
    )
    hopper = resolve_termination("auto", gym.spec("Hopper-v5"), has_terminations=False)
    fallen = th.zeros(2, 11)
    for rule in (hopper, pickle.loads(pickle.dumps(hopper))):
        assert rule(fallen, th.zeros(2, 3), fallen).all()
    copied.learn(2)


# --- rates ---


def rates(model: Any) -> tuple[float, float]:
    return tuple(float(each.optimizer.param_groups[0]["lr"]) for each in (model.actor, model.critic))  # type: ignore[return-value]


def test_a_rate_that_is_assigned_is_taken() -> None:
    model = CQL("MlpPolicy", DATA, **SMALL).learn(1)
    model.learning_rate, model.qf_learning_rate = 1e-7, lambda progress: 1e-6 * progress
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.learn(2)
    assert rates(model) == pytest.approx((1e-7, 0.5e-6))
    model.lr_schedule = lambda _: 3e-7  # as SB3's users also do
    model.learn(1)
    assert rates(model) == pytest.approx((3e-7, 1e-6))


def by_set_parameters(model: CQL) -> None:
    parameters = model.get_parameters()
    parameters["actor.optimizer"]["param_groups"][0]["lr"] = 1e-7
    model.set_parameters(parameters)


def by_hand(model: CQL) -> None:
    model.actor.optimizer.param_groups[0]["lr"] = 1e-7


@pytest.mark.parametrize("put", [by_set_parameters, by_hand])
@pytest.mark.parametrize("steps_before", [0, 1])
def test_a_rate_that_is_put_into_an_optimiser_is_warned_of(put: Any, steps_before: int) -> None:
    model = CQL("MlpPolicy", DATA, **SMALL)
    if steps_before:
        model.learn(steps_before)
    put(model)
    with pytest.warns(
        UserWarning, match=r"1e-07 that was put into actor.optimizer.*Assign model.learning_rate = 1e-07"
    ) as seen:
        model.learn(1)
    assert [w.filename for w in seen if "was put into" in str(w.message)] == [__file__]


def test_rates_that_nobody_put_are_not_warned_of(tmp_path: Path) -> None:
    options = SMALL | {"learning_rate": lambda progress: 1e-3 * progress}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = OfflineSAC("MlpPolicy", DATA, **options).learn(3).learn(2)
        model.scale_learning_rates(0.5)
        model.learn(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the schedule, which is no plain data
            model.save(tmp_path / "m")
        OfflineSAC("MlpPolicy", DATA, **SMALL).load(tmp_path / "m", learning_rate=1e-5).learn(1)
        fresh = OfflineSAC("MlpPolicy", DATA, **SMALL)
        fresh.set_parameters(tmp_path / "m.zip")
        fresh.learn(1)


# --- callbacks that wait in vain ---


class Rollouts(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.ends = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.ends += 1


@pytest.mark.parametrize("inside", [lambda c: c, lambda c: [c], lambda c: EveryNTimesteps(1, c)])
def test_callbacks_that_wait_for_what_is_collected_are_named(inside: Any) -> None:
    with pytest.warns(UserWarning, match="StopTrainingOnMaxEpisodes never stops") as seen:
        CQL("MlpPolicy", DATA, **SMALL).learn(1, inside(StopTrainingOnMaxEpisodes(1)))
    assert [w.filename for w in seen if "never stops" in str(w.message)] == [__file__]
    with pytest.warns(UserWarning, match=r"Rollouts._on_rollout_end is never called.*_on_step is called"):
        CQL("MlpPolicy", DATA, **SMALL).learn(1, inside(Rollouts()))


def test_imagined_rollouts_call_the_hooks() -> None:
    callback = Rollouts()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*never called")
        MOPO("MlpPolicy", DATA, **FAST_MODEL_BASED | {"rollout_freq": 2}).learn(5, callback)
    assert callback.ends == 3  # ahead of steps 0, 2 and 4
    quiet = CallbackList([CheckpointCallback(100, "."), EveryNTimesteps(2, Does(lambda c: c.n_calls))])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*never")
        CQL("MlpPolicy", DATA, **SMALL).learn(1, quiet)


# --- a model goes on elsewhere ---


def test_what_does_not_fit_is_refused_by_name() -> None:
    model = CQL("MlpPolicy", DATA, **SMALL)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.to_sac(gym.make("MountainCarContinuous-v0"))
    parameters = copy.deepcopy(model.get_parameters())
    parameters["policy"]["actor.mu.bias"][:] = float("nan")
    with pytest.raises(ValueError, match=r"policy holds NaN or infinite numbers in actor\.mu\.bias"):
        model.set_parameters(parameters)
    assert np.isfinite(model.predict(OBSERVATION)[0]).all()


def test_policies_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"CQL has no policy 'MlpLstmPolicy': take 'MlpPolicy'.*FrameStackObservation"):
        CQL("MlpLstmPolicy", DATA, **SMALL)
    with pytest.raises(ValueError, match="DiscreteCQL has no policy 'mlp': take 'MlpPolicy'"):
        DiscreteCQL("mlp", "CartPole-v1", dataset=record("CartPole-v1", 20), **SMALL)


# --- what is shown ---


def test_an_evaluation_is_one_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    evaluation = OfflineEvalCallback(Monitor(gym.make("Pendulum-v1", max_episode_steps=5)), eval_freq=2, n_eval_episodes=1)
    options = SMALL | {"verbose": 1, "tensorboard_log": str(tmp_path)}
    model = CQL("MlpPolicy", DATA, **options).learn(2, evaluation, log_interval=None)
    text = capsys.readouterr().out
    assert text.count("| eval/ ") == text.count("normalized_score") == text.count("mean_reward ") == 1
    assert scalars(tmp_path, "eval/normalized_score") == [2]
    assert model.dataset_info is not None
    assert evaluation.last_normalized_score == model.dataset_info.normalized_score(evaluation.last_mean_reward)


@pytest.mark.parametrize(("steps", "said"), [(100, ""), (101, "CQL: 101 gradient steps at ")])
def test_how_long_it_will_take_is_said_while_it_is_ahead(steps: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    estimate = TimeEstimate("CQL", steps)
    assert any(estimate.print_once() for _ in range(100))
    assert capsys.readouterr().out[:27] == said


def test_a_warning_of_save_points_to_who_saves(tmp_path: Path) -> None:
    model = CQL("MlpPolicy", DATA, **SMALL | {"learning_rate": lambda progress: 1e-3 * progress})
    with pytest.warns(UserWarning, match="not plain data") as seen:
        model.save(tmp_path / "m")
    assert {w.filename for w in seen if "not plain data" in str(w.message)} == {__file__}


def test_a_cached_fit_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_OFFLINE_CACHE", str(tmp_path))
    for message in ("fitting the dynamics model to", f"of an earlier run is taken from {tmp_path}"):
        MOPO("MlpPolicy", DATA, **FAST_MODEL_BASED | {"verbose": 1, "dynamics_cache": True}).learn(1)
        assert message in capsys.readouterr().out


# --- callbacks that cannot work ---


@pytest.mark.parametrize(
    ("callback", "error", "message"),
    [
        (lambda: 3, TypeError, "callback must be a callback, a function or a list of these, got 3"),
        (lambda: [EvalCallback], TypeError, r"make one, EvalCallback\(\.\.\.\)"),
        (lambda: evaluation("MountainCarContinuous-v0"), ValueError, "evaluates in an env with observations in"),
        (lambda: EveryNTimesteps(1, evaluation("CartPole-v1")), ValueError, "evaluates in an env with"),
        (
            lambda: evaluation("Pendulum-v1", normalized=True),
            ValueError,
            "normalised observations, and the model trains on raw",
        ),
    ],
)
def test_callbacks_are_looked_at_before_anything_is_fitted(
    callback: Any, error: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MOPO("MlpPolicy", DATA, **FAST_MODEL_BASED)
    monkeypatch.setattr(MOPO, "fit_dynamics", lambda *_, **__: pytest.fail("it was fitted first"))
    with pytest.raises(error, match=message):
        model.learn(2, callback())


def evaluation(env_id: str, normalized: bool = False) -> EvalCallback:
    env = DummyVecEnv([lambda: Monitor(gym.make(env_id, max_episode_steps=5))])
    return EvalCallback(VecNormalize(env, norm_reward=False, training=False) if normalized else env, eval_freq=1)


# --- what is around a run ---


@pytest.mark.parametrize("algorithm", [CQL, MOPO])
@pytest.mark.parametrize("mode", [th.no_grad, th.inference_mode])
def test_where_gradients_are_switched_off_nothing_learns(algorithm: Any, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = algorithm("MlpPolicy", DATA, **SMALL)
    monkeypatch.setattr(type(model), "load_dataset", lambda *_: pytest.fail("the data were read first"))
    with mode(), pytest.raises(RuntimeError, match="gradients are switched off"):
        model.learn(2)


@pytest.mark.parametrize(("algorithm", "data"), [(CQL, DATA), (DiscreteCQL, "sb3_offline/CartPole-medium-replay-v0")])
def test_a_callback_that_switches_gradients_off_is_named(algorithm: Any, data: str) -> None:
    def forgets(*_: Any) -> bool:
        th.set_grad_enabled(False)
        return True

    try:
        with pytest.raises(RuntimeError, match="in a callback"):
            algorithm("MlpPolicy", data, **SMALL).learn(3, forgets)
    finally:
        th.set_grad_enabled(True)


NOISE = NormalActionNoise(np.zeros(1), np.ones(1))


@pytest.mark.parametrize(("name", "value"), [("learning_starts", 1000), ("gradient_steps", 4), ("action_noise", NOISE)])
def test_assignments_that_change_nothing_are_named_once(name: str, value: Any, tmp_path: Path) -> None:
    model = TD3BC("MlpPolicy", DATA, **SMALL).learn(1)
    model.save(tmp_path / "m")
    for each in (model, TD3BC.load(tmp_path / "m"), copy.deepcopy(model)):
        setattr(each, name, value)
        with pytest.warns(UserWarning, match=rf"model\.{name} = .* changes nothing in TD3BC.learn"):
            each.learn(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            each.learn(1)


def test_what_learn_online_sets_is_no_assignment() -> None:
    model = TD3BC("MlpPolicy", DATA, **SMALL).learn(1)
    model.learn_online(4, learning_starts=1, gradient_steps=2, train_freq=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(1)


def test_a_buffer_that_is_assigned_is_pointed_to_dataset() -> None:
    collected = SAC("MlpPolicy", "Pendulum-v1", learning_starts=999, buffer_size=500, device="cpu").learn(250).replay_buffer
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=DATA, **SMALL).learn(1)
    model.replay_buffer = collected
    with pytest.warns(UserWarning, match="Assign model.dataset = that buffer"):
        model.learn(1)
    assert model.replay_buffer.size() == 30_000
    model.dataset = collected
    assert model.learn(1).replay_buffer.size() == 250


@pytest.mark.parametrize("parts", ["latent_pi", "actor"])
@pytest.mark.parametrize("algorithm", [CQL, TD3BC])
def test_frozen_layers_stay_and_the_rest_learns(parts: str, algorithm: Any) -> None:
    model = algorithm("MlpPolicy", DATA, **SMALL)
    hidden = model.actor.latent_pi if algorithm is CQL else model.actor.mu[:2]
    frozen = [*(hidden if parts == "latent_pi" else model.actor).requires_grad_(False).parameters()]
    before, critic = [parameter.clone() for parameter in frozen], copy.deepcopy(model.critic.state_dict())
    model.learn(4)
    assert all(map(th.equal, frozen, before))
    assert not all(th.equal(value, critic[name]) for name, value in model.critic.state_dict().items())


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        ({"net_arch": [0]}, "a layer of net_arch must be at least 1"),
        ({"net_arch": {"pi": [8], "qf": [8.5]}}, "a layer of net_arch must be a whole number"),
        ({"n_critics": 0, "net_arch": [8]}, "n_critics must be at least 1"),
    ],
)
def test_networks_that_there_are_not(policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        CQL("MlpPolicy", DATA, policy_kwargs=policy_kwargs)


def test_no_policy_acts_on_what_is_no_number() -> None:
    """SB3's SAC refuses it in torch's words, its TD3 answers NaN, and its DQN the first action."""
    for algorithm, env in ((CQL, "Pendulum-v1"), (TD3BC, "Pendulum-v1"), (DiscreteCQL, "CartPole-v1")):
        model = algorithm("MlpPolicy", env, **SMALL)
        rows = np.zeros((2, *model.observation_space.shape), np.float32)
        rows[1, 2] = np.nan
        for observation, place in ((rows, "[1, 2]"), (rows[1], "[2]")):
            with pytest.raises(ValueError, match=re.escape(f"holds nan at index {place}")):
                model.predict(observation)
    with pytest.raises(ValueError, match="holds nan"):
        model.predict(rows, action_masks=np.ones((2, 2)))


def test_streams_and_settings_of_the_process_stay_as_they_were() -> None:
    """Without a seed nothing of the caller's is drawn from or set."""
    before = th.get_num_threads(), th.get_default_dtype(), th.is_grad_enabled()
    stream: Any = np.random.get_state()  # noqa: NPY002
    CQL("MlpPolicy", DATA, **SMALL).learn(2)
    now: Any = np.random.get_state()  # noqa: NPY002
    assert (now[1] == stream[1]).all()
    assert now[2] == stream[2]
    assert (th.get_num_threads(), th.get_default_dtype(), th.is_grad_enabled()) == before


def test_a_callback_that_returns_false_stops_there(tmp_path: Path) -> None:
    class Stops(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 3

    assert CQL("MlpPolicy", DATA, **SMALL).learn(50, Stops()).num_timesteps == 3
    callbacks: Any = [CheckpointCallback(3, str(tmp_path)), EveryNTimesteps(2, Does(lambda callback: callback.num_timesteps))]
    assert CQL("MlpPolicy", DATA, **SMALL).learn(6, callbacks).num_timesteps == 6
    assert sorted(path.stem for path in tmp_path.glob("*.zip")) == ["rl_model_3_steps", "rl_model_6_steps"]
    assert callbacks[1].callback.seen == [2, 4, 6]


def test_the_optimisers_class_and_its_options_are_taken_and_come_back(tmp_path: Path) -> None:
    options: Any = {"net_arch": [8], "optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 1e-3}}
    model = CQL("MlpPolicy", DATA, **SMALL | {"policy_kwargs": options}).learn(2)
    model.save(tmp_path / "m")
    for one in (model, CQL.load(tmp_path / "m")):
        assert isinstance(one.critic.optimizer, th.optim.AdamW)
        assert one.critic.optimizer.param_groups[0]["weight_decay"] == 1e-3
        assert {int(state["step"]) for state in one.critic.optimizer.state.values()} == {2}


def test_a_rate_that_takes_the_place_of_a_schedule_counts_at_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not plain data"):
        CQL("MlpPolicy", DATA, learning_rate=lambda left: 1e-3 * left, **SMALL).learn(10).save(tmp_path / "m")
    model = CQL.load(tmp_path / "m", custom_objects={"learning_rate": 5e-4}).learn(1)
    assert model.actor.optimizer.param_groups[0]["lr"] == 5e-4
