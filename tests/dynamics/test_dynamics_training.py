"""The fit: a known linear-Gaussian system is recovered, the best snapshots are kept, and the loss is the one stated."""

import math

import pytest
import torch as th

from sb3_offline.dynamics import DynamicsDivergedError, EnsembleDynamics, fit_ensemble
from sb3_offline.dynamics.epoch import add_weight_decay, bootstrap_indices, negative_log_likelihood, paced
from sb3_offline.dynamics.training import _BestSnapshots, _holdout_errors
from sb3_offline.training.schedules import CosineSchedule

A = th.tensor([[0.9, 0.2], [-0.3, 0.8]])
B = th.tensor([[0.5], [-1.0]])
REWARD = th.tensor([0.5, -0.4])
NOISE = th.tensor([0.1, 0.4, 0.2])  # of both observations and the reward


def linear_system(n: int, seed: int = 0, noise: th.Tensor = NOISE) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """Observations, actions in [-2, 2], next observations = A s + B a + noise, rewards = w.s + noise."""
    generator = th.Generator().manual_seed(seed)
    observations = th.randn(n, 2, generator=generator) * th.tensor([1.0, 3.0])
    actions = 4 * th.rand(n, 1, generator=generator) - 2
    draw = noise * th.randn(n, 3, generator=generator)
    next_observations = observations @ A.T + actions @ B.T + draw[:, :2]
    return observations, actions, next_observations, observations @ REWARD + draw[:, 2]


def fit(model, data, *, optimizer=None, seed=0, **kwargs):
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3, fused=True) if optimizer is None else optimizer
    return fit_ensemble(model, optimizer, *data, generator=th.Generator().manual_seed(seed), **kwargs)


def linear_model(**kwargs) -> EnsembleDynamics:
    sizes = {"observation_dim": 2, "action_dim": 1, "n_members": 3, "n_elites": 2, "hidden_sizes": ()}
    return EnsembleDynamics(**(sizes | kwargs))


def test_recovers_mean_and_std_of_a_linear_gaussian_system():
    model = linear_model(hidden_sizes=(32,))
    optimizer = th.optim.Adam(model.parameters(), lr=1e-2, fused=True)

    def decay(_stats) -> None:
        optimizer.param_groups[0]["lr"] *= 0.75

    report = fit(model, linear_system(12_000), optimizer=optimizer, batch_size=128, max_epochs=12, on_epoch=decay)
    observations, actions, *_ = linear_system(2000, seed=1)
    with th.no_grad():
        mean, logvar = model(observations, actions)
    truth = th.cat([observations @ (A.T - th.eye(2)) + actions @ B.T, (observations @ REWARD)[:, None]], dim=1)
    spread = truth.std(dim=0)
    # the mean to 4% of what there is to explain, the noise to 6%, in every member and dimension
    assert ((mean - truth).square().mean(dim=1).sqrt() / spread).max() < 0.04
    assert ((0.5 * logvar).exp().mean(dim=1) / NOISE - 1).abs().max() < 0.06
    # the irreducible share of the variance, noise^2 / (spread^2 + noise^2), averaged over dimensions
    irreducible = (NOISE.square() / (spread.square() + NOISE.square())).mean().item()
    assert report.holdout_error == pytest.approx([irreducible] * 3, rel=0.1)
    assert report.holdout_mse == pytest.approx([NOISE.square().mean().item()] * 3, rel=0.1)
    assert (report.n_train, report.n_holdout) == (11_000, 1000)  # the holdout is capped at 1000 rows


def test_negative_log_likelihood_by_hand():
    # (3-1)^2/4 + ln 4 and (0-1)^2/1 + ln 1, averaged over two dimensions
    mean, targets = th.tensor([[[1.0, 1.0]]]), th.tensor([[[3.0, 0.0]]])
    loss = negative_log_likelihood(mean, th.tensor([[[math.log(4.0), 0.0]]]), targets)
    assert loss.tolist() == pytest.approx([(1 + 1.3862944 + 1) / 2])


