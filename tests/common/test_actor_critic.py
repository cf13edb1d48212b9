"""The base without entropy: what an algorithm gets by writing its own target, actor loss and networks, and nothing else."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_offline import DiscreteCQL, DivergenceGuard, OfflineSAC
from sb3_offline.common.actor_critic import OfflineActorCritic
from sb3_offline.common.offline_td3 import OfflineTD3, TD3Noise
from sb3_offline.diagnostics import ExcitationCallback, NTKCallback
from sb3_offline.diagnostics.probe import bootstrap, draw_probe
from sb3_offline.execution import precision
from sb3_offline.networks.gaussian import gaussian, gaussian_log_prob
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays


class Cloning(OfflineTD3):
    """TD3+BC in a few lines."""

    def actor_loss(self, nets: Any, batch: Batch, noise: Any) -> Any:
        actions = nets.action(batch.observations)
        loss = (actions.squeeze(1) - batch.actions).square().mean() - nets.q_frozen(batch.observations, actions)[0].mean()
        return loss, {"actor_loss": loss}


class Expectile(OfflineActorCritic):
    """IQL in a few lines: a third network, with an optimiser, a rate and a target of its own."""

    rates = ("learning_rate", "qf_learning_rate", "value_learning_rate")

    def __init__(self, *args: Any, value_learning_rate: float = 1e-3, **kwargs: Any):
        super().__init__(*args, value_learning_rate=value_learning_rate, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        width = get_flattened_obs_dim(self.observation_space)
        net = th.nn.Sequential(th.nn.Linear(width, 16), th.nn.ReLU(), th.nn.Linear(16, 1)).to(self.device)
        optimizer = th.optim.Adam(net.parameters())
        self.register_state("value_net", net, optimizer=optimizer, rate="value_learning_rate", target=True)

    def value_loss(self, nets: Any, batch: Batch, noise: Any) -> Any:
        with th.no_grad():
            q = nets.q_target(batch.observations, batch.actions.unsqueeze(1)).amin(dim=0).squeeze(1)
        u = q - self.value_net(batch.observations).squeeze(1)
        loss = ((0.7 - (u < 0).float()).abs() * u.square()).mean()
        return loss, {"value_loss": loss}

    def td_target(self, nets: Any, batch: Batch, noise: Any) -> th.Tensor:
        with th.no_grad():
            return batch.rewards + self.gamma * (1 - batch.dones) * self.value_net(batch.next_observations).squeeze(1)

    def critic_step(self, nets: Any, batch: Batch, noise: Any, call: Any) -> Any:
        loss, logs = call(self.value_loss, nets, batch, noise)
        self.value_net.optimizer.zero_grad()
        loss.backward()
        self.value_net.optimizer.step()
        return logs | super().critic_step(nets, batch, noise, call)

    def actor_loss(self, nets: Any, batch: Batch, noise: Any) -> Any:
        loss = -nets.log_prob(batch.observations, batch.actions.unsqueeze(1)).mean()
        return loss, {"actor_loss": loss}


BOTH = pytest.mark.parametrize("algorithm", [Cloning, Expectile])


def make(algorithm: type[Any], arrays: Arrays, **options: Any) -> Any:
    return algorithm("MlpPolicy", "Pendulum-v1", dataset=arrays, **FAST | {"check_data": False} | options)


def states(model: Any) -> dict[str, th.Tensor]:
    """Everything that is saved, flattened."""
    found = {}
    for part, state in model.get_parameters().items():
        found |= {f"{part}.{name}": value for name, value in state.items() if isinstance(value, th.Tensor)}
    return found


@BOTH
def test_no_entropy_is_shown(algorithm: type[Any]) -> None:
    options = inspect.signature(algorithm).parameters
    assert not {"ent_coef", "target_entropy", "entropy_backup"} & set(options)
    assert {"execution", "precision", "qf_learning_rate", "tau"} <= set(options)
    assert ("policy_delay" in options) == issubclass(algorithm, OfflineTD3)
    with pytest.raises(TypeError, match="takes no argument 'ent_coef'"):
        algorithm("MlpPolicy", "Pendulum-v1", dataset="sb3_offline/Pendulum-random-v0", ent_coef=0.1)


@BOTH
def test_what_was_declared_is_saved_and_goes_on_alike(algorithm: type[Any], pendulum_arrays: Arrays, tmp_path: Path) -> None:
    straight = make(algorithm, pendulum_arrays).learn(12)
    model = make(algorithm, pendulum_arrays)

    class Save:
        def __call__(self, local: dict[str, Any], _: Any) -> bool:
            if local["self"].num_timesteps == 7:
                local["self"].save(tmp_path / "model.zip")
            return local["self"].num_timesteps < 7

    model.learn(12, callback=Save())
    loaded = algorithm.load(tmp_path / "model.zip", device="cpu")
    assert states(loaded).keys() == states(model).keys()
    for name, value in states(model).items():
        th.testing.assert_close(states(loaded)[name], value, rtol=0, atol=0)
    rows = pendulum_arrays["observations"][:9]
    np.testing.assert_array_equal(loaded.predict(rows, deterministic=True)[0], model.predict(rows, deterministic=True)[0])
    resumed = algorithm.resume(tmp_path / "model.resume", dataset=pendulum_arrays).learn()
    for name, value in states(straight).items():
        th.testing.assert_close(states(resumed)[name], value, rtol=0, atol=0)


def test_a_declared_network_has_its_target_and_its_rate(pendulum_arrays: Arrays) -> None:
    model = make(Expectile, pendulum_arrays, value_learning_rate=lambda progress: 0.01 * progress, tau=0.5)
    before = [p.clone() for p in model.value_net_target.parameters()]
    assert all(th.equal(a, b) for a, b in zip(before, model.value_net.parameters(), strict=True))
    model.learn(1)
    assert model.value_net.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)  # the schedule at the first step
    for old, target, net in zip(before, model.value_net_target.parameters(), model.value_net.parameters(), strict=True):
        th.testing.assert_close(target, 0.5 * old + 0.5 * net)
        assert not target.requires_grad
    assert model.value_net.optimizer in model.optimizers()
    saved, tensors = model._get_torch_save_params()
    assert {"value_net", "value_net_target", "value_net.optimizer"} <= set(saved)
    assert not tensors


def test_a_delayed_actor_steps_every_second_time_and_logs_its_own_mean(pendulum_arrays: Arrays) -> None:
    model = make(Cloning, pendulum_arrays).learn(1, log_interval=None)
    start = {name: value.clone() for name, value in states(model).items()}
    assert "actor_loss" not in model.log_sums.sums
    assert all(th.equal(p, q) for p, q in zip(model.critic_target.parameters(), model.critic_target.parameters(), strict=True))
    model.update()
    now = states(model)
    assert not th.equal(now["policy.actor.mu.0.weight"], start["policy.actor.mu.0.weight"])
    for part in ("actor", "critic"):  # theta' <- tau theta + (1 - tau) theta'
        name = "mu.0.weight" if part == "actor" else "qf0.0.weight"
        expected = 0.005 * now[f"policy.{part}.{name}"] + 0.995 * start[f"policy.{part}_target.{name}"]
        th.testing.assert_close(now[f"policy.{part}_target.{name}"], expected)
    for _ in range(4):
        model.update()
    assert (model.log_sums.counts["critic_loss"], model.log_sums.counts["actor_loss"]) == (6, 3)
    total = model.log_sums.sums["actor_loss"]
    assert model.log_sums.means()["actor_loss"] == pytest.approx(float(total) / 3)


def test_the_target_is_smoothed_and_clipped(pendulum_arrays: Arrays) -> None:
    """mu' = .9, noise clipped to .5 and the action to 1: Q'_j = (3, 2) a at a = 1; and -.5 + .2 (-1) without clipping."""
    model = make(OfflineTD3, pendulum_arrays, gamma=0.9)
    asked: list[th.Tensor] = []

    def q_target(_: Any, actions: th.Tensor) -> th.Tensor:
        asked.append(actions)
        return th.stack([3.0 * actions.squeeze(-1), 2.0 * actions.squeeze(-1)])

    nets: Any = SimpleNamespace(q_target=q_target, target_action=lambda _: th.tensor([[[0.9]], [[-0.5]], [[0.9]]]))
    batch = Batch(None, th.zeros(3, 1), None, th.ones(3), th.tensor([0.0, 0.0, 1.0]), 3)
    y = model.td_target(nets, batch, TD3Noise(th.tensor([[[10.0]], [[-1.0]], [[0.0]]])))
    th.testing.assert_close(asked[0].flatten(), th.tensor([1.0, -0.7, 0.9]))
    th.testing.assert_close(y, th.tensor([1 + 0.9 * 2.0, 1 - 0.9 * 2.1, 1.0]))


@BOTH
def test_diagnostics_ask_the_algorithm(algorithm: type[Any], pendulum_arrays: Arrays) -> None:
    """Its own target, not SAC's; and a run that is watched is the run that is not."""
    watched, alone = make(algorithm, pendulum_arrays), make(algorithm, pendulum_arrays).learn(40)
    callbacks = [NTKCallback(20, 16), ExcitationCallback(20, 16), DivergenceGuard(check_freq=10)]
    watched.learn(40, callback=callbacks)
    for name, value in states(alone).items():
        th.testing.assert_close(states(watched)[name], value, rtol=0, atol=0)
    assert all(row["finite"] == 1.0 for row in callbacks[0].history)  # type: ignore[attr-defined]
    drawn = draw_probe(watched, 32)
    assert drawn is not None
    probe = drawn.samples
    batch, y = bootstrap(watched, probe, seed=3)
    rewards, discounts = probe.rewards.flatten(), 0.99 * (1 - probe.dones.flatten())
    with th.no_grad():
        if algorithm is Expectile:
            value = watched.value_net(probe.next_observations).flatten()
        else:
            with watched.streams.aside(3):
                noise = watched.draw_noise(Batch.of(probe)).next_action.squeeze(1)
            actions = (watched.actor_target(probe.next_observations) + (0.2 * noise).clamp(-0.5, 0.5)).clamp(-1, 1)
            th.testing.assert_close(batch.next_actions, actions)
            value = th.cat(watched.critic_target(probe.next_observations, actions), dim=1).amin(dim=1)
    th.testing.assert_close(y, rewards + discounts * value)


