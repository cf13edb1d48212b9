"""SAC-N: the lowest of N critics by hand, and what it shares with SAC."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import SACN, OfflineSAC
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays, maker

make = maker(SACN, **FAST, check_data=False)


def stand_in(values: list[float], log_prob: float) -> Any:
    """Four critics that say the same of every row, and an actor of one density."""
    q = th.tensor(values).view(-1, 1, 1)
    return SimpleNamespace(
        sample=lambda _, noise: (noise, th.full(noise.shape[:2], log_prob)),
        q_target=lambda _, actions: q.expand(-1, len(actions), 1),
        q_frozen=lambda _, actions: q.expand(-1, len(actions), 1),
    )


def test_target_and_actor_by_hand(pendulum_arrays: Arrays) -> None:
    """
    Q = (3, 1, -2, 4), log pi = -.5, alpha = .2, gamma = .9: the lowest and its entropy are -2 + .1, so y = 1 - 1.71 and, at a
    termination, 1; the actor's loss is .2 (-.5) + 2.
    """
    model = make(pendulum_arrays, n_critics=4, ent_coef=0.2, gamma=0.9)
    nets, noise = stand_in([3.0, 1.0, -2.0, 4.0], -0.5), SACNoise(th.zeros(2, 1, 1), th.zeros(2, 1, 1))
    batch = Batch(None, th.zeros(2, 1), None, th.ones(2), th.tensor([0.0, 1.0]), 2)
    th.testing.assert_close(model.td_target(nets, batch, noise), th.tensor([-0.71, 1.0]))
    loss, _, _ = model.actor_loss(nets, batch, noise)
    assert float(loss) == pytest.approx(1.9)


def test_the_critics_loss_is_a_sum_without_the_half(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, n_critics=5).learn(1)
    batch = model.sample_batch()
    nets, noise = model.networks(), model.draw_noise(batch)
    loss, _ = model.critic_loss(nets, batch, noise)
    y = model.td_target(nets, batch, noise).unsqueeze(1)
    q = model.critic(batch.observations, batch.actions)
    assert len(q) == 5
    th.testing.assert_close(loss, sum(((values - y) ** 2).mean() for values in q))


def test_with_two_critics_it_is_sac(pendulum_arrays: Arrays) -> None:
    """Adam divides the loss's factor of 2 out of each step, up to its epsilon."""
    options = {"learning_rate": 3e-4, "entropy_backup": True}
    sac = make(pendulum_arrays, OfflineSAC, **options).learn(5)
    for (name, value), other in zip(
        make(pendulum_arrays, n_critics=2).learn(5).policy.state_dict().items(), sac.policy.state_dict().values(), strict=True
    ):
        th.testing.assert_close(value, other, atol=2e-4, rtol=0, msg=name)


def test_the_number_of_critics_is_given_once(pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match="n_critics=3, n_critics is 10: give the latter alone"):
        make(pendulum_arrays, policy_kwargs={"n_critics": 3})
    for n_critics, error in ((1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="n_critics must"):
            make(pendulum_arrays, n_critics=n_critics)
    with pytest.raises(ValueError, match="no minimum over critics: use it with OfflineSAC"):
        make(pendulum_arrays, critic_update="normalized_td")


def test_it_goes_on_online_and_to_sac(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, n_critics=4).learn(5)
    model.learn_online(20, learning_starts=10)
    assert model._n_updates == 5 + 10
    sac = model.to_sac()
    assert len(sac.critic.q_networks) == 4
    rows = pendulum_arrays["observations"][:5]
    np.testing.assert_array_equal(sac.predict(rows, deterministic=True)[0], model.predict(rows, deterministic=True)[0])
