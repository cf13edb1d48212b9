"""MOBILE: the members' targets by hand, who pays, and SAC on mixed data without inconsistency."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch as th

from sb3_offline import MOBILE, MOPO
from sb3_offline.mobile.mobile import MOBILENoise
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST_DYNAMICS, FAST_MODEL_BASED, Arrays, maker

make = maker(MOBILE, **FAST_MODEL_BASED, check_data=False)


# --- by hand: two elites of three members, two draws of each, one imagined row behind a real one; torques in [-2, 2] ---

BATCH = Batch(
    observations=th.tensor([[9.0, 9.0, 9.0], [1.0, 2.0, 3.0]]),
    actions=th.tensor([[9.0], [0.5]]),
    next_observations=th.zeros(2, 3),
    rewards=th.tensor([7.0, -1.0]),
    dones=th.tensor([0.0, 0.0]),
    n_real=1,
)
NOISE = MOBILENoise(
    next_action=th.zeros(2, 1, 1),
    action=th.zeros(2, 1, 1),
    model_state=th.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 1, 3),
    model_action=th.zeros(2, 1, 1),
)


def by_hand(arrays: Arrays, **options: Any) -> tuple[Any, Any]:
    """
    The elites are members 2 and 0. Member 2 moves the state by +1 and pays 3, member 0 by -1 and pays 1, both with a standard
    deviation of .5. Q'_1 is the first coordinate of the next state, Q'_2 a thousand. So member 2 draws 2.5 and 2, member 0 .5
    and 0, and the first of these four ends the episode.
    """
    model = make(arrays, **{"gamma": 0.9, "reward_scale": 2.0, "reward_shift": 5.0} | options)
    asked: list[th.Tensor] = []

    def moments(observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        asked[:] = [observations, actions]
        mean = th.tensor([[-1.0, -1.0, -1.0, 1.0], [50.0, 50.0, 50.0, 50.0], [1.0, 1.0, 1.0, 3.0]]).unsqueeze(1)
        return mean, th.full((3, 1, 4), 0.5)

    dynamics: Any = SimpleNamespace(moments=moments, elites=th.tensor([2, 0]), asked=asked)
    model.__dict__["dynamics"] = dynamics
    model.termination = lambda _observations, _actions, following: following[:, 0] > 2.0
    model.reward_function = None
    nets = SimpleNamespace(
        act=lambda _, noise: noise,
        q_target=lambda observations, _: th.stack([observations[:, :1], th.full_like(observations[:, :1], 1000.0)]),
    )
    return model, nets


def test_the_members_targets(pendulum_arrays: Arrays) -> None:
    """Member 2: 2 * 3 + 5 + .9 (0 + 2)/2; member 0: 2 * 1 + 5 + .9 (.5 + 0)/2."""
    model, nets = by_hand(pendulum_arrays)
    th.testing.assert_close(model.member_targets(nets, BATCH, NOISE), th.tensor([[11.9], [7.225]]))
    observations, actions = model.dynamics.asked
    th.testing.assert_close(observations, BATCH.observations[1:])
    th.testing.assert_close(actions, th.tensor([[1.0]]))  # in the environment's units
    model.reward_function = lambda _observations, _actions, following: following[:, 1]  # 3.5, 3; 1.5, 1
    expected = th.tensor([[2 * 3.25 + 5 + 0.9], [2 * 1.25 + 5 + 0.225]])
    th.testing.assert_close(model.member_targets(nets, BATCH, NOISE), expected)


def test_the_authors_code(pendulum_arrays: Arrays) -> None:
    """The mean of min_j Q'_j(s'_i, a'_i) alone, whoever ends; and no target below 0."""
    model, nets = by_hand(pendulum_arrays, inconsistency="authors_code")
    th.testing.assert_close(model.member_targets(nets, BATCH, NOISE), th.tensor([[2.25], [0.25]]))
    below = SimpleNamespace(sample=lambda _, noise: (noise, noise[..., 0]), q_target=lambda _, a: a.new_zeros(2, len(a), 1))
    th.testing.assert_close(model.td_target(below, BATCH, NOISE), th.tensor([7.0, 0.0]))
    th.testing.assert_close(make(pendulum_arrays).td_target(below, BATCH, NOISE), th.tensor([7.0, -1.0]))


def test_imagined_rows_pay_and_real_ones_do_not(pendulum_arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets of 1, 2 and 4: their sample standard deviation is 1.5275252; the population's would be 1.2472191."""
    model = make(pendulum_arrays, penalty_weight=2.0)
    seen: list[Batch] = []
    monkeypatch.setattr(model, "member_targets", lambda *_: th.tensor([[1.0], [2.0], [4.0]]))
    monkeypatch.setattr(type(model).__mro__[1], "gradient_step", lambda _self, _nets, batch, *_: seen.append(batch) or {})
    logs = model.gradient_step(None, BATCH, NOISE)
    th.testing.assert_close(seen[0].rewards, th.tensor([7.0, -1.0 - 2.0 * 1.5275252]))
    assert float(logs["inconsistency"]) == pytest.approx(1.5275252)


def test_members_that_agree_leave_sac_on_mixed_data(pendulum_arrays: Arrays) -> None:
    """Equal elites: u = 0, and every weight is as with lambda = 0, and as MOPO's with lambda = 0."""

    def learned(cls: type[Any] = MOBILE, agree: bool = True, **options: Any) -> Any:
        model = make(pendulum_arrays, cls, rollout_freq=1000, **options)
        model.fit_dynamics()
        if agree:
            for parameter in model.dynamics.member_parameters():
                parameter.data.copy_(parameter.data[:1].expand_as(parameter).clone())
        return model.learn(6)

    def equal(one: Any, other: Any) -> bool:
        first, second = one.policy.state_dict(), other.policy.state_dict()
        return all(th.allclose(first[name], second[name], atol=1e-6) for name in first)

    agreeing, disagreeing = learned(penalty_weight=9.0), learned(penalty_weight=9.0, agree=False)
    assert equal(agreeing, learned(penalty_weight=0.0))
    assert equal(agreeing, learned(MOPO, penalty_weight=0.0, entropy_backup=False))
    assert not equal(disagreeing, learned(penalty_weight=0.0, agree=False))


def test_its_recipe(pendulum_arrays: Arrays) -> None:
    model = MOBILE("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, device="cpu")
    assert (model.entropy_backup, model.real_ratio, model.n_model_samples, model.penalty_weight) == (False, 0.5, 3, 1.0)
    assert (model.rollout_length, model.reward_scale, model.policy_kwargs["layer_norm"]) == (25, "auto", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_weight": -1.0}, "penalty_weight must"),
        ({"n_model_samples": 0}, "n_model_samples must"),
        ({"inconsistency": "std"}, "inconsistency must be 'bellman' or 'authors_code'"),
        ({"dynamics_kwargs": FAST_DYNAMICS | {"n_elites": 1}}, "n_elites, which MOBILE compares, must be at least 2"),
        ({"critic_update": "normalized_td"}, "use it with OfflineSAC or MOPO"),
        (
            {"execution": "compile", "dynamics_kwargs": FAST_DYNAMICS | {"reward": lambda *rows: rows[2][:, 0]}},
            "of yours judges",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str, pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match=message):
        make(pendulum_arrays, **options)


def test_it_goes_on_online(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(5)
    model.learn_online(20, learning_starts=10)
    assert model._n_updates == 5 + 10