@BOTH
def test_the_guard_lowers_every_rate(algorithm: type[Any], pendulum_arrays: Arrays) -> None:
    model = make(algorithm, pendulum_arrays)
    before = {rate: getattr(model, rate) for rate in model.rates}
    model.critic.q_networks[0][-1].bias.data.fill_(1e5)
    guard = DivergenceGuard("lower_lr", check_freq=1, lr_factor=0.1)
    with pytest.warns(UserWarning, match="Lower qf_learning_rate or gamma"):
        model.learn(1, callback=guard)
    for rate, value in before.items():
        assert (getattr(model, rate), model.schedule(rate)(0.5)) == (pytest.approx(0.1 * value), pytest.approx(0.1 * value))


def test_a_gaussian_that_is_not_squashed() -> None:
    mean, log_std = th.tensor([[0.3, -2.0]]), th.tensor([[0.1, -0.7]])
    noise = th.tensor([[[0.5, -1.0], [0.0, 2.0]]])
    actions, log_prob = gaussian(mean, log_std, noise)
    normal = th.distributions.Normal(mean.unsqueeze(1), log_std.exp().unsqueeze(1))
    th.testing.assert_close(actions, normal.mean + normal.stddev * noise)
    th.testing.assert_close(log_prob, normal.log_prob(actions).sum(dim=-1))
    th.testing.assert_close(gaussian_log_prob(mean, log_std, actions), log_prob)


