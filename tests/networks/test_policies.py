"""LayerNorm, orthogonal weights and observations normalised inside the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_offline import COMBO, CQL, PreQN
from sb3_offline.networks.policies import OfflineSACPolicy
from sb3_offline.networks.spectral import spectral_norm
from tests.conftest import FAST, FAST_MODEL_BASED, PLAIN_CQL, Arrays


@pytest.mark.parametrize("policy", ["MlpPolicy", SACPolicy])
def test_misspelt_policy_kwargs(policy: Any, pendulum_arrays: Arrays) -> None:
    with pytest.raises(TypeError, match=r"policy_kwargs: .*SACPolicy takes no 'net_arc'\. Did you mean 'net_arch'\?"):
        make(pendulum_arrays, policy=policy, net_arc=[8])
    with pytest.raises(TypeError, match=r"'xyzzy'\. It takes: activation_fn, (?!.*lr_schedule).*, use_expln, use_sde\."):
        make(pendulum_arrays, policy=policy, xyzzy=1)
    with pytest.raises(TypeError, match=r"Adam.* unexpected keyword argument 'epss'"):  # not the policy's
        make(pendulum_arrays, policy=policy, optimizer_kwargs={"epss": 1e-3})


def make(arrays: Arrays, env: Any = "Pendulum-v1", policy: Any = "MlpPolicy", **policy_kwargs: Any) -> CQL:
    plain = {"layer_norm": False} if isinstance(policy, str) else {}
    options = FAST | PLAIN_CQL | {"n_action_samples": 4, "policy_kwargs": {"net_arch": [32, 32], **plain, **policy_kwargs}}
    return CQL(policy, env=env, dataset=arrays, **options)


def test_without_options_it_is_sb3s_policy(pendulum_arrays: Arrays) -> None:
    """To the bit, so that giving SB3's class explicitly changes nothing."""
    ours, theirs = make(pendulum_arrays).learn(5), make(pendulum_arrays, policy=SACPolicy).learn(5)
    assert type(ours.policy) is OfflineSACPolicy
    assert type(theirs.policy) is SACPolicy
    for name, value in theirs.policy.state_dict().items():
        assert th.equal(value, ours.policy.state_dict()[name]), name


def test_layer_norm_stands_before_the_critics_activations(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, layer_norm=True)
    for critic in (model.critic, model.critic_target):
        for q_network in critic.q_networks:
            kinds = [type(layer).__name__ for layer in q_network]
            assert kinds == ["Linear", "LayerNorm", "ReLU", "Linear", "LayerNorm", "ReLU", "Linear"]
    trained = {id(p) for group in model.critic.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.critic.parameters()} == trained
    for value, target in zip(model.critic.parameters(), model.critic_target.parameters(), strict=True):
        assert th.equal(value, target)
    # Q's first features do not grow with the input: LayerNorm sees through a scale
    first = model.critic.q_networks[0][:2]
    inputs = th.randn(8, 4, generator=th.Generator().manual_seed(0))
    with th.no_grad():
        model.critic.q_networks[0][0].bias.zero_()
        th.testing.assert_close(first(100.0 * inputs), first(inputs), rtol=1e-2, atol=1e-2)
    assert not any(isinstance(module, th.nn.LayerNorm) for module in model.actor.modules())


def test_orthogonal_weights(pendulum_arrays: Arrays) -> None:
    """W W^T = gain^2 I: gains sqrt 2 in hidden layers, 1 for Q, 0.01 for the actor's head; biases are 0."""
    model = make(pendulum_arrays, ortho_init=True)
    second = model.critic.q_networks[1][2].weight.detach()
    th.testing.assert_close(second @ second.T, 2.0 * th.eye(32), atol=1e-5, rtol=0)
    last = model.critic.q_networks[0][-1].weight.detach()
    assert float(last.norm()) == pytest.approx(1.0, abs=1e-5)
    assert float(model.actor.mu.weight.detach().norm()) == pytest.approx(0.01, abs=1e-6)
    assert float(model.actor.latent_pi[0].bias.detach().abs().max()) == 0.0
    assert th.equal(last, model.critic_target.q_networks[0][-1].weight)


