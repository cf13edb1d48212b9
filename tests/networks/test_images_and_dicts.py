"""Images and dict observations, from the data to the networks and back to predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import CQL, DiscreteCQL
from sb3_offline.common.offline_dqn import OfflineDQN
from sb3_offline.common.offline_sac import OfflineSAC
from sb3_offline.execution.optimizers import minimize

N, SIDE = 500, 36
pytestmark = pytest.mark.filterwarnings("ignore::sb3_offline.datasets.DatasetWarning")
SMALL_CNN: dict[str, Any] = {"net_arch": [16], "features_extractor_kwargs": {"features_dim": 16}}
QUICK: dict[str, Any] = {"batch_size": 32, "seed": 0, "device": "cpu", "gamma": 0.5}


class LitSide(gym.Env):
    """One half of the picture is lit; the action that names it is rewarded."""

    observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._light(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.side)
        return self._light(), reward, False, False, {}

    def _light(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        picture = np.zeros((SIDE, SIDE, 1), np.uint8)
        picture[:, self.side * SIDE // 2 : (self.side + 1) * SIDE // 2] = 255
        return picture


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    """500 random steps in episodes of 50."""
    env, rng = LitSide(), np.random.default_rng(0)
    now, _ = env.reset(seed=0)
    rows: list[tuple[Any, ...]] = []
    for t in range(N):
        action = rng.integers(2)
        then, reward, *_ = env.step(action)
        rows.append((now, action, reward, then, False, t % 50 == 49))
        now = then
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def continuous(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays | {"actions": np.linspace(-1.9, 1.9, len(arrays["rewards"]), dtype=np.float32)[:, None]}


class Spaces(gym.Env):
    """Only spaces; rewards are for torque near 0."""

    action_space = spaces.Box(-2.0, 2.0, (1,))

    def __init__(self, observation_space: spaces.Space):
        self.observation_space = observation_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), -float(np.abs(action).sum()), False, True, {}


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return all(th.equal(first, second) for first, second in pairs)


# --- images ---


def test_discrete_cql_learns_what_the_picture_shows(pictures: dict[str, np.ndarray]) -> None:
    model = DiscreteCQL("CnnPolicy", LitSide(), dataset=pictures, learning_rate=1e-3, policy_kwargs=SMALL_CNN, **QUICK)
    model.learn(60)
    lit = (pictures["observations"][:, 0, -1, 0] > 0).astype(int)
    actions, _ = model.predict(pictures["observations"], deterministic=True)
    assert (actions == lit).mean() > 0.95
    held: Any = model.replay_buffer.observations
    assert held.dtype == th.uint8
    assert held.nbytes == N * SIDE * SIDE  # a byte a pixel


def test_the_place_of_the_channels_in_the_data_makes_no_difference(pictures: dict[str, np.ndarray]) -> None:
    three = {name: np.repeat(pictures[name], 3, axis=-1) for name in ("observations", "next_observations")}
    for part in three.values():
        part[..., 2] //= 5  # channels that differ
    first = {name: np.ascontiguousarray(np.moveaxis(part, -1, 1)) for name, part in three.items()}
    env = Spaces(spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8))
    models = [
        CQL("CnnPolicy", env, dataset=continuous(pictures | given), policy_kwargs=SMALL_CNN, n_action_samples=2, **QUICK)
        for given in (three, first)
    ]
    for model in models:
        model.learn(2)
    batches = [model.replay_buffer._get_samples(th.arange(5)) for model in models]
    np.testing.assert_array_equal(batches[0].observations.numpy(), first["observations"][:5])
    assert th.equal(batches[0].next_observations, batches[1].next_observations)
    assert same_weights(*models)


def test_images_enter_the_critics_as_they_do_in_sb3(pictures: dict[str, np.ndarray]) -> None:
    model = CQL("CnnPolicy", Spaces(LitSide.observation_space), dataset=continuous(pictures), policy_kwargs=SMALL_CNN, **QUICK)
    images = th.as_tensor(pictures["observations"][:3]).permute(0, 3, 1, 2)
    actions = th.rand(3, 4, 1) * 2 - 1
    q = model.networks().q(images, actions)
    for n in range(4):
        expected = th.stack(model.critic(images, actions[:, n])).squeeze(-1)
        th.testing.assert_close(q[:, :, n], expected)
    assert not th.allclose(q[:, 0], q[:, 1])


@pytest.mark.parametrize("share", [False, True])
def test_each_loss_trains_its_own_extractor_and_a_shared_one_belongs_to_the_actor(
    pictures: dict[str, np.ndarray], share: bool
) -> None:
    model = CQL(
        "CnnPolicy",
        Spaces(LitSide.observation_space),
        dataset=continuous(pictures),
        policy_kwargs=SMALL_CNN | {"share_features_extractor": share},
        **QUICK,
    )
    model.prepare(model.load_dataset(), progress_bar=False)
    nets, batch = model.networks(), model.sample_batch()
    noise = model.draw_noise(batch)

    def weights() -> tuple[th.Tensor, th.Tensor]:
        return tuple(net.features_extractor.cnn[0].weight.detach().clone() for net in (model.actor, model.critic))

    actor, critic = weights()
    minimize(model.critic_loss(nets, batch, noise)[0], model.critic.optimizer)
    actor_after, critic_after = weights()
    assert th.equal(actor, actor_after)
    assert th.equal(critic, critic_after) == share
    minimize(model.actor_loss(nets, batch, noise)[0], model.actor.optimizer)
    assert not th.equal(weights()[0], actor_after)
    assert th.equal(weights()[1], critic_after) != share


# --- dicts ---

TWO = spaces.Dict({"a": spaces.Box(-9.0, 9.0, (2,)), "b": spaces.Box(-9.0, 9.0, (3,))})


def vectors() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    walk = rng.normal(size=(121, 5)).astype(np.float32)
    return {
        "observations": walk[:-1],
        "next_observations": walk[1:],
        "actions": rng.uniform(-2, 2, (120, 1)).astype(np.float32),
        "rewards": rng.normal(size=120).astype(np.float32),
        "terminations": np.arange(120) % 20 == 19,
    }


def by_key(arrays: dict[str, Any]) -> dict[str, Any]:
    names = ("observations", "next_observations")
    return arrays | {name: {"a": arrays[name][:, :2], "b": arrays[name][:, 2:]} for name in names}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_target_actions": 3, "calibrated": True},
        {"bc_warmup_steps": 2, "conservative": "expectation"},
        {"policy_kwargs": {"layer_norm": True, "ortho_init": True, "net_arch": [16]}},
    ],
)
def test_two_vectors_by_key_are_their_concatenation(options: dict[str, Any]) -> None:
    options = {"policy_kwargs": {"net_arch": [16, 16]}, "n_action_samples": 3, "batch_size": 16, "seed": 0} | options
    flat = CQL("MlpPolicy", Spaces(spaces.Box(-9.0, 9.0, (5,))), dataset=vectors(), device="cpu", **options).learn(4)
    keyed = CQL("MultiInputPolicy", Spaces(TWO), dataset=by_key(vectors()), device="cpu", **options).learn(4)
    assert isinstance(keyed.critic.features_extractor, CombinedExtractor)
    assert same_weights(flat, keyed)
    rows = vectors()["observations"][:7]
    expected, _ = flat.predict(rows, deterministic=True)
    actions, _ = keyed.predict({"a": rows[:, :2], "b": rows[:, 2:]}, deterministic=True)
    np.testing.assert_array_equal(actions, expected)


def test_two_vectors_by_key_in_discrete_cql_and_the_parents() -> None:
    arrays = vectors() | {"actions": np.arange(120) % 3}
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 16, "seed": 0, "device": "cpu"}
    for algorithm in (DiscreteCQL, OfflineDQN):
        envs = [Spaces(space) for space in (spaces.Box(-9.0, 9.0, (5,)), TWO)]
        for env in envs:
            env.action_space = spaces.Discrete(3)
        flat = algorithm("MlpPolicy", envs[0], dataset=arrays, **options).learn(4)
        keyed = algorithm("MultiInputPolicy", envs[1], dataset=by_key(arrays), **options).learn(4)
        assert same_weights(flat, keyed)
    options["critic_update"] = "normalized_td"
    flat = OfflineSAC("MlpPolicy", Spaces(spaces.Box(-9.0, 9.0, (5,))), dataset=vectors(), **options).learn(2)
    keyed = OfflineSAC("MultiInputPolicy", Spaces(TWO), dataset=by_key(vectors()), **options).learn(2)
    assert same_weights(flat, keyed)


ROBOT = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8),
        "mode": spaces.Discrete(3),
        "speed": spaces.Box(-9.0, 9.0, (2,)),
    }
)


@pytest.fixture(scope="module")
def robot(pictures: dict[str, np.ndarray]) -> Any:
    """CQL after three steps on a camera, a mode and a speed."""
    rng = np.random.default_rng(5)
    mode, speed = rng.integers(0, 3, N + 1), rng.normal(size=(N + 1, 2)).astype(np.float32)
    arrays: dict[str, Any] = {
        name: {"camera": pictures[name], "mode": mode[rows], "speed": speed[rows]}
        for name, rows in (("observations", slice(N)), ("next_observations", slice(1, None)))
    }
    kwargs = {"net_arch": [16], "features_extractor_kwargs": {"cnn_output_dim": 8}, "layer_norm": False}
    data, options = continuous(pictures) | arrays, QUICK | {"n_action_samples": 2, "averaging_rate": 0.0}
    model = CQL("MultiInputPolicy", Spaces(ROBOT), dataset=data, policy_kwargs=kwargs, **options)
    return model.learn(3), {key: part[:5] for key, part in arrays["observations"].items()}


def test_a_camera_beside_a_vector(robot: Any) -> None:
    model, _ = robot
    held = model.replay_buffer.observations
    assert {key: (part.dtype, part.nbytes) for key, part in held.items()} == {
        "camera": (th.uint8, N * SIDE * SIDE),
        "mode": (th.int64, N * 8),
        "speed": (th.float32, N * 2 * 4),
    }
    observations = {key: part[:5] for key, part in held.items()}
    actions = th.rand(5, 2, 1)
    q = model.networks().q(observations, actions)
    th.testing.assert_close(q[:, :, 1], th.stack(model.critic(observations, actions[:, 1])).squeeze(-1))
    assert model.critic.features_extractor.features_dim == 8 + 3 + 2  # the mode is one-hot


def test_save_and_load_and_go_on(robot: Any, tmp_path: Path) -> None:
    model, rows = robot
    model.save(tmp_path / "model.zip")
    loaded = CQL.load(tmp_path / "model.zip", env=Spaces(ROBOT), device="cpu")
    expected, _ = model.predict(rows, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(rows, deterministic=True)[0], expected)
    model.save_replay_buffer(tmp_path / "data.npz")
    loaded.load_replay_buffer(tmp_path / "data.npz")
    loaded.learn(1)
    assert th.equal(loaded.replay_buffer.observations["camera"], model.replay_buffer.observations["camera"])


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    arrays = by_key(vectors() | {"actions": np.arange(120) % 3})
    env = Spaces(TWO)
    env.action_space = spaces.Discrete(3)
    model = DiscreteCQL("MultiInputPolicy", env, dataset=arrays, policy_kwargs={"net_arch": [8]}, **QUICK)
    model.learn(8, callback=CheckpointCallback(5, str(tmp_path)))
    resumed = DiscreteCQL.resume(tmp_path / "rl_model_5_steps.resume", env=env, dataset=arrays).learn()
    assert resumed.num_timesteps == 8
    assert same_weights(model, resumed)


def test_the_buffer_of_sb3s_own_run_on_images() -> None:
    options: dict[str, Any] = {"policy_kwargs": SMALL_CNN, "device": "cpu"}
    dqn = DQN("CnnPolicy", TimeLimit(LitSide(), 20), buffer_size=60, learning_starts=100, **options).learn(52)
    model = DiscreteCQL("CnnPolicy", LitSide(), dataset=dqn.replay_buffer, batch_size=8, **options).learn(1)
    held: Any = model.replay_buffer.observations
    assert held.shape == (52, 1, SIDE, SIDE)  # SB3's buffers have the channels first, the environment has them last
    np.testing.assert_array_equal(held.numpy(), dqn.replay_buffer.observations[:52, 0])  # type: ignore[union-attr]


def test_export_is_predict(robot: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, rows = robot
    path = model.export_onnx(tmp_path / "robot")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first = rows | {"camera": np.moveaxis(rows["camera"], -1, 1)}
    expected, _ = model.predict(rows, deterministic=True)
    np.testing.assert_allclose(session.run(None, first)[0], expected, atol=1e-4)


def test_sb3s_sac_takes_over(robot: Any) -> None:
    model, rows = robot
    sac = model.to_sac(buffer_size=10)
    assert sac.policy_class.__module__.startswith("stable_baselines3")
    expected, _ = model.predict(rows, deterministic=True)
    np.testing.assert_array_equal(sac.predict(rows, deterministic=True)[0], expected)
    with pytest.raises(ValueError, match=r"keeps no dict observations.*to_sac"):
        model.learn_online(10)


def test_images_go_on_online(pictures: dict[str, np.ndarray]) -> None:
    env = Spaces(LitSide.observation_space)
    model = CQL("CnnPolicy", env, dataset=continuous(pictures), policy_kwargs=SMALL_CNN, n_action_samples=2, **QUICK)
    model.learn(1)
    model.learn_online(3, learning_starts=1)
    buffer: Any = model.replay_buffer
    assert buffer.n_online == 3
    assert buffer.observations.dtype == th.uint8
    assert buffer.observations[N : N + 3].float().mean() > 100  # noise, met online


# --- what is refused ---


def test_policies_that_do_not_fit_the_observations() -> None:
    vector, small = Spaces(spaces.Box(-1.0, 1.0, (3,))), Spaces(spaces.Box(0, 255, (20, 20, 3), np.uint8))
    for policy, env, message in (
        ("CnnPolicy", vector, "'CnnPolicy' takes images"),
        ("CnnPolicy", small, "at least 36 x 36"),
        ("MultiInputPolicy", vector, "'MultiInputPolicy' takes a Dict space"),
        ("MlpPolicy", Spaces(TWO), "use 'MultiInputPolicy'"),
        ("MultiInputPolicy", Spaces(spaces.Dict(deep=TWO)), r"\['deep'\] live in .* nested"),
    ):
        with pytest.raises(ValueError, match=message):
            CQL(policy, env)


def test_normalisers_of_vectors_refuse_the_rest() -> None:
    inside = {"normalize_observations": True}
    for policy, space in (("CnnPolicy", LitSide.observation_space), ("MultiInputPolicy", TWO)):
        with pytest.raises(ValueError, match="normalize_observations needs a Box of floats"):
            CQL(policy, Spaces(space), policy_kwargs=inside)
        env = VecNormalize(DummyVecEnv([lambda space=space: Spaces(space)]), norm_reward=False)
        with pytest.raises(ValueError, match="is for vectors here"):
            CQL(policy, env)


def test_no_ood_score_of_images(pictures: dict[str, np.ndarray]) -> None:
    env = Spaces(LitSide.observation_space)
    model = CQL("CnnPolicy", env, dataset=continuous(pictures), policy_kwargs=SMALL_CNN, **QUICK)
    with pytest.raises(ValueError, match="ood_score needs vectors of numbers as states"):
        model.fit_ood_detector()


def test_float_images_need_their_flag() -> None:
    env = Spaces(spaces.Box(0.0, 1.0, (1, SIDE, SIDE)))
    with pytest.raises(ValueError, match="normalize_images=False"):
        CQL("CnnPolicy", env)
