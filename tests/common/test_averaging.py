"""The average of the actor's weights, by which a trained policy acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC

from sb3_offline import CQL, OfflineSAC
from sb3_offline.deployment import export_onnx
from tests.conftest import FAST, Arrays, maker

OBSERVATION = np.array([0.6, -0.8, 1.5], dtype=np.float32)


make = maker(OfflineSAC, **FAST, learning_rate=0.01, check_data=False)


def weights(actor: th.nn.Module) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in actor.parameters()])


def act(actor: Any) -> float:
    """The deterministic action at OBSERVATION, in the units of Pendulum's torque."""
    return 2.0 * float(actor(th.as_tensor(OBSERVATION).unsqueeze(0), deterministic=True))


def test_it_is_the_average_of_the_actor_s_weights(pendulum_arrays: Arrays) -> None:
    """rate = max(.25, 10 / t) at step t, at most 1: a copy for ten steps, then 10/11, ..., and .25 from step 40 on."""
    model = make(pendulum_arrays, averaging_rate=0.25)
    seen: list[th.Tensor] = []
    update = model.update

    def watched() -> None:
        update()
        seen.append(weights(model.actor).clone())

    model.update = watched  # type: ignore[method-assign]
    model.learn(45)
    expected = seen[0]
    for t, theta in enumerate(seen, start=1):
        rate = min(1.0, max(0.25, 10 / t))
        expected = expected + rate * (theta - expected)
    th.testing.assert_close(weights(model.policy.averaged_actor), expected)
    assert not th.allclose(weights(model.actor), expected)


def test_predict_acts_by_it_and_the_losses_do_not(pendulum_arrays: Arrays) -> None:
    plain, averaged = make(pendulum_arrays).learn(60), make(pendulum_arrays, averaging_rate=0.02).learn(60)
    assert th.equal(weights(plain.actor), weights(averaged.actor))  # trained alike, to the bit
    action = averaged.predict(OBSERVATION, deterministic=True)[0].item()
    assert action == pytest.approx(act(averaged.policy.averaged_actor), abs=1e-6)
    assert abs(action - act(averaged.actor)) > 1e-3
    assert plain.predict(OBSERVATION, deterministic=True)[0].item() == pytest.approx(act(plain.actor), abs=1e-6)


def test_it_is_saved_and_goes_on(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(pendulum_arrays, averaging_rate=0.02).learn(30)
    model.save(tmp_path / "model")
    loaded = OfflineSAC.load(tmp_path / "model", device="cpu")
    assert th.equal(weights(loaded.policy.averaged_actor), weights(model.policy.averaged_actor))
    assert np.array_equal(
        loaded.predict(OBSERVATION, deterministic=True)[0], model.predict(OBSERVATION, deterministic=True)[0]
    )
    without = OfflineSAC.load(tmp_path / "model", device="cpu", averaging_rate=0.0)
    assert without.predict(OBSERVATION, deterministic=True)[0].item() == pytest.approx(act(model.actor), abs=1e-6)
    make(pendulum_arrays).learn(3).save(tmp_path / "plain")
    late = OfflineSAC.load(tmp_path / "plain", device="cpu", averaging_rate=0.02)  # begins at the actor
    assert th.equal(weights(late.policy.averaged_actor), weights(late.actor))


def test_sb3_s_own_sac_goes_on_from_the_actor(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(pendulum_arrays, averaging_rate=0.02).learn(60)
    model.save(tmp_path / "model")
    for sac in (SAC.load(tmp_path / "model", device="cpu"), model.to_sac("Pendulum-v1")):
        assert sac.predict(OBSERVATION, deterministic=True)[0].item() == pytest.approx(act(model.actor), abs=1e-6)
    asked = model.to_sac("Pendulum-v1", averaged=True)
    assert asked.predict(OBSERVATION, deterministic=True)[0].item() == pytest.approx(
        act(model.policy.averaged_actor), abs=1e-6
    )


@pytest.mark.parametrize("averaged", [False, True])
def test_online_it_acts_as_it_learns(pendulum_arrays: Arrays, averaged: bool) -> None:
    model = make(pendulum_arrays, averaging_rate=0.02).learn(60)
    before = weights(model.policy.averaged_actor if averaged else model.actor).clone()
    model.learn_online(3, learning_starts=100, averaged=averaged)  # no update yet
    assert th.equal(weights(model.actor), before)
    model.learn_online(6, learning_starts=1)
    assert not th.equal(weights(model.actor), before)
    assert th.equal(weights(model.policy.averaged_actor), weights(model.actor))


def test_the_exported_policy_is_the_average(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make(pendulum_arrays, averaging_rate=0.02).learn(60)
    session = onnxruntime.InferenceSession(str(export_onnx(model, tmp_path / "policy")))
    action = session.run(None, {"observation": OBSERVATION[None]})[0].item()
    assert action == pytest.approx(act(model.policy.averaged_actor), abs=1e-5)


def test_rewards_of_unit_size(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """Rewards are divided by their root mean square, also after loading, and with other data afterwards."""
    size = float(np.sqrt((pendulum_arrays["rewards"] ** 2).mean()))
    model = CQL("MlpPolicy", "Pendulum-v1", pendulum_arrays, reward_scale="auto", check_data=False, **FAST).learn(2)
    assert model.reward_factor == pytest.approx(1 / size)
    rows = model.replay_buffer._get_samples(th.arange(5))
    assert rows.rewards.flatten().tolist() == pytest.approx((pendulum_arrays["rewards"][:5] / size).tolist(), rel=1e-5)
    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", env="Pendulum-v1", device="cpu")
    loaded.dataset = {**pendulum_arrays, "rewards": 10 * pendulum_arrays["rewards"]}
    assert loaded.learn(2).reward_factor == pytest.approx(1 / size)
    with pytest.raises(TypeError, match="reward_scale must be a number"):
        CQL("MlpPolicy", "Pendulum-v1", pendulum_arrays, reward_scale="unit", **FAST)