def test_beta_weights_each_term_with_its_variance_and_leaves_the_weight_alone():
    # sigma^2 = 4: beta = 1/2 doubles (3-1)^2/4 + ln 4, of gradients -2 (3-1)/4 in the mean and 1 - 1 in the log-variance
    mean, logvar = (th.tensor([[[value]]], requires_grad=True) for value in (1.0, math.log(4.0)))
    targets = th.tensor([[[3.0]]])
    loss = negative_log_likelihood(mean, logvar, targets, beta=0.5)
    assert loss.item() == pytest.approx(2 * (1 + 1.3862944))
    loss.backward()
    assert mean.grad.item() == pytest.approx(2 * -1.0)
    assert logvar.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_rate_and_beta_fall_with_every_batch():
    optimizer = th.optim.SGD(linear_model().parameters(), lr=9.0)
    rates, betas = [], []
    for epoch in (1, 2):
        for _, beta in paced((th.arange(3),) * 4, optimizer, lambda remaining: 0.1 * remaining**2, epoch, n_epochs=2):
            rates.append(optimizer.param_groups[0]["lr"])
            betas.append(beta)
    assert betas == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4, 0, 0, 0, 0])
    assert rates == pytest.approx([0.1 * (remaining / 8) ** 2 for remaining in range(8, 0, -1)])


def test_with_a_schedule_what_is_hard_to_predict_is_learned_too():
    """One target is known to a thousandth, whose steep likelihood leaves the other, a sine, for last; beta-NLL does not."""
    generator = th.Generator().manual_seed(0)
    observations, actions = th.randn(3000, 2, generator=generator), th.zeros(3000, 1)
    change = th.stack([observations[:, 0], th.sin(2 * observations[:, 1])], dim=1)
    noise = th.tensor([1e-3, 0.1]) * th.randn(3000, 2, generator=generator)
    data = observations, actions, observations + change + noise, observations[:, 0]
    unexplained = []
    for schedule in (None, CosineSchedule(3e-3)):
        model = linear_model(hidden_sizes=(32, 32))
        optimizer = th.optim.Adam(model.parameters(), lr=3e-3, fused=True)
        report = fit(model, data, optimizer=optimizer, max_epochs=20, patience=None, schedule=schedule, batch_size=64)
        assert (report.epochs, report.stopped_by) == (20, "max_epochs")
        with th.no_grad():
            mean, _ = model(observations, actions)
        unexplained.append((mean[..., 1] - change[:, 1]).square().mean().item() / change[:, 1].var().item())
    assert unexplained[1] < 0.15 < 0.5 * unexplained[0]


def test_a_fit_needs_an_end():
    with pytest.raises(ValueError, match="needs max_epochs"):
        fit(linear_model(), linear_system(1000), patience=None)
    with pytest.raises(ValueError, match="schedule, needs max_epochs"):
        fit(linear_model(), linear_system(1000), schedule=CosineSchedule(1e-3))


def test_reported_training_loss_is_the_mean_over_rows():
    """A network of zeros, still observations and rewards of +-1: every row has the same loss, whatever its batch's size."""
    model = linear_model()
    with th.no_grad():
        model.weights[0].zero_()
    observations, actions, *_ = linear_system(1000)
    rewards = th.where(th.arange(1000) % 2 == 0, 1.0, -1.0)
    optimizer = th.optim.SGD(model.parameters(), lr=0.0)
    report = fit(model, (observations, actions, observations, rewards), optimizer=optimizer, max_epochs=1)
    logvar = 0.5 - math.log1p(math.exp(0.5))  # the upper bound on 0; the lower one adds 7e-5
    assert report.train_loss == pytest.approx((math.exp(-logvar) + 3 * logvar) / 3, abs=5e-3)  # 800 rows, batches of 256


def test_weight_decay_is_the_gradient_of_half_wd_w_squared():
    model = linear_model(hidden_sizes=(4,), weight_decay=(0.5, 0.25))
    with th.no_grad():
        model.weights[0].fill_(2.0)
        model.weights[1].fill_(-3.0)
    for parameter in model.parameters():
        parameter.grad = th.full_like(parameter, 10.0)
    add_weight_decay(model)
    assert (model.weights[0].grad == 10 + 0.5 * 2).all()
    assert (model.weights[1].grad == 10 - 0.25 * 3).all()
    assert (model.biases[0].grad == 10).all()
    assert (model.max_logvar.grad == 10).all()


def test_weight_decay_and_constant_inputs_in_a_fit():
    """Inputs that never vary are standardised to 0, so only the decay moves the first weights: W (1 - lr wd) per batch."""
    model = linear_model(weight_decay=0.5)
    initial = model.weights[0].detach().clone()
    n = 100
    rewards = th.randn(n, generator=th.Generator().manual_seed(0))
    data = (th.full((n, 2), 7.0), th.full((n, 1), -1.0), th.full((n, 2), 7.0), rewards)
    optimizer = th.optim.SGD(model.parameters(), lr=0.1)
    report = fit(model, data, optimizer=optimizer, batch_size=32, max_epochs=1)
    assert (report.n_train, report.n_holdout) == (80, 20)
    assert th.allclose(model.weights[0], initial * (1 - 0.1 * 0.5) ** 3)  # batches of 32, 32 and 16


