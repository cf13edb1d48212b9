"""SVPG's direction by hand, natural gradients against the exact Fisher matrix, and particles inside an actor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch.func import functional_call, jacrev

from sb3_offline import DROMO
from sb3_offline.dromo.actor_rules import (
    RULES,
    SVPG,
    NaturalGradient,
    conjugate_gradients,
    distribution,
    flat_gradient,
    gaussian_kl,
    svpg_direction,
)
from sb3_offline.dromo.particles import ParticleActor, with_particles
from sb3_offline.dromo.robustness import stratified_variance, stratified_weights
from sb3_offline.options import read_option
from tests.conftest import FAST_DROMO

OBSERVATIONS = spaces.Box(-1.0, 1.0, (2,))
ACTIONS = spaces.Box(-1.0, 1.0, (1,))


def small_policy() -> SACPolicy:
    th.manual_seed(0)
    return SACPolicy(OBSERVATIONS, ACTIONS, lambda _: 0.5, net_arch=[4], activation_fn=th.nn.Tanh)


def test_two_particles_repel_on_a_flat_target() -> None:
    """theta = +-1, h = 2, no gradient: phi(+1) = (1/2) (2/h) 2 e^{-4/h} = e^{-2}."""
    direction, kernel = svpg_direction(th.tensor([[1.0], [-1.0]]), th.zeros(2, 1), 2.0)
    th.testing.assert_close(direction, th.tensor([[1.0], [-1.0]]) * 0.1353352832)
    assert float(kernel[0, 1]) == pytest.approx(math.exp(-2))


def test_one_particle_follows_its_gradient() -> None:
    gradient = th.tensor([[0.3, -7.0]])
    direction, _ = svpg_direction(th.tensor([[5.0, 1.0]]), gradient, None)
    assert th.equal(direction, gradient)


def test_near_particles_share_gradients_by_hand() -> None:
    """theta = 0, 1 with h = 1 and gradients 2, -4: phi(0) = (2 - 4/e - 2/e) / 2 with the repulsion 2 (0 - 1)/e."""
    direction, _ = svpg_direction(th.tensor([[0.0], [1.0]]), th.tensor([[2.0], [-4.0]]), 1.0)
    e = math.exp(-1)
    th.testing.assert_close(direction, th.tensor([[(2 - 4 * e - 2 * e) / 2], [(2 * e - 4 + 2 * e) / 2]]))


def test_bandwidth_by_the_median() -> None:
    """Squared distances 1, 4 and 9 of theta = 0, 1 and 3: h = 4 / log 4, so the middle pair has k = 1/4."""
    _, kernel = svpg_direction(th.tensor([[0.0], [1.0], [3.0]]), th.zeros(3, 1), None)
    assert float(kernel[1, 2]) == pytest.approx(0.25, rel=1e-5)


def test_conjugate_gradients_solve() -> None:
    root = th.randn(6, 6, dtype=th.float64, generator=th.Generator().manual_seed(0))
    matrix, target = root @ root.t() + th.eye(6), th.arange(6.0, dtype=th.float64)
    th.testing.assert_close(conjugate_gradients(lambda v: matrix @ v, target, 6), th.linalg.solve(matrix, target))
    still = conjugate_gradients(lambda v: matrix @ v, th.zeros(6, dtype=th.float64), 6)
    assert th.equal(still, th.zeros(6, dtype=th.float64))  # no gradient, no step, no NaN


def exact_fisher(actor: Actor, observations: th.Tensor) -> th.Tensor:
    """E_s [J_mean^T J_mean / sigma^2 + 2 J_logstd^T J_logstd], the Fisher matrix of a Gaussian with one action."""
    parameters = dict(actor.named_parameters())

    class Heads(th.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = actor

        def forward(self, rows: th.Tensor) -> th.Tensor:
            return th.cat(distribution(self.actor, rows), dim=1)  # (B, 2)

    heads = Heads()
    named = {f"actor.{name}": p.detach() for name, p in parameters.items()}
    jacobians = jacrev(lambda own: functional_call(heads, own, (observations,)))(named)
    flat = th.cat([jacobians[name].flatten(2) for name in named], dim=2)  # (B, 2, P)
    variance = (2 * distribution(actor, observations)[1].detach()).exp().squeeze(1)
    fisher = th.einsum("bi,bj->ij", flat[:, 0] / variance[:, None], flat[:, 0]) + 2 * th.einsum(
        "bi,bj->ij", flat[:, 1], flat[:, 1]
    )
    return fisher / len(observations)


@pytest.mark.parametrize("target_kl", [1e-5, 1e6])
def test_natural_gradient_is_the_exact_one(target_kl: float) -> None:
    """Step = -rate (F + damping)^{-1} grad, rate 0.5, or shorter by the limit on the KL."""
    actor = small_policy().actor
    observations = th.randn(20, 2, generator=th.Generator().manual_seed(1))

    def loss() -> th.Tensor:
        mean, log_std = distribution(actor, observations)
        return (mean - 0.3).square().mean() + 0.1 * log_std.mean()

    fisher, parameters = exact_fisher(actor, observations), list(actor.parameters())
    gradient = flat_gradient(loss(), parameters)
    expected = -th.linalg.solve(fisher + 0.01 * th.eye(len(gradient)), gradient)
    before = th.cat([p.detach().flatten() for p in parameters])
    old = tuple(part.detach() for part in distribution(actor, observations))
    rule = NaturalGradient(step_size=0.5, target_kl=target_kl, cg_steps=30, cg_damping=0.01)
    logs = rule.step(actor, loss(), observations)
    step = th.cat([p.detach().flatten() for p in parameters]) - before
    scale = float(step @ expected / (expected @ expected))
    assert float((step - scale * expected).norm() / step.norm()) < 2e-3
    kl = float(gaussian_kl(old, distribution(actor, observations)).detach())  # type: ignore[arg-type]
    assert 0 < kl <= target_kl
    assert float(logs["actor_kl"]) == pytest.approx(kl, rel=1e-2)
    if target_kl > 1:
        assert scale == pytest.approx(0.5, rel=1e-3)
    else:  # the quadratic model puts the step at the limit, and it is nearly exact for so small a step
        assert kl > 0.5 * target_kl
        assert scale < 0.5


def test_kl_of_gaussians_by_hand() -> None:
    """N(0, 1) || N(1, 2^2): log 2 + (1 + 1)/8 - 1/2."""
    kl = gaussian_kl((th.zeros(1, 1), th.zeros(1, 1)), (th.ones(1, 1), th.full((1, 1), math.log(2))))
    assert float(kl) == pytest.approx(math.log(2) + 0.25 - 0.5, abs=1e-6)


# --- particles ---


def test_rows_are_dealt_to_the_particles_and_predict_asks_the_first() -> None:
    policy = small_policy()
    first = policy.actor
    actor = with_particles(policy, 3)
    rows = th.randn(8, 2)
    mean, log_std = actor.mixture(rows)
    singles = [first, *actor.others]
    for i in range(8):
        expected, expected_log_std, _ = singles[i % 3].get_action_dist_params(rows[i : i + 1])
        th.testing.assert_close(mean[i : i + 1], expected)
        th.testing.assert_close(log_std[i : i + 1], expected_log_std)
    assert th.equal(actor(rows, deterministic=True), first(rows, deterministic=True))
    assert not th.allclose(actor.others[0].mu.weight, first.mu.weight)


def two_particles(arrays: Any, **options: Any) -> DROMO:
    """Means of +-.9 before any noise, almost no noise."""
    options = {"actor_regularizer": {"kind": "svpg", "n_particles": 2}, "real_ratio": 0.05} | options
    model = DROMO("MlpPolicy", "Pendulum-v1", dataset=arrays, **FAST_DROMO | {"check_data": False} | options).learn(1)
    for one, mean in zip((model.actor, *model.actor.others), (0.9, -0.9), strict=True):
        for layer, bias in ((one.mu, math.atanh(mean)), (one.log_std, -20.0)):
            layer.weight.data.zero_()
            layer.bias.data.fill_(bias)
    return model


@pytest.mark.parametrize("n_actions", [4, 5])
def test_the_variance_between_particles_counts(pendulum_arrays: Any, n_actions: int) -> None:
    """Q = a: within each state the mixture's variance is .81, and none of it is left out or counted twice."""
    model = two_particles(pendulum_arrays, robustness={"kind": "std", "n_actions": n_actions})
    batch = model.sample_batch()
    noise, nets = model.draw_noise(batch), model.networks()
    nets.q = lambda _, actions: actions.squeeze(-1).unsqueeze(0)  # type: ignore[method-assign,assignment]
    behavior, policy = model.terms[1].mixture_values(nets, batch, noise)  # type: ignore[arg-type]
    assert policy.shape == (1, 64, n_actions)
    expected = th.full((1, 64), 0.81)
    th.testing.assert_close(stratified_variance(policy, policy, 0.0, 2), expected, rtol=1e-4, atol=1e-4)
    # pi_beta at one point m_b: f (1 - f) m_b^2 + (1 - f) .81
    at = th.full_like(behavior[..., :1], 0.7)
    pi_f = th.full((1, 64), 0.05 * 0.95 * 0.49 + 0.95 * 0.81)
    th.testing.assert_close(stratified_variance(at, policy, 0.05, 2), pi_f, rtol=1e-4, atol=1e-4)
    weights = stratified_weights(at, policy, 0.05, 2)
    assert float(weights[0]) == pytest.approx(0.05)
    assert float(weights[1::2].sum()) == pytest.approx(0.475)  # of the first particle, however many its actions
    assert float(weights[2::2].sum()) == pytest.approx(0.475)


