"""The guard sees real divergence, acts as told, and leaves healthy runs alone."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.utils import LinearSchedule

from sb3_offline import COMBO, CQL, MOPO, DiscreteCQL, DivergenceGuard, load_dataset
from sb3_offline.datasets import save_mapped
from sb3_offline.training.health import TrainingDivergedError
from tests.conftest import FAST, FAST_MODEL_BASED, PLAIN_CQL, PUBLISHED_MOPO, Arrays, maker

# Critics that run away within a few hundred steps: a rate 1000 times too large, and targets that follow at once
WILD: dict[str, Any] = {"qf_learning_rate": 0.3, "tau": 1.0, "conservative_weight": 0.0}
# A gap that no critic can have: the multiplier grows by the rate in each step
IMPOSSIBLE: dict[str, Any] = {"target_gap": -1e6, "qf_learning_rate": 1e-2}


make = maker(CQL, **FAST | PLAIN_CQL, n_action_samples=2)


def weights(model: SAC) -> list[th.Tensor]:
    return [value.clone() for value in model.policy.state_dict().values()]


def test_bound_by_hand(pendulum_arrays: Arrays) -> None:
    """(2 R_max + 1)/(1 - .9) for transformed rewards; COMBO with f = .2 and beta = 3 adds 3 max(5, 1.25) to R_max."""
    largest = float(np.abs(2.0 * pendulum_arrays["rewards"] + 1.0).max())
    model = make(pendulum_arrays, gamma=0.9, reward_scale=2.0, reward_shift=1.0).learn(1)
    assert model.value_bound() == pytest.approx(largest / 0.1, rel=1e-5)
    options = FAST_MODEL_BASED | {"reward_scale": 1.0, "real_ratio": 0.2, "conservative_weight": 3.0, "gamma": 0.9}
    combo = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(1)
    assert combo.value_bound() == pytest.approx((float(np.abs(pendulum_arrays["rewards"]).max()) + 15.0) / 0.1, rel=1e-5)


def test_diverging_run_is_stopped(pendulum_arrays: Arrays) -> None:
    guard = DivergenceGuard("stop", check_freq=25)
    with pytest.warns(UserWarning, match=r"running away.*Training is stopped"):
        model = make(pendulum_arrays, **WILD).learn(600, callback=guard)
    assert model.num_timesteps < 600
    (event,) = guard.events
    assert event["severity"] > 1.0
    assert event["q_data_abs"] > model.value_bound() or abs(event["ood_gap"]) > model.value_bound()


def test_warn_goes_on(pendulum_arrays: Arrays) -> None:
    guard = DivergenceGuard(check_freq=25)
    with pytest.warns(UserWarning, match="Training goes on"):
        model = make(pendulum_arrays, **WILD).learn(200, callback=guard)
    assert model.num_timesteps == 200
    severities = [event["severity"] for event in guard.events]
    assert severities == sorted(severities)  # it speaks again only when things have become worse


def runaway_weight(steps: int) -> float:
    """Adam (rate 0.01) on -w 1e6 over log w, from 2.5, by hand."""
    log_weight, m, v = math.log(2.5), 0.0, 0.0
    for t in range(1, steps + 1):
        gradient = -1e6 * math.exp(log_weight)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        log_weight -= 0.01 * (m / (1 - 0.9**t)) / math.sqrt(v / (1 - 0.999**t))
    return math.exp(log_weight)


def test_multiplier_that_runs_away_is_seen(pendulum_arrays: Arrays) -> None:
    guard = DivergenceGuard("stop", check_freq=25, weight_growth=2.0, bound_factor=1e6)
    with pytest.warns(UserWarning, match="conservative_weight"):
        model = make(pendulum_arrays, **IMPOSSIBLE).learn(300, callback=guard)
    assert runaway_weight(50) < 2.0 * 2.5 < runaway_weight(75)
    assert model.num_timesteps == 75
    assert guard.events[0]["conservative_weight"] == pytest.approx(runaway_weight(75), rel=1e-3)


def test_restore_goes_back_and_lowers_the_rates(pendulum_arrays: Arrays) -> None:
    guard = DivergenceGuard("restore", check_freq=50, weight_growth=2.0, bound_factor=1e6)
    with pytest.warns(UserWarning, match="restored"):
        model = make(pendulum_arrays, **IMPOSSIBLE).learn(100, callback=guard)
    # good at step 50, and kept; too large at step 100
    assert runaway_weight(50) < 2.0 * 2.5 < runaway_weight(100)
    assert float(model.terms[0].weight()) == pytest.approx(runaway_weight(50), rel=1e-3)
    assert model.qf_learning_rate == pytest.approx(0.5e-2)
    assert model.conservative_optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-2)
    halfway = make(pendulum_arrays, **IMPOSSIBLE).learn(50)
    assert all(th.equal(a, b) for a, b in zip(weights(model), weights(halfway), strict=True))
    state = model.critic.optimizer.state_dict()["state"][0]
    assert th.equal(state["exp_avg"], halfway.critic.optimizer.state_dict()["state"][0]["exp_avg"])


def test_restore_tames_a_diverging_run(pendulum_arrays: Arrays) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guarded = make(pendulum_arrays, **WILD).learn(150, callback=DivergenceGuard("restore", check_freq=25))
        wild = make(pendulum_arrays, **WILD).learn(150)
    sizes = []
    for model in (guarded, wild):
        batch, nets = model.sample_batch(), model.networks()
        with th.no_grad():
            sizes.append(float(nets.q(batch.observations, batch.actions.unsqueeze(1)).abs().mean()))
    assert sizes[0] < 4.0 * guarded.value_bound()
    assert not sizes[1] < 10.0 * sizes[0]  # or NaN


def test_lower_lr_scales_schedules_and_survives_saving(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    options = IMPOSSIBLE | {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}
    guard = DivergenceGuard("lower_lr", check_freq=60, weight_growth=1.5, bound_factor=1e6, lr_factor=0.1)
    with pytest.warns(UserWarning, match=r"multiplied by 0.1"):
        model = make(pendulum_arrays, **options).learn(60, callback=guard)
    assert model.lr_schedule(0.5) == pytest.approx(0.5e-4)
    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", device="cpu")
    assert loaded.lr_schedule(0.5) == pytest.approx(0.5e-4)
    assert loaded.qf_lr_schedule(1.0) == pytest.approx(1e-3)


@pytest.mark.parametrize("action", ["warn", "restore"])
def test_healthy_run_is_the_same_with_a_guard(pendulum_arrays: Arrays, action: Any) -> None:
    guard = DivergenceGuard(action, check_freq=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guarded = make(pendulum_arrays).learn(20, callback=guard)
    plain = make(pendulum_arrays).learn(20)
    assert not guard.events
    assert all(th.equal(a, b) for a, b in zip(weights(guarded), weights(plain), strict=True))


def test_discrete_figures_by_hand(cartpole_arrays: Arrays) -> None:
    """A network of biases alone: Q = (3, 7) in every state, 7 by the policy and 5 by chance."""
    options = FAST | {"gamma": 0.9, "conservative_weight": 0.0, "learning_rate": 1e-9}
    guard = DivergenceGuard("warn", check_freq=1, bound_factor=1.0)
    model = DiscreteCQL("MlpPolicy", env="CartPole-v1", dataset=cartpole_arrays, **options)
    with th.no_grad():
        model.q_net.q_net[-1].weight.zero_()
        model.q_net.q_net[-1].bias.copy_(th.tensor([3.0, 7.0]))
    model.learn(1, callback=guard)
    figures = guard.figures()
    share = float(guard._actions.double().mean())  # of the probe's rows that take the second action
    largest = float(np.abs(cartpole_arrays["rewards"]).max())
    assert 0.2 < share < 0.8
    assert figures["q_data_abs"] == pytest.approx(3.0 + 4.0 * share, rel=1e-5)
    assert figures["ood_gap"] == pytest.approx((7.0 + 5.0) / 2 - (3.0 + 4.0 * share), rel=1e-4)
    assert figures["q_bound"] == pytest.approx(largest / 0.1)


def test_discrete_runs_are_watched_too(cartpole_arrays: Arrays, tmp_path: Path) -> None:
    def learn(steps: int, guard: DivergenceGuard | None = None, **options: Any) -> DiscreteCQL:
        options = FAST | {"check_data": False} | options
        model = DiscreteCQL("MlpPolicy", env="CartPole-v1", dataset=cartpole_arrays, **options)
        return model.learn(steps, callback=guard)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guarded, plain = learn(10, DivergenceGuard("restore", check_freq=2)), learn(10)
    assert all(th.equal(a, b) for a, b in zip(weights(guarded), weights(plain), strict=True))

    wild: dict[str, Any] = {"learning_rate": 0.3, "tau": 1.0, "conservative_weight": 0.0}
    guard = DivergenceGuard("lower_lr", check_freq=25, lr_factor=0.1)
    with pytest.warns(UserWarning, match=r"running away.* Lower learning_rate or gamma, .*target_gap\.$"):
        model = learn(200, guard, **wild)
    rate = pytest.approx(0.3 * 0.1 ** len(guard.events))
    assert (model.learning_rate, model.lr_schedule(0.5)) == (rate, rate)
    assert model.policy.optimizer.param_groups[0]["lr"] == rate
    model.save(tmp_path / "model")
    assert DiscreteCQL.load(tmp_path / "model", device="cpu").lr_schedule(0.5) == rate


def test_not_a_number_is_seen(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(1)
    model.critic.q_networks[0][0].weight.data.fill_(float("nan"))
    with pytest.warns(UserWarning, match="nan"), pytest.raises(TrainingDivergedError, match="NaN at step 1"):
        model.learn(10, callback=DivergenceGuard("stop", check_freq=2))
    assert model.num_timesteps == 2


def poison_at(step: int) -> ConvertCallback:
    """A NaN in the critic's weights at this step."""

    def poison(local: dict[str, Any], _: Any) -> bool:
        if local["self"].num_timesteps == step:
            local["self"].critic.q_networks[0][0].weight.data.fill_(float("nan"))
        return True

    return ConvertCallback(poison)