def test_soft_bounds_are_pulled_together():
    """With SGD the bounds move by lr * (weight / members) and the likelihood's pull; weight 0 leaves only the latter."""
    moved = []
    for weight in (0.0, 0.3):
        model = linear_model()
        optimizer = th.optim.SGD(model.parameters(), lr=1e-3)
        fit(model, linear_system(500), optimizer=optimizer, batch_size=200, max_epochs=1, logvar_loss_weight=weight)
        moved.append((model.max_logvar.detach(), model.min_logvar.detach()))
    steps = 2  # 400 rows in batches of 200; the bounds' effect on the likelihood's own gradient is second order
    assert th.allclose(moved[0][0] - moved[1][0], th.tensor(steps * 1e-3 * 0.3 / 3), rtol=1e-2)
    assert th.allclose(moved[1][1] - moved[0][1], th.tensor(steps * 1e-3 * 0.3 / 3), rtol=1e-2)


def test_bootstrap_draws_with_replacement_for_each_member():
    rows = bootstrap_indices(5, 20_000, th.Generator().manual_seed(0))
    assert rows.shape == (5, 20_000)
    assert rows.min() >= 0
    assert rows.max() < 20_000
    for member in rows:
        assert len(member.unique()) / 20_000 == pytest.approx(1 - math.exp(-1), abs=0.01)
    assert not th.equal(rows[0], rows[1])


def test_members_do_not_influence_each_other():
    one, other = linear_model(), linear_model()
    with th.no_grad():
        for parameter in other.parameters():
            parameter[1] *= 3
    for model in (one, other):
        fit(model, linear_system(1000), max_epochs=2)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert th.allclose(a[0], b[0], atol=1e-6)
        assert th.allclose(a[2], b[2], atol=1e-6)
    assert not th.allclose(one.weights[0][1], other.weights[0][1], atol=1e-2)


def test_early_stopping_restores_the_best_snapshot_of_each_member():
    """The optimiser stands still; the callback moves the weights, so every epoch's error is known in advance."""
    model = linear_model()
    observations, actions, next_observations, rewards = data = linear_system(1000, noise=th.zeros(3))
    initial = [parameter.detach().clone() for parameter in model.parameters()]
    epochs = []

    @th.no_grad()
    def move(stats) -> None:
        epochs.append(stats)
        if stats.epoch == 1:  # member 1 becomes exact, the others useless
            inputs = model.normalize(observations, actions)
            targets = th.cat([next_observations - observations, rewards[:, None]], dim=1)
            targets = (targets - model.target_mean) / model.target_std
            design = th.cat([inputs, th.ones(1000, 1)], dim=1)
            solution = th.linalg.lstsq(design, targets).solution
            model.weights[0][:, :, :3] = 100.0
            model.weights[0][1, :, :3], model.biases[0][1, 0, :3] = solution[:3], solution[3]
        elif stats.epoch == 2:
            for parameter in model.parameters():
                parameter.fill_(50.0)

    optimizer = th.optim.SGD(model.parameters(), lr=0.0)
    report = fit(model, data, optimizer=optimizer, patience=3, on_epoch=move)
    assert (report.epochs, report.stopped_by) == (5, "patience")
    assert [stats.stale_epochs for stats in epochs] == [0, 0, 1, 2, 3]
    assert report.holdout_error[1] < 1e-6 < 0.1 < min(report.holdout_error[0], report.holdout_error[2])
    for parameter, before in zip(model.parameters(), initial, strict=True):
        assert th.equal(parameter[0], before[0])
        assert th.equal(parameter[2], before[2])
    assert (model(observations, actions)[0][1, :, :2] - (next_observations - observations)).abs().max() < 1e-4

    # elites: the argmin set, best first
    order = sorted(range(3), key=lambda member: report.holdout_error[member])
    assert order[0] == 1
    assert report.elites == tuple(order[:2]) == tuple(model.elites.tolist())
    assert model.fitted


def test_a_snapshot_needs_more_than_one_percent():
    model = linear_model()
    best = _BestSnapshots(model)
    mse = th.zeros(3)
    assert best.update(model, th.tensor([1.0, 1.0, 1.0]), mse)
    with th.no_grad():
        model.weights[0].fill_(1.0)
    assert not best.update(model, th.tensor([0.995, 1.5, 0.991]), mse)
    assert best.error.tolist() == [1.0, 1.0, 1.0]
    assert best.update(model, th.tensor([0.995, 0.985, 2.0]), mse)
    assert best.error.tolist() == pytest.approx([1.0, 0.985, 1.0])
    best.restore(model)
    assert [bool((weights == 1).all()) for weights in model.weights[0]] == [False, True, False]