def test_observations_are_normalised_inside(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(pendulum_arrays, normalize_observations=True).learn(3)
    observations = pendulum_arrays["observations"]
    mean, std = observations.mean(axis=0), observations.std(axis=0)
    raw = th.as_tensor(observations[:5])
    for network in (model.actor, model.critic, model.critic_target):
        features = network.extract_features(raw, network.features_extractor)
        np.testing.assert_allclose(features.numpy(), (observations[:5] - mean) / std, atol=1e-4)
    np.testing.assert_allclose(model.replay_buffer.observations.numpy(), observations, atol=1e-6)  # rows stay raw

    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", device="cpu")
    expected, _ = model.predict(observations[:5], deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observations[:5], deterministic=True)[0], expected)
    alone = OfflineSACPolicy.load(_save_policy(model, tmp_path), device="cpu")
    np.testing.assert_array_equal(alone.predict(observations[:5], deterministic=True)[0], expected)
    # other data do not move what the networks were trained with
    loaded.dataset = pendulum_arrays | {"observations": observations + 1.0, "next_observations": observations}
    loaded.check_data = False  # made up
    loaded.learn(1, reset_num_timesteps=False)
    np.testing.assert_allclose(loaded.actor.features_extractor.mean.numpy(), mean, atol=1e-4)


def _save_policy(model: CQL, folder: Path) -> str:
    model.policy.save(str(folder / "policy.pt"))
    return str(folder / "policy.pt")


def test_exported_policies_take_raw_observations(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make(pendulum_arrays, normalize_observations=True).learn(3)
    session = onnxruntime.InferenceSession(str(model.export_onnx(tmp_path / "policy")))
    (actions,) = session.run(None, {"observation": pendulum_arrays["observations"][:7]})
    expected, _ = model.predict(pendulum_arrays["observations"][:7], deterministic=True)
    np.testing.assert_allclose(actions, expected, atol=1e-4)


def test_target_actor_is_normalised_too(pendulum_arrays: Arrays) -> None:
    options = FAST_MODEL_BASED | {"policy_kwargs": {"net_arch": [32, 32], "normalize_observations": True}}
    model = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, rollout_policy="target", **options).learn(1)
    mean = pendulum_arrays["observations"].mean(axis=0)
    np.testing.assert_allclose(model.actor_target.features_extractor.mean.numpy(), mean, atol=1e-4)


def test_normalising_twice_is_refused(pendulum_arrays: Arrays) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    with pytest.raises(ValueError, match="normalise twice"):
        make(pendulum_arrays, env=env, normalize_observations=True)


def test_what_cannot_be_normalised_is_refused(pendulum_arrays: Arrays) -> None:
    class Other(FlattenExtractor):
        pass

    other: type[BaseFeaturesExtractor] = Other
    with pytest.raises(ValueError, match="features_extractor_class"):
        make(pendulum_arrays, normalize_observations=True, features_extractor_class=other)
    integers = spaces.Box(0, 5, (3,), dtype=np.int64)
    with pytest.raises(ValueError, match="Box of floats"):
        OfflineSACPolicy(integers, spaces.Box(-1, 1, (1,)), lambda _: 1e-3, normalize_observations=True)


# --- rewards ---


def test_real_and_imagined_rewards_are_transformed_alike(pendulum_arrays: Arrays) -> None:
    """2 r + 5 in every batch; buffers, dynamics and so the cache keep r."""
    options = FAST_MODEL_BASED | {"reward_scale": 2.0, "reward_shift": 5.0}
    model = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(1)
    plain = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, reward_scale=1.0, **FAST_MODEL_BASED).learn(1)
    for buffer, reference in (
        (model.replay_buffer, plain.replay_buffer),
        (model.model_buffer, plain.model_buffer),
    ):
        assert th.equal(buffer.rewards, reference.rewards)
        index = th.arange(10)
        th.testing.assert_close(buffer._get_samples(index).rewards, 2.0 * reference._get_samples(index).rewards + 5.0)
    batch, reference_batch = model.sample_batch(), plain.sample_batch()
    th.testing.assert_close(batch.rewards, 2.0 * reference_batch.rewards + 5.0)


