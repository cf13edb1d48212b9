"""SB3 behaves as SB3: callbacks, save and load, environments, logging, determinism."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import COMBO, CQL, DROMO, OfflineEvalCallback
from tests.conftest import Arrays, fast_options


def make(algorithm: type, arrays: Any, env: Any = "Pendulum-v1", **options: Any) -> Any:
    return algorithm("MlpPolicy", env=env, dataset=arrays, **(fast_options(algorithm) | options))


def observations(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


def test_everything_that_was_fitted_is_saved(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(DROMO, pendulum_arrays).learn(5)
    model.save(tmp_path / "model")
    loaded = DROMO.load(tmp_path / "model", device="cpu")
    for part in ("policy", "dynamics", "behavior_policy", "visitation"):
        for name, value in getattr(model, part).state_dict().items():
            assert th.equal(value, getattr(loaded, part).state_dict()[name]), (part, name)
    assert bool(loaded.dynamics.fitted)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert sum(item.file_size for item in archive.infolist()) < 3_000_000  # neither data nor rollouts travel along


def test_callback_can_stop(pendulum_arrays: Arrays) -> None:
    model = make(CQL, pendulum_arrays).learn(50, callback=lambda local, _: local["self"].num_timesteps < 7)
    assert model.num_timesteps == 7


def test_reset_num_timesteps_and_log_interval(pendulum_arrays: Arrays) -> None:
    model = make(CQL, pendulum_arrays).learn(5, log_interval=None)
    model.learn(5, reset_num_timesteps=False, log_interval=1)
    assert model.num_timesteps == 10
    model.learn(5)
    assert model.num_timesteps == 5


def test_tensorboard_names(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    evaluation = OfflineEvalCallback(Monitor(gym.make("Pendulum-v1")), eval_freq=10, n_eval_episodes=1, verbose=0)
    model = make(DROMO, "sb3_offline/Pendulum-medium-v0", env=None, tensorboard_log=str(tmp_path))
    model.learn(20, log_interval=10, callback=evaluation)
    (run,) = tmp_path.iterdir()
    assert run.name == "DROMO_1"
    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    expected = {"critic_loss", "actor_loss", "q_data", "q_policy", "conservative_gap", "robust_penalty", "ent_coef"}
    assert {f"train/{name}" for name in expected | {"robust_active_fraction"}} <= tags
    assert {"dynamics/train_loss", "dynamics/holdout_mse", "behavior_policy/holdout_nll"} <= tags
    assert {f"model_rollout/{name}" for name in ("length_mean", "reward_mean", "terminated_fraction")} <= tags
    assert {"eval/mean_reward", "eval/normalized_score"} <= tags
    assert evaluation.last_normalized_score is not None
    reward = events.Scalars("eval/mean_reward")[-1].value
    score = events.Scalars("eval/normalized_score")[-1].value
    assert score == pytest.approx(model.dataset_info.normalized_score(reward), abs=1e-3)


def test_env_with_its_own_data() -> None:
    env = gym.make("sb3_offline/Pendulum-medium-replay-v0")
    model = CQL("MlpPolicy", env, **fast_options(CQL)).learn(3)
    assert len(model.replay_buffer.rewards) == len(env.unwrapped.get_dataset())  # type: ignore[attr-defined]
    observation, _ = env.reset()
    action, _ = model.predict(observation)
    assert env.action_space.contains(action)
    by_id = CQL("MlpPolicy", "sb3_offline/Pendulum-medium-replay-v0", **fast_options(CQL)).learn(3)
    assert all(th.equal(a, b) for a, b in zip(model.policy.parameters(), by_id.policy.parameters(), strict=True))


def test_dataset_alone_gives_spaces_and_env() -> None:
    model = CQL("MlpPolicy", dataset="sb3_offline/Pendulum-medium-v0", **fast_options(CQL)).learn(3)
    assert model.action_space.high == 2.0
    returns, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=1)  # type: ignore[arg-type]
    assert -2000 < returns < 0  # type: ignore[operator]


def test_spaces_alone_train_without_a_simulator(pendulum_arrays: Arrays) -> None:
    from gymnasium import spaces

    from sb3_offline import load_dataset

    data = load_dataset(pendulum_arrays, observation_space=spaces.Box(-8, 8, (3,)), action_space=spaces.Box(-2, 2, (1,)))
    model = make(COMBO, data, env=None).learn(3)
    action, _ = model.predict(observations(1)[0])
    assert action.shape == (1,)
    with pytest.raises(RuntimeError, match="no simulator"):
        model.get_env().step(np.zeros((1, 1)))


def test_vec_normalize_takes_its_statistics_from_the_data(pendulum_arrays: Arrays) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    model = make(DROMO, pendulum_arrays, env=env).learn(3)
    np.testing.assert_allclose(env.obs_rms.mean, pendulum_arrays["observations"].mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(env.obs_rms.var, pendulum_arrays["observations"].var(axis=0), rtol=1e-3)
    assert not env.training
    raw = th.as_tensor(pendulum_arrays["observations"][:7])
    np.testing.assert_allclose(model.normalizer(raw).numpy(), env.normalize_obs(raw.numpy()), atol=1e-5)
    # buffers and dynamics stay in raw observations
    np.testing.assert_allclose(model.replay_buffer.observations.numpy(), pendulum_arrays["observations"], atol=1e-6)
    np.testing.assert_allclose(model.dynamics.input_mean[:3].numpy(), pendulum_arrays["observations"].mean(0), atol=0.2)


def test_loaded_normalisation_is_kept(pendulum_arrays: Arrays) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    env.obs_rms.update(np.full((100, 3), 5.0))
    make(CQL, pendulum_arrays, env=env).learn(1)
    np.testing.assert_allclose(env.obs_rms.mean, 5.0, atol=1e-4)


def test_reward_normalisation_is_refused(pendulum_arrays: Arrays) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    with pytest.raises(ValueError, match="norm_reward=False"):
        make(CQL, pendulum_arrays, env=env)


def test_set_env_and_parameters(pendulum_arrays: Arrays) -> None:
    model = make(DROMO, pendulum_arrays).learn(2)
    model.set_env(gym.make("Pendulum-v1"))
    other = make(DROMO, pendulum_arrays, seed=9)
    other.set_parameters(model.get_parameters(), device="cpu")
    np.testing.assert_array_equal(
        model.predict(observations(), deterministic=True)[0], other.predict(observations(), deterministic=True)[0]
    )
    model.learn(2)


def test_save_to_a_stream(pendulum_arrays: Arrays) -> None:
    model = make(CQL, pendulum_arrays)
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    loaded = CQL.load(stream, device="cpu")
    np.testing.assert_array_equal(
        model.predict(observations(), deterministic=True)[0], loaded.predict(observations(), deterministic=True)[0]
    )


def test_schedules_and_two_learning_rates(pendulum_arrays: Arrays) -> None:
    options = {"learning_rate": lambda progress: 1e-4 * progress, "qf_learning_rate": 2e-3}
    model = make(CQL, pendulum_arrays, **options).learn(10)
    assert model.critic.optimizer.param_groups[0]["lr"] == 2e-3
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * 0.1)


def test_fixed_temperature(pendulum_arrays: Arrays) -> None:
    model = make(CQL, pendulum_arrays, ent_coef=0.2).learn(2)
    assert model.ent_coef_optimizer is None
    assert float(model._ent_coef()) == pytest.approx(0.2)


def test_an_env_id_is_remembered(tmp_path: Path) -> None:
    model = CQL("MlpPolicy", "sb3_offline/Pendulum-medium-v0", **fast_options(CQL)).learn(2)
    model.save(tmp_path / "model")
    assert CQL.load(tmp_path / "model", device="cpu").learn(2, reset_num_timesteps=False).num_timesteps == 4


# --- bad input ---


@pytest.mark.parametrize("steps", [0, -1, 5.5])
def test_odd_numbers_of_steps_are_refused(pendulum_arrays: Arrays, steps: float) -> None:
    with pytest.raises(ValueError, match="total_timesteps"):
        make(CQL, pendulum_arrays).learn(steps)


def test_negative_rates_are_refused(pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match="qf_learning_rate must be a schedule, or a number"):
        make(CQL, pendulum_arrays, qf_learning_rate=-1.0)


def test_unwritable_tensorboard_log(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="tensorboard_log="):
        make(CQL, pendulum_arrays, tensorboard_log=str(tmp_path / "file" / "runs")).learn(1)


def test_two_environments_are_refused(pendulum_arrays: Arrays) -> None:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    with pytest.raises(ValueError, match="2 environments"):
        make(CQL, pendulum_arrays, env=env)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"actions in a Box space.*Discrete\(2\)"):
        CQL("MlpPolicy", "CartPole-v1")


def test_no_data_lists_the_ways() -> None:
    with pytest.raises(ValueError, match="dataset="):
        CQL("MlpPolicy")
    with pytest.raises(ValueError, match="get_dataset"):
        CQL("MlpPolicy", "Pendulum-v1").learn(1)


def test_spaces_that_do_not_fit_the_env() -> None:
    with pytest.raises(ValueError, match="space"):
        CQL("MlpPolicy", env="MountainCarContinuous-v0", dataset="sb3_offline/Pendulum-medium-v0")


def test_corrupted_zip(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match="zip"):
        CQL.load(tmp_path / "model.zip")


def test_the_task_given_as_env_keeps_its_time_limit(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The data name no task: after load the task is made anew, and episodes still end."""
    CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **fast_options(CQL)).learn(1).save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", device="cpu")
    assert loaded.dataset_info is not None
    env = loaded.dataset_info.make_env()
    env.reset(seed=0)
    steps = 0
    while not env.step(env.action_space.sample())[3]:
        steps += 1
    assert steps == 199
