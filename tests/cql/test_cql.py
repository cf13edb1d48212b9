"""The conservative term, number for number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import CQL
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.cql.conservative import log_mean_exp
from sb3_offline.networks.networks import Batch
from tests.conformance.tables import cql_noise
from tests.conftest import FAST, maker


class StandIn:
    """Networks whose Q is a given function of (observation, action), and whose policy has density ``density``."""

    def __init__(self, q: Any, density: float = 0.5):
        self.function, self.density = q, density

    def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        values = self.function(observations.unsqueeze(1), actions)
        return th.stack([values, values])

    def sample(self, observations: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return noise, th.full(noise.shape[:2], noise.shape[2] * math.log(self.density))


make = maker(CQL, **FAST, conservative="logsumexp")


def batch_of(n: int, action_dim: int) -> Batch:
    zeros = th.zeros(n)
    return Batch(th.zeros(n, 3), th.zeros(n, action_dim), th.zeros(n, 3), zeros, zeros, n_real=n)


def noise_of(n: int, n_actions: int, action_dim: int) -> SACNoise:
    generator = th.Generator().manual_seed(0)
    draw = [2 * th.rand(n, n_actions, action_dim, generator=generator) - 1 for _ in range(3)]
    single = th.zeros(n, 1, action_dim)
    return cql_noise(single, single, *draw)


@pytest.mark.parametrize("action_dim", [1, 3])
def test_constant_q_gives_c_plus_m_log_2(pendulum_arrays: dict[str, np.ndarray], action_dim: int) -> None:
    """With uniform proposals log E_a exp(Q) of a constant c is exactly c + m log 2: the volume of [-1, 1]^m is 2^m."""
    model = make(pendulum_arrays, n_action_samples=10)
    nets = StandIn(lambda _, actions: th.full(actions.shape[:2], 7.0))
    value = model.terms[0].out_of_data_value(nets, batch_of(4, action_dim), noise_of(4, 10, action_dim))
    assert value.shape == (2, 4)
    np.testing.assert_allclose(value.numpy(), 7.0 + action_dim * math.log(2), rtol=1e-6)


def test_soft_maximum_runs_over_all_3n_actions(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """A reshape that is thrown away makes it run over 3 values, not 3N = 30; the value tells them apart."""
    model = make(pendulum_arrays, n_action_samples=10)
    seen = []

    def q(_: th.Tensor, actions: th.Tensor) -> th.Tensor:
        seen.append(actions.shape[1])
        return 5.0 * actions[..., 0]

    noise = noise_of(6, 10, 1)
    value = model.terms[0].out_of_data_value(StandIn(q, density=0.8), batch_of(6, 1), noise)[0]
    assert seen == [30]
    for state in range(6):
        terms = [5 * float(a) - math.log(0.5) for a in noise.terms["conservative"].uniform[state, :, 0]]
        terms += [5 * float(a) - math.log(0.8) for a in noise.terms["conservative"].next_policy[state, :, 0]]
        terms += [5 * float(a) - math.log(0.8) for a in noise.terms["conservative"].policy[state, :, 0]]
        expected = math.log(sum(math.exp(t) for t in terms) / 30)
        assert float(value[state]) == pytest.approx(expected, rel=1e-5)


def test_actions_of_the_next_state_are_drawn_there(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """pi(s') has its own actions and densities, and both are scored at s."""
    model = make(pendulum_arrays, n_action_samples=2)
    nets = StandIn(lambda observations, actions: observations[..., 0] + actions[..., 0])
    nets.sample = lambda observations, noise: (noise + observations[:, :1, None], 2 * observations[:, :1].expand(-1, 2))  # type: ignore[method-assign]
    batch = batch_of(1, 1)._replace(observations=th.full((1, 3), 0.25), next_observations=th.full((1, 3), 0.5))
    noise = cql_noise(th.zeros(1, 1, 1), th.zeros(1, 1, 1), *(th.zeros(1, 2, 1) for _ in range(3)))
    # uniform: Q = .25, log p = -log 2; pi(s'): Q = .25 + .5, log p = 1; pi(s): Q = .25 + .25, log p = .5
    expected = math.log((math.exp(0.25 + math.log(2)) + math.exp(0.75 - 1) + math.exp(0.5 - 0.5)) / 3)
    assert float(model.terms[0].out_of_data_value(nets, batch, noise)[0, 0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weight", [0, 5])
def test_a_whole_number_will_do_as_weight(pendulum_arrays: dict[str, np.ndarray], weight: int) -> None:
    whole, floating = (make(pendulum_arrays, conservative_weight=kind(weight)).learn(3) for kind in (int, float))
    assert whole.terms[0].weight().dtype == th.float32
    assert all(th.equal(a, b) for a, b in zip(whole.policy.parameters(), floating.policy.parameters(), strict=True))


def test_importance_sampling_estimates_the_integral(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """log of the integral of exp(2a) over [-1, 1] = log(sinh 2)."""
    model = make(pendulum_arrays)
    value = model.terms[0].out_of_data_value(StandIn(lambda _, a: 2.0 * a[..., 0]), batch_of(20, 1), noise_of(20, 5000, 1))
    assert float(value.mean()) == pytest.approx(math.log(math.sinh(2.0)), abs=0.01)


def test_log_mean_exp_has_the_gradient_of_log_sum_exp() -> None:
    values = th.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    (mean_gradient,) = th.autograd.grad(log_mean_exp(values).sum(), values)
    (sum_gradient,) = th.autograd.grad(th.logsumexp(values, -1).sum(), values)
    assert th.equal(mean_gradient, sum_gradient)


def test_uniform_actions_cover_the_whole_range(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """Not U(1, 1), and not only [0, 1]."""
    model = make(pendulum_arrays, n_action_samples=50).learn(1)
    uniform = model.draw_noise(model.sample_batch()).terms["conservative"].uniform
    assert uniform.shape == (64, 50, 1)
    assert uniform.min() < -0.95
    assert uniform.max() > 0.95
    assert abs(float(uniform.mean())) < 0.05


def test_unseen_actions_receive_gradient(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """One step of the conservative term alone lowers Q at random actions and raises it at the data's."""
    model = make(pendulum_arrays, conservative_weight=5.0).learn(1)
    nets, batch = model.networks(), model.sample_batch()
    noise = model.draw_noise(batch)
    data_actions = batch.actions.unsqueeze(1)

    def gap() -> tuple[float, float]:
        with th.no_grad():
            return (
                float(model.terms[0].out_of_data_value(nets, batch, noise).mean()),
                float(nets.q(batch.observations, data_actions).mean()),
            )

    before = gap()
    model.critic.optimizer.zero_grad()
    optimizer = th.optim.SGD(model.critic.parameters(), lr=1e-3)
    q = nets.q(batch.observations, data_actions).squeeze(-1)
    penalty, logs = model.critic_penalty(nets, batch, noise, q)
    assert float(penalty.detach()) == pytest.approx(2 * 5.0 * float(logs["conservative_gap"].detach()), rel=1e-4)
    penalty.backward()
    optimizer.step()
    after = gap()
    assert (after[0] - after[1]) < (before[0] - before[1])


def test_gap_above_target_raises_the_weight(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, target_gap=1.0).learn(1)
    start = float(model.terms[0].weight())
    model.after_critic_step({"conservative_gap": th.tensor(3.0)})
    risen = float(model.terms[0].weight())
    assert risen > start
    for _ in range(20):
        model.after_critic_step({"conservative_gap": th.tensor(-3.0)})
    assert float(model.terms[0].weight()) < risen


def test_an_automatic_gap_is_in_units_of_the_spread_of_q(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """
    Q of the data's rows is 1, 3, 5, 7 and 2, 2, 2, 6, of mean 4 and 3 and standard deviation sqrt(5) and sqrt(3); of the
    policy's actions it is 5: gaps of 1 / sqrt(5) and 2 / sqrt(3), also beside a soft maximum.
    """
    for conservative in ("logsumexp", "rho", "expectation"):
        model = make(pendulum_arrays, target_gap="auto", conservative=conservative).learn(1)
        nets, batch = StandIn(lambda _, actions: th.full(actions.shape[:2], 5.0)), model.batch_of(th.arange(4))
        nets.sample = model.networks().sample
        logged = th.tensor([[1.0, 3.0, 5.0, 7.0], [2.0, 2.0, 2.0, 6.0]])
        _, logs = model.critic_penalty(nets, batch, model.draw_noise(batch), logged)
        assert float(logs["policy_gap"]) == pytest.approx((5**-0.5 + 2 * 3**-0.5) / 2)
    for gap, rises in ((0.09, False), (0.11, True)):
        model.log_conservative_weight.data.zero_()
        model.conservative_optimizer.state.clear()
        model.after_critic_step({"conservative_gap": th.tensor(0.0), "policy_gap": th.tensor(gap)})
        assert bool(model.log_conservative_weight > 0) == rises


def test_an_automatic_gap_begins_at_the_default_weight(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, target_gap="auto")
    assert float(model.terms[0].weight()) == pytest.approx(1.0)


def test_td_target_stops_at_terminations_only(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, gamma=0.9)

    class Constant(StandIn):
        def q_target(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
            return th.stack([th.full(actions.shape[:2], 10.0), th.full(actions.shape[:2], 20.0)])

    batch = batch_of(2, 1)._replace(rewards=th.tensor([1.0, 1.0]), dones=th.tensor([0.0, 1.0]))
    target = model.td_target(Constant(None), batch, noise_of(2, 1, 1))
    assert target.tolist() == [1.0 + 0.9 * 10.0, 1.0]  # the smaller critic; no bootstrap after a termination


def test_td_loss_keeps_its_half(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, conservative_weight=0.0, gamma=0.0)
    nets = StandIn(lambda _, actions: th.full(actions.shape[:2], 3.0))
    nets.q_target = nets.q  # type: ignore[attr-defined]
    batch = batch_of(4, 1)._replace(rewards=th.ones(4))
    loss, _ = model.critic_loss(nets, batch, noise_of(4, 2, 1))
    assert float(loss) == pytest.approx(2 * 0.5 * (3.0 - 1.0) ** 2)


def test_rho_weighs_by_the_policy_not_by_its_density(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """log E_{a ~ pi} exp Q over the N fresh actions of pi; a constant Q is itself, whatever the density."""
    model = make(pendulum_arrays, conservative="rho")
    noise = noise_of(4, 10, 1)
    constant = model.terms[0].out_of_data_value(
        StandIn(lambda _, a: th.full(a.shape[:2], 7.0), density=0.8), batch_of(4, 1), noise
    )
    np.testing.assert_allclose(constant.numpy(), 7.0, rtol=1e-6)
    value = model.terms[0].out_of_data_value(StandIn(lambda _, a: 3.0 * a[..., 0], density=0.8), batch_of(4, 1), noise)[0]
    for state in range(4):
        expected = math.log(np.mean([math.exp(3.0 * float(a)) for a in noise.terms["conservative"].policy[state, :, 0]]))
        assert float(value[state]) == pytest.approx(expected, rel=1e-5)
    drawn = make(pendulum_arrays, conservative="rho", n_action_samples=7).learn(1)
    drawn_noise = drawn.draw_noise(drawn.sample_batch())
    assert (
        drawn_noise.terms["conservative"].policy.shape[1],
        drawn_noise.terms["conservative"].next_policy.shape[1],
        drawn_noise.terms["conservative"].uniform.shape[1],
    ) == (7, 0, 0)


def test_rho_has_the_gradient_of_the_papers_mu(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """Each action's Q gets the weight mu = rho exp(Q)/Z (appendix A)."""
    model = make(pendulum_arrays, conservative="rho")
    q = th.tensor([[0.5, -1.0, 2.0]], requires_grad=True)

    class Table(StandIn):
        def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
            return q.unsqueeze(1)

    value = model.terms[0].out_of_data_value(Table(None), batch_of(1, 1), noise_of(1, 3, 1))
    (gradient,) = th.autograd.grad(value.sum(), q)
    weights = np.exp([0.5, -1.0, 2.0])
    np.testing.assert_allclose(gradient[0].numpy(), weights / weights.sum(), rtol=1e-5)


def test_calibration_spares_policy_actions_below_the_return(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """In the log-sum-exp max(Q, V) stands at the actions of pi(s) and pi(s'), and Q alone at uniform ones."""
    model = make(pendulum_arrays, calibrated=True)
    noise = noise_of(2, 4, 1)
    batch = batch_of(2, 1)._replace(returns=th.tensor([0.4, -9.0]))
    value = model.terms[0].out_of_data_value(StandIn(lambda _, a: a[..., 0]), batch, noise)[0]
    for state, reference in enumerate((0.4, -9.0)):
        terms = [math.exp(float(a)) / 0.5 for a in noise.terms["conservative"].uniform[state, :, 0]]
        terms += [math.exp(max(float(a), reference)) / 0.5 for a in noise.terms["conservative"].next_policy[state, :, 0]]
        terms += [math.exp(max(float(a), reference)) / 0.5 for a in noise.terms["conservative"].policy[state, :, 0]]
        assert float(value[state]) == pytest.approx(math.log(sum(terms) / 12), rel=1e-5)


def test_calibrated_batches_carry_the_return_of_their_state(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, calibrated=True, gamma=0.9, reward_scale=2.0, reward_shift=1.0).learn(1)
    batch = model.sample_batch()
    rewards = 2.0 * pendulum_arrays["rewards"] + 1.0
    for row in range(5):
        at = int(np.flatnonzero((pendulum_arrays["observations"] == batch.observations[row].numpy()).all(axis=1))[0])
        end = 200 * (at // 200) + 200  # episodes of 200 steps, cut by the time limit
        discounts = 0.9 ** np.arange(end - at)
        expected = (discounts * rewards[at:end]).sum() / (1 - 0.9 ** (end - at))
        assert float(batch.returns[row]) == pytest.approx(expected, rel=1e-4)
        assert float(batch.rewards[row]) == pytest.approx(rewards[at], rel=1e-5)


def test_max_target_is_the_maximum_per_critic_then_the_minimum(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """Critics a and -a at actions (.2, -.5, .7): maxima .7 and .5, so .5; the minimum first would give -.7..-.2."""
    model = make(pendulum_arrays, n_target_actions=3, gamma=0.9)

    class Opposed(StandIn):
        def q_target(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
            return th.stack([actions[..., 0], -actions[..., 0]])

    actions = th.tensor([0.2, -0.5, 0.7]).view(1, 3, 1).expand(2, 3, 1)
    batch = batch_of(2, 1)._replace(rewards=th.ones(2), dones=th.tensor([0.0, 1.0]))
    single = th.zeros(2, 1, 1)
    target = model.td_target(Opposed(None), batch, cql_noise(actions, single, single, single, single))
    np.testing.assert_allclose(target.numpy(), [1.0 + 0.9 * 0.5, 1.0], rtol=1e-6)
    drawn = model.learn(1).draw_noise(model.sample_batch())
    assert drawn.next_action.shape == (64, 3, 1)


def test_max_target_leaves_the_other_streams_alone(pendulum_arrays: dict[str, np.ndarray]) -> None:
    one, three = make(pendulum_arrays).learn(1), make(pendulum_arrays, n_target_actions=3).learn(1)
    noise_one, noise_three = one.draw_noise(one.sample_batch()), three.draw_noise(three.sample_batch())
    assert th.equal(noise_one.action, noise_three.action)
    for name in ("policy", "next_policy", "uniform"):
        one_drawn, three_drawn = (getattr(noise.terms["conservative"], name) for noise in (noise_one, noise_three))
        assert th.equal(one_drawn, three_drawn)


def test_warm_up_clones_the_data(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """
    Logged actions are -1.2, -.4 or 2 (a bound) by the state: in [-1, 1] these are -.6, -.2 and 1. The policy's mode must come
    to them, which a loss that ignores the data's actions cannot do.
    """
    choice = np.where(pendulum_arrays["observations"][:, 0] > 0, -1.2, -0.4)
    arrays = pendulum_arrays | {"actions": choice[:, None].astype(np.float32)}
    falling = {"learning_rate": lambda progress: 3e-3 * progress}  # or the sharp density leaps about at the end
    model = make(arrays, bc_warmup_steps=600, qf_learning_rate=0.0, ent_coef=0.0, **falling).learn(600)
    clear = np.abs(arrays["observations"][:, 0]) > 0.2
    chosen, _ = model.predict(arrays["observations"][clear], deterministic=True)
    assert np.abs(chosen[:, 0] - choice[clear]).mean() < 0.06
    batch = model.sample_batch()
    likelihood = float(model.networks().log_prob(batch.observations, batch.actions.unsqueeze(1)).mean().detach())
    assert likelihood > 1.5  # uniform actions have -log 2
    model.learn(1, reset_num_timesteps=False)
    with th.no_grad():
        loss, _, _ = model.actor_loss(model.networks(), batch, model.draw_noise(batch))
    assert float(loss) != pytest.approx(-likelihood, abs=0.5)  # the warm-up is over: SAC's loss


def test_warm_up_stays_finite_at_the_bounds(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """atanh(1) is infinite; clipped to 1 - 1e-6 it is 7.2543, and a unit Gaussian at 0 has this density there."""
    model = make(pendulum_arrays, bc_warmup_steps=5)
    nets = model.networks()
    with th.no_grad():
        for parameter in model.actor.parameters():
            parameter.zero_()
        value = float(nets.log_prob(th.zeros(1, 3), th.ones(1, 1, 1)))
    u = math.atanh(1 - 1e-6)
    assert value == pytest.approx(-0.5 * u**2 - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(u) ** 2), abs=0.1)
    arrays = pendulum_arrays | {"actions": np.full((1000, 1), 2.0, dtype=np.float32)}
    model = make(arrays, bc_warmup_steps=20).learn(20)
    assert all(p.isfinite().all() for p in model.policy.parameters())


def test_log_prob_agrees_with_the_sampler(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays).learn(1)
    batch, nets = model.sample_batch(), model.networks()
    with th.no_grad():
        actions, expected = nets.sample(batch.observations, model.normals(64, 3, 1))
        th.testing.assert_close(nets.log_prob(batch.observations, actions), expected, rtol=1e-3, atol=1e-3)


def test_options_survive_saving(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The warm-up counts updates over saving: of 12 steps the first 8 clone, wherever the run is cut."""
    options = {
        "conservative": "rho",
        "calibrated": True,
        "n_target_actions": 3,
        "bc_warmup_steps": 8,
        "target_gap": 2.0,
    }
    make(pendulum_arrays, **options).learn(5).save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", device="cpu")
    assert {name: getattr(loaded, name) for name in options} == options
    loaded.dataset = pendulum_arrays
    kinds = []

    def record(local: dict[str, Any], _: Any) -> bool:
        model = local["self"]
        batch = model.sample_batch()
        with th.no_grad():
            loss, _, _ = model.actor_loss(model.networks(), batch, model.draw_noise(batch))
            clone = -model.networks().log_prob(batch.observations, batch.actions.unsqueeze(1)).mean()
        kinds.append(bool(loss == clone))
        return True

    loaded.learn(5, callback=record, reset_num_timesteps=False)
    assert kinds == [True, True, True, False, False]  # updates 6 to 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conservative_weight": 1.0, "target_gap": 1.0}, "not both"),
        ({"n_target_actions": 0}, "n_target_actions must be at least 1, got 0"),
        ({"n_target_actions": 5, "entropy_backup": True}, "no maximum over actions"),
        ({"bc_warmup_steps": -1}, "bc_warmup_steps"),
        ({"reward_scale": 0.0}, "reward_scale must be positive"),
        ({"reward_shift": float("nan")}, "reward_shift must be finite"),
        ({"conservative_weight": -1.0}, "conservative_weight must not be negative"),
        ({"learning_rate": "cosine_1e-4"}, "CosineSchedule"),
        ({"n_action_samples": 0}, "n_action_samples"),
        ({"conservative": "soft"}, "logsumexp"),
        ({"gamma": 1.0}, r"gamma must lie in \[0, 1\)"),
    ],
)
def test_bad_options_are_refused(pendulum_arrays: dict[str, np.ndarray], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(pendulum_arrays, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conservative_wieght", "Did you mean 'conservative_weight'"),
        ("train_freq", "gradient step"),
        ("n_envs", "Leave it out"),
    ],
)
def test_unknown_arguments_are_refused(pendulum_arrays: dict[str, np.ndarray], name: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make(pendulum_arrays, **{name: 1})