def test_restored_training_goes_on(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays)

    with pytest.warns(UserWarning, match="nan"):
        model.learn(20, callback=[poison_at(5), DivergenceGuard("restore", check_freq=2)])
    assert model.num_timesteps == 20
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="action must be one of warn, stop, lower_lr, restore"):
        DivergenceGuard("panic")  # type: ignore[arg-type]
    for options in ({"check_freq": 0}, {"bound_factor": 0.5}, {"weight_growth": 1.0}, {"lr_factor": 1.0}):
        with pytest.raises(ValueError, match="weight_growth above 1"):
            DivergenceGuard(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not SAC"):
        SAC("MlpPolicy", "Pendulum-v1", device="cpu").learn(1, callback=DivergenceGuard())


def test_guard_comes_before_the_nan_check_of_learn(pendulum_arrays: Arrays) -> None:
    """learn stops at a NaN every 100 steps; a guard that looks every 1000 has its say first."""
    model = make(pendulum_arrays)

    with pytest.warns(UserWarning, match="restored"):
        model.learn(120, callback=[poison_at(50), DivergenceGuard("restore", check_freq=1000)])
    assert model.num_timesteps == 120


def test_mapped_data_can_be_watched(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    save_mapped(load_dataset(pendulum_arrays, **spaces_of("Pendulum-v1")), tmp_path / "data.mmap")
    guard = DivergenceGuard("warn", check_freq=2)
    CQL("MlpPolicy", env="Pendulum-v1", dataset=tmp_path / "data.mmap", storage="mmap", **FAST).learn(4, callback=guard)
    assert guard.events == []


def test_bound_knows_mopos_penalty(pendulum_arrays: Arrays) -> None:
    """r - 100 u: the largest |100 u| of the imagined rows is added to R_max."""
    options = FAST_MODEL_BASED | PUBLISHED_MOPO | {"penalty_weight": 100.0}
    model = MOPO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(1)
    largest = float(np.abs(pendulum_arrays["rewards"]).max())
    u = model.model_buffer.uncertainties[: model.model_buffer.size()].abs().max()
    assert model.value_bound() == pytest.approx((largest + 100.0 * float(u)) / 0.01, rel=1e-5)


def spaces_of(env_id: str) -> dict[str, Any]:
    env = gym.make(env_id)
    return {"observation_space": env.observation_space, "action_space": env.action_space}
