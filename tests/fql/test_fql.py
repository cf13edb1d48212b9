"""FQL: its losses by hand, Euler's steps in closed form, and two modes that a flow keeps and a Gaussian does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_offline import AWAC, FQL
from sb3_offline.datasets import SpacesOnlyEnv
from sb3_offline.fql.fql import FQLNoise, euler
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays, maker

#: The authors' losses, where the defaults are a recipe.
PUBLISHED: dict[str, Any] = {"normalize_q": False, "target_q": "mean", "tau": 0.005, "gamma": 0.99, "averaging_rate": 0.0}
make = maker(FQL, **FAST, **PUBLISHED, check_data=False)


def noise_of(**given: list[float]) -> FQLNoise:
    n = len(next(iter(given.values())))
    names = ("next_action", "start", "action", "time")
    return FQLNoise(**{name: th.tensor(given.get(name, [0.0] * n)).view(n, 1, 1) for name in names})


def batch_of(actions: list[float], rewards: list[float] | None = None, dones: list[float] | None = None) -> Batch:
    n = len(actions)
    columns = [th.zeros(n) if column is None else th.tensor(column) for column in (rewards, dones)]
    return Batch(None, th.tensor(actions).view(n, 1), None, *columns, n)


def test_the_flows_loss_by_hand(pendulum_arrays: Arrays) -> None:
    """x_0 = .2, a = 1, t = .25: the field is asked at x_t = .4 and t = .25, and v = .8 is right."""
    asked: list[th.Tensor] = []

    def field(x: th.Tensor, t: th.Tensor) -> th.Tensor:
        asked.extend([x, t])
        return th.full_like(x, 0.5)

    nets: Any = SimpleNamespace(field=lambda _: field)
    loss, _ = make(pendulum_arrays).flow_loss(nets, batch_of([1.0]), noise_of(start=[0.2], time=[0.25]))
    th.testing.assert_close(th.stack(asked).flatten(), th.tensor([0.4, 0.25]))
    assert float(loss) == pytest.approx((0.5 - 0.8) ** 2)


def test_eulers_steps_in_closed_form() -> None:
    """dx/dt = c - x: a step takes away a tenth of the distance, so x_10 = c + .9^10 (x_0 - c); dx/dt = t sums 0 to .9."""
    start, c = th.tensor([2.0, -1.0]).view(2, 1, 1), 0.5
    th.testing.assert_close(euler(lambda x, _: c - x, start, 10), c + 0.9**10 * (start - c))
    th.testing.assert_close(euler(lambda _, t: t, start, 10), start + 0.45)


@pytest.mark.parametrize(("normalize_q", "expected"), [(False, 3 * 0.41 - 1.5), (True, 3 * 0.41 - 1.5 / 2.5)])
def test_the_actors_loss_by_hand(normalize_q: bool, expected: float, pendulum_arrays: Arrays) -> None:
    """
    mu = (1.5, .2), the flow's actions (.6, .1) (of a field of 0 that starts there): squares .81 and .01, their mean .41. Q is
    asked at the clipped (1, .2): the critics say (5, -2) and (3, 0), so (4, -1), mean 1.5 and mean |.| 2.5.
    """
    mu = th.tensor([1.5, 0.2]).view(2, 1, 1)

    def q_frozen(_: Any, actions: th.Tensor) -> th.Tensor:
        th.testing.assert_close(actions.flatten(), th.tensor([1.0, 0.2]))
        return th.tensor([[5.0, -2.0], [3.0, 0.0]]).unsqueeze(-1)

    nets: Any = SimpleNamespace(one_step=lambda *_: mu, field=lambda _: lambda x, _t: th.zeros_like(x), q_frozen=q_frozen)
    model = make(pendulum_arrays, distill_weight=3.0, normalize_q=normalize_q)
    loss, _ = model.actor_loss(nets, batch_of([0.0, 0.0]), noise_of(action=[0.6, 0.1]))
    assert float(loss) == pytest.approx(expected)


@pytest.mark.parametrize(("target_q", "value"), [("mean", 3.0), ("min", 1.0)])
def test_the_target_by_hand(target_q: str, value: float, pendulum_arrays: Arrays) -> None:
    q = th.tensor([1.0, 5.0]).view(2, 1, 1)
    nets: Any = SimpleNamespace(act=lambda _, noise: noise, q_target=lambda _, actions: q.expand(-1, len(actions), 1))
    model = make(pendulum_arrays, gamma=0.9, target_q=target_q)
    y = model.td_target(nets, batch_of([0.0, 0.0], [1.0, 1.0], [0.0, 1.0]), noise_of(next_action=[0.0, 0.0]))
    th.testing.assert_close(y, th.tensor([1.0 + 0.9 * value, 1.0]))


def test_predict_takes_no_noise_or_draws_it(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, averaging_rate=0.1).learn(5)
    rows = pendulum_arrays["observations"][:20]
    at_zero = model.policy.averaged_actor.of_noise(th.as_tensor(rows), th.zeros(20, 1, 1)).detach().clamp(-1, 1)
    actions, _ = model.predict(rows, deterministic=True)
    np.testing.assert_allclose(actions, 2.0 * at_zero.squeeze(1), atol=1e-6)  # torques in [-2, 2]
    assert len(np.unique(model.predict(np.repeat(rows[:1], 20, axis=0), deterministic=True)[0])) == 1
    assert len(np.unique(model.predict(np.repeat(rows[:1], 20, axis=0))[0])) > 1
    assert not hasattr(model.policy, "actor_target")


def two_modes(n: int = 4000) -> tuple[Any, Arrays]:
    """One state; actions of -.8 or .8 at equal odds, and a little noise; nothing is worth more than anything else."""
    rng = np.random.default_rng(0)
    env = SpacesOnlyEnv(spaces.Box(-1.0, 1.0, (1,)), spaces.Box(-1.0, 1.0, (1,)))
    actions = rng.choice([-0.8, 0.8], (n, 1)) + rng.normal(0.0, 0.02, (n, 1))
    states = np.zeros((n, 1), dtype=np.float32)
    ends = np.ones(n, dtype=bool)
    columns = {"observations": states, "next_observations": states, "actions": actions.astype(np.float32)}
    return env, columns | {"rewards": np.zeros(n), "terminations": ends, "truncations": ~ends}


def shares(actions: th.Tensor) -> tuple[float, float, float]:
    """Of samples within .1 of the lower mode, of the upper one, and in the middle third."""
    flat = actions.flatten()
    near = [((flat - mode).abs() < 0.1).float().mean() for mode in (-0.8, 0.8)]
    return (*map(float, near), float((flat.abs() < 1 / 3).float().mean()))  # type: ignore[return-value]


def test_a_flow_keeps_both_modes_and_a_gaussian_its_middle() -> None:
    env, arrays = two_modes()
    options: dict[str, Any] = {"learning_rate": 2e-3, "batch_size": 256, "policy_kwargs": {"net_arch": [64, 64]}}
    model = make(arrays, env=env, distill_weight=100.0, **options).learn(1500)
    state = th.zeros(1, 1)
    generator = th.Generator().manual_seed(0)
    noise = th.randn(1, 2000, 1, generator=generator)
    nets = model.networks()
    with th.no_grad():
        lower, upper, middle = shares(euler(nets.field(state), noise, model.flow_steps))
        one_step = shares(nets.act(state, noise))
    assert 0.4 <= lower <= 0.6
    assert 0.4 <= upper <= 0.6
    assert middle < 0.05
    assert min(one_step[:2]) > 0.3  # the one-step policy has both, with more between them
    gaussian = maker(AWAC, **FAST, check_data=False)(arrays, env=env, temperature=1e6, **options).learn(800)
    with th.no_grad():
        lower, upper, middle = shares(gaussian.networks().act(state, noise))
    assert lower + upper < 0.3
    assert middle > 0.2
    assert abs(float(gaussian.predict(np.zeros((1, 1), dtype=np.float32), deterministic=True)[0][0, 0])) < 0.2


def test_its_recipe(pendulum_arrays: Arrays) -> None:
    model = FQL("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, device="cpu")
    assert (model.distill_weight, model.normalize_q, model.target_q) == (0.15, True, "min")
    assert (model.tau, model.gamma, model.averaging_rate, model.policy_kwargs["net_arch"]) == (0.02, 0.995, 0.001, [256, 256])


def test_it_goes_on_online(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(5)
    model.learn_online(20, learning_starts=10)
    assert model._n_updates == 5 + 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill_weight": -1.0}, "distill_weight must"),
        ({"flow_steps": 0}, "flow_steps must"),
        ({"target_q": "max"}, "target_q must be 'mean' or 'min'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str, pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match=message):
        make(pendulum_arrays, **options)


def test_a_policy_without_a_flow_is_refused(pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match="must be a child of FlowPolicy"):
        FQL(AWAC.policy_aliases["MlpPolicy"], "Pendulum-v1", dataset=pendulum_arrays, device="cpu")
