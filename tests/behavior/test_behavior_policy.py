"""pi_beta: the density against torch's own and against quadrature, the sampler by hand, the fit against a known law."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from torch import distributions as dist

from sb3_offline.behavior.behavior_fit import BehaviorFitReport, fit_behavior_policy
from sb3_offline.behavior.behavior_policy import BehaviorNoise, BehaviorPolicy, observation_moments

Fits = dict[int, tuple[BehaviorPolicy, BehaviorFitReport]]
U_MODE, U_STD = math.atanh(0.6), 0.1  # the law of the fits: u = +-atanh(.6) + .1 N(0,1), a = tanh(u)


def rng(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def make(obs: int = 3, act: int = 2, seed: int = 0, **kwargs: Any) -> BehaviorPolicy:
    return BehaviorPolicy(obs, act, hidden_sizes=(32, 32), generator=rng(seed), **kwargs)


def fixed_mixture(weights: list[float], means: list[float], log_std_raw: float = 0.0) -> BehaviorPolicy:
    """A 1-D policy in float64 with the same given mixture (means before tanh) at every state."""
    policy = make(1, 1, n_components=len(weights)).double()
    with th.no_grad():
        for layer in (policy.logits, policy.mean, policy.log_std):
            layer.weight.zero_()
        policy.logits.bias.copy_(th.tensor(weights).log())
        policy.mean.bias.copy_(th.tensor(means, dtype=th.float64))
        policy.log_std.bias.fill_(log_std_raw)
    return policy


def bimodal_data(n: int = 20_000) -> tuple[th.Tensor, th.Tensor]:
    """The upper mode has probability .8 where the observation is 1, and .2 where it is -1."""
    g = rng(7)
    x = 2.0 * th.randint(2, (n, 1), generator=g) - 1
    upper = th.rand(n, 1, generator=g) < th.where(x > 0, 0.8, 0.2)
    u = th.where(upper, U_MODE, -U_MODE) + U_STD * th.randn(n, 1, generator=g)
    return x, th.tanh(u)


@pytest.fixture(scope="module")
def bimodal_fits() -> Fits:
    x, a = bimodal_data()
    fits = {}
    for k in (4, 1):
        policy = make(1, 1, n_components=k)
        optimizer = th.optim.Adam(policy.parameters(), lr=2e-3)
        report = fit_behavior_policy(policy, optimizer, x, a, generator=rng(1), n_steps=1000, batch_size=512)
        fits[k] = policy, report
    return fits


@pytest.mark.parametrize(("n_rows", "n_steps"), [(300, 1000), (40_000, 1250)])
def test_a_fit_takes_ten_passes_and_no_fewer_than_1000_steps(n_rows: int, n_steps: int) -> None:
    x, a = bimodal_data(n_rows)
    policy = make(1, 1, n_components=1)
    optimizer = th.optim.Adam(policy.parameters(), lr=2e-3)
    report = fit_behavior_policy(policy, optimizer, x, a, generator=rng(1), batch_size=320, patience=100)
    assert report.steps == n_steps  # 10 * 40,000 / 320


# --- the density ---


def test_log_prob_integrates_to_one() -> None:
    policy = make(3, 1, n_components=3).double()
    u = th.linspace(-7.25, 7.25, 20_001, dtype=th.float64)  # a = tanh(u), da = du / cosh(u)^2
    for observation in th.randn(4, 3, generator=rng(), dtype=th.float64):
        density = policy.log_prob(observation.expand(len(u), -1), th.tanh(u)[:, None]).exp() / th.cosh(u).square()
        assert th.trapezoid(density, u).item() == pytest.approx(1.0, abs=1e-6)


def test_log_prob_is_that_of_torch_distributions() -> None:
    policy = make().double()
    observations = th.randn(64, 3, generator=rng(1), dtype=th.float64)
    actions = 1.98 * th.rand(64, 2, generator=rng(2), dtype=th.float64) - 0.99
    logits, mean, log_std = policy(observations)
    component = dist.TransformedDistribution(dist.Independent(dist.Normal(mean, log_std.exp()), 1), [dist.TanhTransform()])
    expected = dist.MixtureSameFamily(dist.Categorical(logits=logits), component).log_prob(actions)
    th.testing.assert_close(policy.log_prob(observations, actions), expected, rtol=1e-10, atol=1e-10)
    assert (policy.log_prob(observations, actions) - policy.log_prob(observations, -actions)).abs().min() > 1e-6


def test_saturated_actions_have_a_bounded_likelihood_and_finite_gradients() -> None:
    # the sharpest component, centred on the clipped action: -log std - log(2 pi)/2 - log(1 - a^2)
    policy = fixed_mixture([1.0], [math.atanh(1 - 1e-6)], log_std_raw=-100.0)
    bound = 5 - 0.5 * math.log(2 * math.pi) - math.log(1 - (1 - 1e-6) ** 2)
    for action in (1.0, 1.0 - 1e-6, 1.0 + 1e-3):
        value = policy.log_prob(th.zeros(1, 1).double(), th.tensor([[action]], dtype=th.float64)).item()
        assert value == pytest.approx(bound, abs=1e-4)
    assert bound == pytest.approx(17.203, abs=1e-3)
    policy = make()
    policy.log_prob(th.zeros(2, 3), th.tensor([[1.0, -1.0], [-1.0, 0.0]])).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.parameters())


def test_log_std_stays_in_its_bounds() -> None:
    for raw, expected in ((-100.0, -5.0), (0.0, -1.5), (100.0, 2.0)):
        _, _, log_std = fixed_mixture([1.0], [0.0], log_std_raw=raw)(th.zeros(1, 1).double())
        assert log_std.item() == pytest.approx(expected, abs=1e-9)


# --- sampling ---


def test_sample_from_noise_by_hand() -> None:
    policy = fixed_mixture([0.2, 0.3, 0.5], [-1.0, 0.0, 1.0])  # cumulative .2, .5; log std -1.5
    noise = BehaviorNoise(
        th.tensor([[0.0, 0.19, 0.21, 0.49, 0.51, 0.999999]]).double(),
        th.tensor([0.0, 1.0, 0.0, -2.0, 0.0, 1.0]).double().reshape(1, 6, 1),
    )
    std = math.exp(-1.5)
    expected = np.tanh([-1.0, -1.0 + std, 0.0, -2 * std, 1.0, 1.0 + std])
    np.testing.assert_allclose(policy.sample_from_noise(th.zeros(1, 1).double(), noise)[0, :, 0], expected, atol=1e-12)


def test_sample_from_noise_is_pure_and_goes_state_by_state() -> None:
    policy = make()
    observations = th.randn(5, 3, generator=rng(1))
    noise = policy.draw_noise(5, 7, rng(2))
    state = th.get_rng_state()
    actions = policy.sample_from_noise(observations, noise)
    assert actions.shape == (5, 7, 2)
    assert not actions.requires_grad
    assert th.equal(actions, policy.sample_from_noise(observations, noise))
    assert th.equal(actions, policy.sample(observations, 7, rng(2)))
    assert not th.equal(actions, policy.sample(observations, 7, rng(3)))
    alone = policy.sample_from_noise(observations[2:3], BehaviorNoise(noise.uniform[2:3], noise.normal[2:3]))
    th.testing.assert_close(alone[0], actions[2])
    assert th.equal(state, th.get_rng_state())


def test_samples_have_the_moments_of_the_density() -> None:
    policy = make(3, 1, seed=3).double()
    observation = th.randn(1, 3, generator=rng(1), dtype=th.float64)
    u = th.linspace(-7.25, 7.25, 20_001, dtype=th.float64)
    a = th.tanh(u)
    density = policy.log_prob(observation.expand(len(u), -1), a[:, None]).exp() / th.cosh(u).square()
    samples = policy.sample(observation, 400_000, rng(4)).flatten()
    for power in (1, 2, 3):
        exact = th.trapezoid(density * a**power, u).item()
        assert samples.pow(power).mean().item() == pytest.approx(exact, abs=0.004)  # over 4 standard errors


def test_mode_is_the_heaviest_component() -> None:
    policy = fixed_mixture([0.3, 0.6, 0.1], [-1.0, 0.5, 3.0])
    np.testing.assert_allclose(policy.mode(th.zeros(2, 1).double()), [[math.tanh(0.5)]] * 2, atol=1e-7)


# --- construction and storage ---


def test_weights_come_from_the_generator_alone() -> None:
    state = th.get_rng_state()
    a, b, c = make(seed=5).state_dict(), make(seed=5).state_dict(), make(seed=6).state_dict()
    assert th.equal(state, th.get_rng_state())
    assert all(th.equal(a[name], b[name]) for name in a)
    assert not th.equal(a["mean.weight"], c["mean.weight"])
    with pytest.raises(ValueError, match="n_components"):
        make(n_components=0)


def test_state_dict_round_trip(bimodal_fits: Fits) -> None:
    policy, _ = bimodal_fits[4]
    file = io.BytesIO()
    th.save(policy.state_dict(), file)
    file.seek(0)
    fresh = make(1, 1, n_components=4, seed=9)
    assert not fresh.fitted
    fresh.load_state_dict(th.load(file, weights_only=True))
    x, a = bimodal_data(100)
    assert fresh.fitted
    assert th.equal(fresh.log_prob(x, a), policy.log_prob(x, a))


# --- the fit ---


def test_fit_recovers_a_bimodal_law(bimodal_fits: Fits) -> None:
    policy, report = bimodal_fits[4]
    z, w = np.polynomial.hermite_e.hermegauss(40)
    w = w / w.sum()
    second = float(w @ np.tanh(U_MODE + U_STD * z) ** 2)  # E a^2, the same for both modes
    first = float(w @ np.tanh(U_MODE + U_STD * z))  # E a of the upper mode
    for x, p in ((-1.0, 0.2), (1.0, 0.8)):
        actions = policy.sample(th.tensor([[x]]), 20_000, rng(2))[0, :, 0]
        upper = actions[actions > 0]
        assert len(upper) / 20_000 == pytest.approx(p, abs=0.04)
        assert upper.median().item() == pytest.approx(0.6, abs=0.02)
        assert actions[actions < 0].median().item() == pytest.approx(-0.6, abs=0.02)
        assert actions.abs().std().item() == pytest.approx(math.sqrt(second - first**2), abs=0.015)  # about .064
        within = math.sqrt(second - ((2 * p - 1) * first) ** 2)  # about .48
        assert actions.std().item() == pytest.approx(within, abs=0.025)
        assert policy.mode(th.tensor([[x]])).item() == pytest.approx(0.6 * x, abs=0.03)
    # the law's own entropy, H(.2) + H(normal) + E log(1 - a^2)
    log_jacobian = float(w @ np.log(1 - np.tanh(U_MODE + U_STD * z) ** 2))
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8)) + 0.5 * math.log(2 * math.pi * math.e * U_STD**2)
    assert report.holdout_nll == pytest.approx(entropy + log_jacobian, abs=0.06)


def test_one_component_is_too_wide(bimodal_fits: Fits) -> None:
    (_, mixture), (single, report) = bimodal_fits[4], bimodal_fits[1]
    # the best Gaussian of u has variance .01 + 4 (.2)(.8) atanh(.6)^2 = .3175: it loses log(.3175/.01)/2 - H(.2) nats
    loss = 0.5 * math.log(1 + 0.64 * U_MODE**2 / U_STD**2) + 0.2 * math.log(0.2) + 0.8 * math.log(0.8)
    assert loss == pytest.approx(1.2287, abs=1e-3)
    assert report.holdout_nll - mixture.holdout_nll == pytest.approx(loss, abs=0.1)
    distance = single.sample(th.tensor([[1.0]]), 20_000, rng(2)).abs().std().item()
    assert distance > 3 * 0.064  # |a| spreads over the gap between the modes


def test_fit_is_deterministic_and_leaves_the_global_generator() -> None:
    x, a = bimodal_data(500)
    results = []
    state = th.get_rng_state()
    for seed in (1, 1, 2):
        policy = make(1, 1)
        fit_behavior_policy(policy, th.optim.Adam(policy.parameters()), x, a, generator=rng(seed), n_steps=20)
        results.append(policy.state_dict())
    assert th.equal(state, th.get_rng_state())
    assert all(th.equal(results[0][name], results[1][name]) for name in results[0])
    assert not th.equal(results[0]["mean.weight"], results[2]["mean.weight"])


def test_fit_stops_early_and_keeps_the_best_snapshot() -> None:
    g = rng(3)
    x, a = th.randn(300, 6, generator=g), 1.8 * th.rand(300, 2, generator=g) - 0.9  # nothing to learn: it overfits
    policy = make(6, 2)
    logs: list[tuple[int, dict[str, float]]] = []
    report = fit_behavior_policy(
        policy,
        th.optim.Adam(policy.parameters(), lr=3e-3),
        x.numpy(),
        a.numpy(),
        generator=rng(),
        n_steps=5000,
        holdout_fraction=0.2,
        eval_every=20,
        patience=4,
        on_log=lambda step, values: logs.append((step, values)),
    )
    curve = {step: values["holdout_nll"] for step, values in logs}
    assert report.steps == report.best_step + 4 * 20 < 5000
    assert curve[report.best_step] == report.holdout_nll == min(curve.values())
    assert curve[report.steps] > report.holdout_nll
    assert logs[-1][1]["train_nll"] < report.train_nll  # it went on fitting the training rows
    holdout = th.randperm(300, generator=rng())[:60]
    assert -policy.log_prob(x[holdout], a[holdout]).mean().item() == pytest.approx(report.holdout_nll, abs=1e-5)


def test_observations_are_standardised() -> None:
    data = th.tensor([[1.0, 5.3, 1e6], [3.0, 5.3, 1e6 + 2]])
    mean, std = observation_moments(data)
    np.testing.assert_allclose(mean, [2.0, 5.3, 1e6 + 1], rtol=1e-6)
    np.testing.assert_allclose(std, [1.0, 1.0, 1.0])
    # the same data in other units give the same fit
    x, a = bimodal_data(1000)
    nll = []
    for scale, shift in ((1.0, 0.0), (1024.0, 512.0)):
        policy = make(1, 1)
        optimizer = th.optim.Adam(policy.parameters())
        report = fit_behavior_policy(policy, optimizer, x * scale + shift, a, generator=rng(), n_steps=50)
        nll.append(report.holdout_nll)
    assert nll[0] == pytest.approx(nll[1], abs=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, a: (x.index_fill(0, th.tensor([3]), math.nan), a), "observations has a non-finite value in row 3"),
        (lambda x, a: (x, a.index_fill(0, th.tensor([4]), math.inf)), "actions has a non-finite value in row 4"),
        (lambda x, a: (x, a.index_fill(0, th.tensor([5]), -1.2)), r"actions\[5\].*outside \[-1, 1\].*scale_action"),
        (lambda x, a: (x[:-1], a), "observations have 49 rows but actions 50"),
        (lambda x, a: (x[:1], a[:1]), "at least 2 rows"),
        (lambda x, a: (x, a[:, 0]), r"actions must have shape \(N, 1\)"),
    ],
)
def test_bad_data_is_refused(change: Callable[..., Any], message: str) -> None:
    policy = make(1, 1)
    with pytest.raises(ValueError, match=message):
        fit_behavior_policy(policy, th.optim.Adam(policy.parameters()), *change(*bimodal_data(50)), generator=rng())
    assert not policy.fitted


def test_bad_settings_and_divergence_are_refused() -> None:
    x, a = bimodal_data(50)
    policy = make(1, 1)
    optimizer = th.optim.SGD(policy.parameters(), lr=1e30)
    for settings in ({"holdout_fraction": 0.0}, {"n_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            fit_behavior_policy(policy, optimizer, x, a, generator=rng(), **settings)
    with pytest.raises(ValueError, match=r"diverged.*after 10 steps"):
        fit_behavior_policy(policy, optimizer, x, a, generator=rng(), n_steps=100, eval_every=10)
    assert not policy.fitted


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("generator_device", ["cpu", "cuda"])
def test_fit_and_sample_on_a_gpu(generator_device: str) -> None:
    x, a = bimodal_data(500)
    policy = make(1, 1).to("cuda")
    generator = th.Generator(generator_device).manual_seed(0)
    fit_behavior_policy(policy, th.optim.Adam(policy.parameters()), x, a, generator=generator, n_steps=20)
    assert policy.sample(x.cuda(), 3, generator).device.type == "cuda"
    th.testing.assert_close(policy.log_prob(x.cuda(), a.cuda()).cpu(), policy.cpu().log_prob(x, a), rtol=1e-3, atol=1e-3)