def test_chi2_moves_mass_between_particles(pendulum_arrays: Any) -> None:
    """Q = a, two points +-.9 of weight .475 beside pi_beta's: unclipped the sup exceeds the mean by sqrt(r) sigma."""
    ball = {"robustness": {"kind": "chi2", "radius": 0.01}, "conservative_weight": 1.0, "visitation": "constant"}
    model = two_particles(pendulum_arrays, **ball)
    batch = model.sample_batch()
    noise, nets = model.draw_noise(batch), model.networks()
    nets.q = lambda _, actions: actions.squeeze(-1).unsqueeze(0)  # type: ignore[method-assign,assignment]
    nets.sample_behavior = lambda observations, _: th.zeros(len(observations), 4, 1)  # type: ignore[method-assign,assignment]
    penalty, _ = model.terms[1].loss(nets, batch, noise, nets.q(None, batch.actions.unsqueeze(1)).squeeze(-1))
    assert float(penalty) == pytest.approx(0.1 * math.sqrt(0.95 * 0.81), rel=1e-3)


def test_every_particle_is_asked(pendulum_arrays: Any) -> None:
    one = {"robustness": {"kind": "std", "n_actions": 1}}
    with pytest.raises(ValueError, match=r"n_particles=2 needs robustness\['n_actions'\] of at least as many, got 1"):
        two_particles(pendulum_arrays, **one)
    two_particles(pendulum_arrays, **one, strict=True, behavior_kwargs=None)  # draws none