def test_preqn_takes_the_transformation_too(pendulum_arrays: Arrays) -> None:
    model = PreQN("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, batch_size=16, seed=0, reward_scale=0.5)
    rewards = model.learn(1).replay_buffer._get_samples(th.arange(3)).rewards
    np.testing.assert_allclose(rewards[:, 0].numpy(), 0.5 * pendulum_arrays["rewards"][:3], rtol=1e-5)
    with pytest.raises(ValueError, match="TransformReward"):
        model.learn_online(10)


def test_transformation_survives_save_and_load(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    options = FAST | {"n_action_samples": 4, "reward_scale": 3.0, "reward_shift": -1.0}
    CQL("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", device="cpu")
    loaded.dataset = pendulum_arrays
    rewards = loaded.learn(1).replay_buffer._get_samples(th.arange(3)).rewards
    np.testing.assert_allclose(rewards[:, 0].numpy(), 3.0 * pendulum_arrays["rewards"][:3] - 1.0, rtol=1e-5)


# --- the bound on Q's slope ---


def slopes(critic: Any) -> th.Tensor:
    """Norms of the gradients of each Q in state and action, (n_critics, 200), by autograd at random points."""
    points = [3.0 * th.randn(200, 4, generator=th.Generator().manual_seed(0)).requires_grad_() for _ in critic.q_networks]
    q = zip(critic.q_networks, points, strict=True)
    return th.stack([th.autograd.grad(q_network(x).sum(), x)[0].norm(dim=1) for q_network, x in q])


@pytest.mark.parametrize("activation", [th.nn.ReLU, th.nn.Tanh])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_spectral_norm_bounds_the_slope_of_q(pendulum_arrays: Arrays, activation: Any, precision: Any) -> None:
    """Three layers, whose largest singular values by NumPy are at most (1/8)^(1/3) = 1/2, and without the bound far more."""
    options = {"activation_fn": activation, "net_arch": [32, 32]}
    free, bounded = make(pendulum_arrays, **options), make(pendulum_arrays, spectral_norm=0.125, **options)
    bounded.precision = precision
    for model in (free, bounded):
        model.scale_learning_rates(30.0)  # far in few steps
        model.learn(25)
    assert float(slopes(free.critic).max()) > 1.0
    for critic in (bounded.critic, bounded.critic_target):
        assert 0.0 < float(slopes(critic).max()) <= 0.125
        for q_network in critic.q_networks:
            norms = [np.linalg.norm(layer.weight.detach().numpy(), 2) for layer in q_network[::2]]
            assert max(norms) <= 0.5 + 1e-5
            assert critic is bounded.critic_target or max(norms) > 0.48  # no further down than asked for


def test_a_slope_that_is_small_enough_is_left_alone(pendulum_arrays: Arrays) -> None:
    free, bounded = make(pendulum_arrays).learn(5), make(pendulum_arrays, spectral_norm=1e6).learn(5)
    for name, value in free.policy.state_dict().items():
        assert th.equal(value, bounded.policy.state_dict()[name]), name


@pytest.mark.parametrize(
    ("matrix", "largest"),
    [([[3.0, 0.0], [4.0, 0.0]], 5.0), ([[0.0, 2.0, 0.0]], 2.0), ([[1e-6, 0.0], [0.0, 3e-6]], 3e-6), ([[0.0]], 0.0)],
)
def test_largest_singular_value_by_hand(matrix: list[list[float]], largest: float) -> None:
    assert float(spectral_norm(th.tensor(matrix))) == pytest.approx(largest, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("n", [16, 64])
def test_equal_singular_values_are_the_worst_case(n: int) -> None:
    """All n equal to 1: n^(1/256), which is 1.01089 for 16 and 1.01638 for 64."""
    assert float(spectral_norm(th.eye(n))) == pytest.approx({16: 1.01089, 64: 1.01638}[n], abs=1e-5)


def test_the_bound_is_kept_by_a_file(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    make(pendulum_arrays, spectral_norm=0.1).learn(3).save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", device="cpu", dataset=pendulum_arrays)
    assert loaded.policy.spectral_norm == 0.1
    loaded.scale_learning_rates(30.0)
    loaded.learn(5, reset_num_timesteps=False)
    assert float(slopes(loaded.critic).max()) <= 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spectral_norm": 0.0}, "spectral_norm must be positive"),
        ({"spectral_norm": 5.0, "layer_norm": True}, r"spectral_norm=5, layer_norm=False"),
    ],
)
def test_a_bound_that_cannot_hold_is_refused(pendulum_arrays: Arrays, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(pendulum_arrays, **options)
