"""The callbacks on plain SB3 algorithms: they log, they see what is there, and they change nothing."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_offline import CQL, DiscreteCQL, OfflineSAC, PreQN
from sb3_offline.diagnostics import ExcitationCallback, NTKCallback, ntk
from sb3_offline.diagnostics.callbacks import ProbeCallback
from sb3_offline.diagnostics.probe import bootstrap, draw_probe, merge_repeats, preserved_rng
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays

SMALL: dict[str, Any] = {"learning_starts": 50, "batch_size": 32, "seed": 0, "device": "cpu"}
ALGORITHMS = [(SAC, "Pendulum-v1"), (TD3, "Pendulum-v1"), (DDPG, "Pendulum-v1"), (DQN, "CartPole-v1")]
KEYS = {
    NTKCallback: {"td_growth", "row_ratio", "beta_modulus", "cond16", "cond17_rows", "stable_learning_rate"}
    | {"update_alignment", "effective_rank", "condition_number", "td_error", "q_abs_max"},
    ExcitationCallback: {"lam_min", "lam_min_gram", "lam_max", "excited_rank", "pivot", "remainder_ratio"},
}


def train(algorithm: type[Any], env: str, callback: Any = None, steps: int = 150, **options: Any) -> Any:
    options = SMALL | {"policy_kwargs": {"net_arch": [16, 16]}} | options
    return algorithm("MlpPolicy", env, **options).learn(steps, callback=callback)


def weights(model: BaseAlgorithm) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


@pytest.mark.parametrize(("algorithm", "env"), ALGORITHMS)
def test_both_log_on_plain_sb3_and_leave_the_run_untouched(algorithm: type[Any], env: str) -> None:
    callbacks = [NTKCallback(40, 16), ExcitationCallback(40, 16)]
    watched, alone = train(algorithm, env, callbacks), train(algorithm, env)
    assert th.equal(weights(watched), weights(alone))
    for callback in callbacks:
        assert [row["step"] for row in callback.history] == [40, 80, 120]
        for row in callback.history:
            assert set(row) == KEYS[type(callback)] | {"step", "finite"}
            assert all(np.isfinite(value) for name, value in row.items() if name != "condition_number")


def test_values_reach_the_logger() -> None:
    callback = NTKCallback(40, 16)
    model = train(SAC, "Pendulum-v1", callback)
    recorded = model.logger.name_to_value
    assert recorded["divergence/row_ratio"] == callback.history[-1]["row_ratio"]
    assert {name.split("/")[1] for name in recorded if name.startswith("divergence/")} == KEYS[NTKCallback] | {"finite"}


def test_figures_belong_to_the_critic() -> None:
    callback = NTKCallback(60, 16)
    model = train(SAC, "Pendulum-v1", callback, steps=60)
    assert callback.probe is not None
    samples, rho = callback.probe.samples, callback.probe.rho
    figures = callback.examine()
    assert figures is not None
    kernel = ntk.kernel(model.critic, samples.observations, samples.actions)
    assert figures["row_ratio"] == pytest.approx(float(ntk.row_ratio(kernel).mean()), rel=1e-6)
    rate = model.critic.optimizer.param_groups[0]["lr"]
    assert figures["beta_modulus"] == pytest.approx(ntk.beta_modulus(kernel, rho, rate, 0.99))
    q = model.critic(samples.observations, samples.actions)[0]
    assert figures["q_abs_max"] == pytest.approx(q.abs().max().item(), rel=1e-6)


def test_targets_are_those_of_the_algorithms() -> None:
    """Against the targets as SB3 writes them, where no sampling is involved."""
    model = train(DQN, "CartPole-v1")
    drawn = draw_probe(model, 16)
    assert drawn is not None
    probe = drawn.samples
    batch, y = bootstrap(model, probe)
    best = model.q_net_target(probe.next_observations).max(dim=1).values
    expected = probe.rewards.flatten() + 0.99 * (1 - probe.dones.flatten()) * best
    assert th.allclose(y, expected)
    assert batch.next_actions is not None
    assert th.allclose(model.q_net_target(probe.next_observations).gather(1, batch.next_actions).flatten(), best)

    sac = train(SAC, "Pendulum-v1")
    drawn = draw_probe(sac, 16)
    assert drawn is not None
    probe = drawn.samples
    batch, y = bootstrap(sac, probe, seed=3)
    with th.random.fork_rng(), th.no_grad():
        th.manual_seed(3)
        actions, log_prob = sac.actor.action_log_prob(probe.next_observations)
        value = th.cat(sac.critic_target(probe.next_observations, actions), 1).min(1).values
        value = value - sac.log_ent_coef.exp() * log_prob
    assert th.allclose(y, probe.rewards.flatten() + 0.99 * (1 - probe.dones.flatten()) * value)


def test_targets_are_those_of_our_algorithms(pendulum_arrays: Arrays, cartpole_arrays: Arrays) -> None:
    """PreQN and the normalised rule bootstrap from the critic itself, our DQN doubly, CQL from the best of n actions."""

    def probe_of(model: Any) -> ReplayBufferSamples:
        drawn = draw_probe(model, 64)
        assert drawn is not None
        return drawn.samples

    preqn = PreQN("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, **FAST).learn(30)
    probe = probe_of(preqn)
    _, y = bootstrap(preqn, probe)
    value = preqn.critic.q1_forward(probe.next_observations, preqn.actor(probe.next_observations))
    th.testing.assert_close(y, (probe.rewards + 0.99 * (1 - probe.dones) * value).flatten().detach())

    options = FAST | {"tau": 0.001, "gamma": 0.9}
    dqn = DiscreteCQL("MlpPolicy", "CartPole-v1", dataset=cartpole_arrays, learning_rate=0.01, **options).learn(200)
    probe = probe_of(dqn)
    columns = (probe.observations, probe.actions, probe.next_observations, probe.dones.flatten(), probe.rewards.flatten())
    fields = dict(zip(("observations", "actions", "next_observations", "dones", "rewards"), columns, strict=True))
    expected = dqn.td_target(dqn.networks(), Batch(**fields, n_real=len(columns[3])))
    _, y = bootstrap(dqn, probe)
    th.testing.assert_close(y, expected)
    assert not th.allclose(y, fields["rewards"] + 0.9 * (1 - fields["dones"]) * dqn.q_net_target(columns[2]).amax(dim=1))

    cql = CQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, n_target_actions=5, **options).learn(30)
    probe = probe_of(cql)
    batch, y = bootstrap(cql, probe, seed=3)
    with cql.streams.aside(3), th.no_grad():
        normals = cql.draw_noise(Batch.of(probe)).next_action  # (rows, 5, action_dim)
        mean, log_std, _ = cql.actor.get_action_dist_params(probe.next_observations)
        draws = [th.tanh(mean + log_std.exp() * normals[:, i]) for i in range(5)]
        q = th.stack([th.cat(cql.critic_target(probe.next_observations, action), dim=1) for action in draws])
        best = q.amax(dim=0).amin(dim=1)
        chosen = th.cat(cql.critic_target(probe.next_observations, batch.next_actions), dim=1)
    th.testing.assert_close(y, probe.rewards.flatten() + 0.9 * best)
    assert bool(((chosen - best.unsqueeze(1)).abs() < 1e-5).any(dim=1).all())  # it is the action that made y

    normalized = OfflineSAC("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, critic_update="normalized_td", **options)
    probe = probe_of(normalized.learn(5))
    batch, y = bootstrap(normalized, probe, index=1)
    with th.no_grad():
        own = normalized.critic(probe.next_observations, batch.next_actions)[1].flatten()
    th.testing.assert_close(y, probe.rewards.flatten() + 0.9 * own)


@pytest.mark.parametrize("algorithm", [PreQN, DiscreteCQL])
def test_both_log_on_our_algorithms(algorithm: type[Any], pendulum_arrays: Arrays, cartpole_arrays: Arrays) -> None:
    env, arrays = ("CartPole-v1", cartpole_arrays) if algorithm is DiscreteCQL else ("Pendulum-v1", pendulum_arrays)
    callbacks = [NTKCallback(10, 16), ExcitationCallback(10, 16)]
    watched, alone = (algorithm("MlpPolicy", env, dataset=arrays, **FAST) for _ in range(2))
    assert th.equal(weights(watched.learn(30, callback=callbacks)), weights(alone.learn(30)))
    for callback in callbacks:
        assert [row["step"] for row in callback.history] == [10, 20, 30]
        assert all(row["finite"] == 1.0 for row in callback.history)
    assert callbacks[1].history[-1]["remainder_ratio"] > 0  # the reference is not what the critic is now


def test_probe_waits_for_the_buffer() -> None:
    callback = NTKCallback(10, 64)
    train(SAC, "Pendulum-v1", callback, steps=100)
    assert [row["step"] for row in callback.history] == [70, 80, 90, 100]


def test_repeated_pairs_are_merged_and_weighted() -> None:
    column = lambda *values: th.tensor(values, dtype=th.float32)[:, None]  # noqa: E731
    samples = ReplayBufferSamples(
        observations=column(1, 2, 1, 1),
        actions=column(0, 0, 0, 5),
        next_observations=column(7, 8, 9, 10),
        dones=column(0, 0, 0, 0),
        rewards=column(1, 2, 3, 4),
    )
    probe = merge_repeats(samples)
    assert probe.samples.observations.tolist() == [[1], [2], [1]]  # type: ignore[union-attr]
    assert probe.samples.rewards.tolist() == [[1], [2], [4]]
    assert probe.rho.tolist() == [0.5, 0.25, 0.25]


def test_a_given_probe_is_used_and_observations_are_normalised_as_in_training() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    model = SAC("MlpPolicy", env, **SMALL).learn(100)
    drawn = draw_probe(model, 32)
    assert drawn is not None
    observations = drawn.samples.observations
    assert isinstance(observations, th.Tensor)
    raw = np.asarray(env.unnormalize_obs(observations.numpy()))
    assert np.allclose(np.hypot(raw[:, 0], raw[:, 1]), 1, atol=1e-4)  # cos and sin of the angle
    callback = ExcitationCallback(10, probe=drawn.samples)
    model.learn(20, callback=callback, reset_num_timesteps=False)
    assert callback.probe is not None
    assert th.equal(callback.probe.samples.actions, drawn.samples.actions)
    assert len(callback.history) == 2


def test_random_streams_are_restored() -> None:
    class Owner:
        def __init__(self) -> None:
            self.torch, self.numpy = th.Generator().manual_seed(0), np.random.default_rng(0)

        def draw(self) -> tuple[float, ...]:
            return (
                float(th.rand(1, generator=self.torch)),
                float(self.numpy.random()),
                float(th.rand(1)),
                float(np.random.random()),  # noqa: NPY002
            )

    owner = Owner()
    with preserved_rng():
        with preserved_rng(owner):
            inside = owner.draw()
        assert owner.draw() == inside
        assert owner.draw() != inside


def test_a_diverged_critic_is_reported_once_and_training_goes_on() -> None:
    callback = NTKCallback(10, 16)
    model = train(TD3, "Pendulum-v1", callback, steps=60)
    with th.no_grad():
        model.critic.qf0[0].weight[0, 0] = float("nan")
    with pytest.warns(UserWarning, match=r"qf0\.0\.weight"):
        callback.examine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.examine()
    assert callback.history[-1] == {"step": 60, "finite": 0.0}


def test_dropout_and_modes_of_the_policy_survive_a_probe() -> None:
    class Dropped(nn.Tanh):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: th.Tensor) -> th.Tensor:
            return self.drop(super().forward(x))

    callback = NTKCallback(60, 16)
    model = train(SAC, "Pendulum-v1", callback, steps=60, policy_kwargs={"net_arch": [8], "activation_fn": Dropped})
    model.policy.set_training_mode(True)
    first, second = callback.examine(), callback.examine()
    assert first == second  # no dropout noise
    assert all(module.training for module in model.critic.modules())


@pytest.mark.parametrize(("callback", "message"), [(NTKCallback, "index=2"), (ExcitationCallback, "index=2")])
def test_a_q_that_is_not_there_is_refused_at_the_start(callback: type[ProbeCallback], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(SAC, "Pendulum-v1", callback(index=2))


def test_models_without_a_q_function_are_refused() -> None:
    with pytest.raises(TypeError, match="PPO is on-policy"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16).learn(16, callback=NTKCallback())
    with pytest.raises(ValueError, match="check_freq=0"):
        NTKCallback(check_freq=0)


def test_an_offline_run_is_left_untouched_too(pendulum_arrays: dict[str, np.ndarray]) -> None:
    callbacks: list[Any] = [NTKCallback(10, 32), ExcitationCallback(10, 32)]
    results = []
    for callback in (callbacks, None):
        model = CQL(
            "MlpPolicy",
            "Pendulum-v1",
            pendulum_arrays,
            n_action_samples=2,
            batch_size=32,
            policy_kwargs={"net_arch": [16]},
            seed=0,
            device="cpu",
        )
        results.append(weights(model.learn(30, callback=callback)))
    assert th.equal(*results)
    assert all([row["step"] for row in callback.history] == [10, 20, 30] for callback in callbacks)