def test_svpg_step_by_hand() -> None:
    """With SGD the parameters move by rate phi, phi from each particle's mean gradient over its own rows."""
    policy = small_policy()
    policy.optimizer_class = th.optim.SGD
    actor = with_particles(policy, 2)
    rows = th.randn(5, 2, generator=th.Generator().manual_seed(0))  # three rows for the first, two for the second
    singles = actor.particle_parameters()
    positions = th.stack([th.cat([p.detach().flatten() for p in own]) for own in singles])
    losses = [
        actor.others[0].get_action_dist_params(rows[1::2])[0].mean(),
        actor.get_action_dist_params(rows[::2])[0].mean(),
    ][::-1]
    gradients = th.stack([-flat_gradient(value, own) / 2.0 for value, own in zip(losses, singles, strict=True)])
    expected, _ = svpg_direction(positions, gradients, 3.0)
    loss = actor.mixture(rows)[0].mean()
    SVPG(n_particles=2, temperature=2.0, bandwidth=3.0).step(actor, loss, rows)
    moved = th.stack([th.cat([p.detach().flatten() for p in own]) for own in singles])
    th.testing.assert_close(moved, positions + 0.5 * expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {}, "must be one of entropy, svpg, natural"),
        ("entropy", {"n_particles": 2}, "takes no 'n_particles'"),
        ("svpg", {"target_kl": 0.1}, "It takes: states, n_particles, temperature, bandwidth"),
        ("svpg", {"n_particles": 0}, "at least 1"),
        ("natural", {"target_kl": 0.0}, "target_kl must be positive"),
    ],
)
def test_bad_rules_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        read_option("actor_regularizer", {"kind": name, **options}, RULES)


def test_one_particle_is_the_entropy_rule_to_the_bit(pendulum_arrays: dict[str, np.ndarray]) -> None:
    options: dict[str, Any] = FAST_DROMO | {"robust_weight": 0.0}
    plain = DROMO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(20)
    svpg = DROMO(
        "MlpPolicy",
        env="Pendulum-v1",
        dataset=pendulum_arrays,
        actor_regularizer={"kind": "svpg", "n_particles": 1},
        **options,
    ).learn(20)
    assert isinstance(svpg.actor, ParticleActor)
    ours, theirs = svpg.policy.state_dict(), plain.policy.state_dict()
    for name in theirs:
        assert th.equal(ours[name], theirs[name]), name