def test_holdout_error_counts_every_dimension_alike():
    """Predicting the mean of every target gives 1 in units of its variance, whatever its raw units."""
    model = linear_model()
    with th.no_grad():
        model.weights[0].zero_()
        model.target_std.copy_(th.tensor([1.0, 1000.0, 0.1]))
    targets = th.tensor([[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    error, mse = _holdout_errors(model, th.cat([th.zeros(2, 3), targets], dim=1))
    assert error.tolist() == pytest.approx([1.0] * 3)
    assert mse.tolist() == pytest.approx([(1 + 1e6 + 0.01) / 3] * 3)


@pytest.mark.parametrize("scale", [1e-3, 1e5])
def test_units_do_not_matter(scale):
    """The same data in other units gives the same model in those units."""
    models = [linear_model(hidden_sizes=(8,)) for _ in range(2)]
    data = linear_system(1000)
    reports = [fit(models[0], data, max_epochs=3), fit(models[1], [scale * column for column in data], max_epochs=3)]
    assert reports[0].holdout_error == pytest.approx(reports[1].holdout_error, rel=1e-3)
    observations, actions, *_ = data
    with th.no_grad():
        mean, logvar = models[0](observations, actions)
        scaled_mean, scaled_logvar = models[1](scale * observations, scale * actions)
    assert th.allclose(scaled_mean / scale, mean, atol=1e-3)
    assert th.allclose(scaled_logvar - 2 * math.log(scale), logvar, atol=1e-3)


def test_same_generator_gives_the_same_weights_and_leaves_global_randomness_alone():
    state = th.get_rng_state()
    models = [linear_model(hidden_sizes=(8,)) for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        fit(model, linear_system(1000), seed=seed, max_epochs=3)
    assert th.equal(th.get_rng_state(), state)
    assert all(th.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert not th.equal(models[0].weights[0], models[2].weights[0])


def test_max_epochs_and_callback_end_the_fit():
    assert fit(linear_model(), linear_system(1000), max_epochs=2).epochs == 2
    report = fit(linear_model(), linear_system(1000), on_epoch=lambda stats: stats.epoch < 3)
    assert (report.epochs, report.stopped_by) == (3, "callback")


def test_progress_bar_writes_to_stderr(capsys):
    fit(linear_model(), linear_system(1000), max_epochs=2, progress_bar=True)
    assert "dynamics" in capsys.readouterr().err


def test_what_is_constant_stays_constant_in_samples():
    observations, actions, next_observations, rewards = linear_system(1000)
    goal = th.full((1000, 1), 1234.5)
    model = linear_model(observation_dim=3)
    data = (th.cat([observations, goal], 1), actions, th.cat([next_observations, goal], 1), 0 * rewards[:, None])
    report = fit(model, data, max_epochs=3)
    assert all(0 < error < 1 for error in report.holdout_error)
    assert model.input_std[2] == 1
    sample = model.sample(data[0], actions, th.Generator().manual_seed(0))
    assert (sample.rewards.abs() < 1e-9).all()
    assert ((sample.next_observations[:, 2] - 1234.5).abs() < 0.01).all()
    assert th.isfinite(sample.std.log()).all()


def test_divergence_is_an_error_that_says_so():
    model = linear_model(hidden_sizes=(8,))
    with pytest.raises(DynamicsDivergedError, match=r"diverged in epoch 1.*learning_rate") as raised:
        fit(model, linear_system(1000), optimizer=th.optim.SGD(model.parameters(), lr=1e8))
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, FloatingPointError)
    assert not model.fitted


def test_an_interrupted_refit_leaves_the_model_unfitted():
    model = linear_model()
    fit(model, linear_system(1000), max_epochs=1)

    def interrupt(_stats) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, linear_system(1000), on_epoch=interrupt)
    assert not model.fitted


def test_bad_data_is_refused():
    data = list(linear_system(1000))
    data[3][[4, 9]] = th.tensor([float("nan"), float("inf")])
    with pytest.raises(ValueError, match="rewards hold NaN or infinite values in 2 of 1000 rows, first in row 4"):
        fit(linear_model(), data)
    with pytest.raises(ValueError, match=r"4 transitions are too few.*holds out 0"):
        fit(linear_model(), linear_system(4))
    with pytest.raises(ValueError, match=r"600 transitions are too few.*leaves 480.*two batches of 256"):
        fit(linear_model(), linear_system(600))