def test_a_gaussian_actor_predicts_tanh_of_its_mean(pendulum_arrays: Arrays) -> None:
    model = make(Expectile, pendulum_arrays, policy_kwargs={"net_arch": [16], "layer_norm": True, "ortho_init": True})
    rows = th.as_tensor(pendulum_arrays["observations"][:7])
    with th.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(rows)
        assert th.equal(log_std, th.zeros(7, 1))  # one number for all states, 0 at first
        actions, log_prob = model.actor.action_log_prob(rows)
    np.testing.assert_allclose(model.predict(rows.numpy(), deterministic=True)[0], 2 * np.tanh(mean.numpy()), atol=1e-6)
    th.testing.assert_close(log_prob, gaussian_log_prob(th.tanh(mean), log_std, actions.unsqueeze(1)).squeeze(1))


@pytest.mark.parametrize("algorithm", [Cloning, DiscreteCQL])
def test_two_kinds_of_update_are_captured_apart(
    algorithm: type[Any], pendulum_arrays: Arrays, cartpole_arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph holds what one update does: one with the actor (or the target network), and one without."""
    from sb3_offline.execution import updates

    taken: list[tuple[int, Any]] = []

    class Graph:
        def __init__(self, runner: Any):
            self.runner, self.logs = runner, {}  # type: ignore[var-annotated]

        def replay(self) -> None:
            self.logs.update(self.runner._step())

    def capture(runner: Any) -> Any:
        taken.append((runner.algorithm._n_updates, runner.algorithm.phase))
        graph = Graph(runner)
        return graph, graph.logs

    monkeypatch.setattr(updates.UpdateRunner, "_capture", capture)
    monkeypatch.setattr(updates.UpdateRunner, "_on_side_stream", updates.UpdateRunner._step)
    monkeypatch.setattr(updates, "available_execution", lambda *_: "cuda_graph")
    env, arrays = ("Pendulum-v1", pendulum_arrays) if algorithm is Cloning else ("CartPole-v1", cartpole_arrays)
    options: dict[str, Any] = {} if algorithm is Cloning else {"target_update_interval": 2}
    model = algorithm("MlpPolicy", env, dataset=arrays, **FAST | options).learn(12, log_interval=None)
    assert taken == [(6, False), (7, True)]  # each after three of its own to warm up
    assert model.log_sums.counts["critic_loss"] == 12
    if algorithm is Cloning:
        assert model.log_sums.counts["actor_loss"] == 6


def test_discrete_algorithms_take_execution_and_precision(cartpole_arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "available_precision", lambda wanted, _: wanted)  # slow where torch emulates it, but exact

    def learn(**options: Any) -> Any:
        model = DiscreteCQL("MlpPolicy", "CartPole-v1", dataset=cartpole_arrays, **FAST | options)
        return model.learn(20)

    exact, rounded = learn(execution="eager"), learn(precision="bf16")
    differences = [(a - b).abs().max() for a, b in zip(exact.q_net.parameters(), rounded.q_net.parameters(), strict=True)]
    assert 0 < float(max(differences)) < 0.05
    assert next(rounded.q_net.parameters()).dtype == th.float32
    with pytest.raises(ValueError, match="execution must be one of"):
        learn(execution="fast")


def test_td3_explores_online(pendulum_arrays: Arrays) -> None:
    model = make(Cloning, pendulum_arrays).learn(5)
    model.learn_online(30, learning_starts=10)
    assert model.action_noise is not None
    assert model._n_updates == 5 + 20
    assert make(OfflineSAC, pendulum_arrays).exploration_noise() is None
