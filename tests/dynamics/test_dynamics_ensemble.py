"""The stacked ensemble against one network at a time, and its sampling against its own prediction."""

import io
import math

import pytest
import torch as th

from sb3_offline.dynamics import EnsembleDynamics, ensemble


def small_model(**kwargs) -> EnsembleDynamics:
    kwargs = {"n_members": 4, "n_elites": 3, "hidden_sizes": (8, 6), "generator": th.Generator().manual_seed(1)} | kwargs
    return EnsembleDynamics(3, 2, **kwargs)


def batch(n: int, seed: int = 0) -> tuple[th.Tensor, th.Tensor]:
    generator = th.Generator().manual_seed(seed)
    return th.randn(n, 3, generator=generator), th.randn(n, 2, generator=generator)


def gaussian_of_known_members(means, stds) -> EnsembleDynamics:
    """Members that predict a constant: member m's (delta observation, reward) ~ N(means[m], stds[m]^2)."""
    model = EnsembleDynamics(1, 1, n_members=len(means), n_elites=2, hidden_sizes=())
    with th.no_grad():
        model.weights[0].zero_()
        model.min_logvar.fill_(-60.0)
        for m, (mean, std) in enumerate(zip(means, stds, strict=True)):
            raw = 0.5 - math.log(math.expm1(0.5 - 2 * math.log(std)))  # inverts 0.5 - softplus(0.5 - raw) = log variance
            model.biases[0][m, 0] = th.tensor([mean, mean, raw, raw])
    return model


def test_initial_weights_are_truncated_normals():
    model = EnsembleDynamics(150, 50, n_members=7, hidden_sizes=(300,), generator=th.Generator().manual_seed(0))
    weight = model.weights[0].detach()
    assert weight.shape == (7, 200, 300)
    # a standard normal cut at +-2 has std 0.8796257
    assert weight.std().item() == pytest.approx(0.8796257 * 0.5 / math.sqrt(200), rel=5e-3)
    assert weight.abs().max().item() <= 1 / math.sqrt(200)
    assert weight.abs().max().item() > 0.999 / math.sqrt(200)
    assert all((bias == 0).all() for bias in model.biases)


def test_initialisation_uses_its_generator_only():
    state = th.get_rng_state()
    one, same = small_model(), small_model()
    other = small_model(generator=th.Generator().manual_seed(2))
    assert th.equal(th.get_rng_state(), state)
    assert all(th.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not th.equal(one.weights[0], other.weights[0])
    assert not th.equal(one.weights[0][0], one.weights[0][1])


def test_forward_equals_one_network_at_a_time():
    model = small_model()
    model.input_mean.copy_(th.tensor([1.0, -2.0, 0.5, 3.0, 0.0]))
    model.input_std.copy_(th.tensor([2.0, 0.5, 1.0, 4.0, 10.0]))
    model.target_mean.copy_(th.tensor([0.0, 1.0, -1.0, 7.0]))
    model.target_std.copy_(th.tensor([1.0, 3.0, 0.1, 20.0]))
    observations, actions = batch(17)
    mean, logvar = model(observations, actions)
    assert mean.shape == logvar.shape == (4, 17, 4)
    for m in range(4):
        x = (th.cat([observations, actions], 1).double() - model.input_mean) / model.input_std
        for layer, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
            x = x @ weight[m].double() + bias[m].double()
            x = x / (1 + (-x).exp()) if layer < 2 else x
        raw = x[:, 4:]
        upper = 0.5 - (1 + (0.5 - raw).exp()).log()
        bounded = -10 + (1 + (upper + 10).exp()).log()
        assert th.allclose(mean[m].double(), x[:, :4] * model.target_std + model.target_mean, atol=1e-5)
        assert th.allclose(logvar[m].double(), bounded + (model.target_std.double() ** 2).log(), atol=1e-5)


def test_forward_takes_a_batch_per_member():
    model = small_model()
    observations, actions = batch(4 * 6)
    observations, actions = observations.view(4, 6, 3), actions.view(4, 6, 2)
    mean, _ = model(observations, actions)
    for m in range(4):
        assert th.allclose(mean[m], model(observations[m], actions[m])[0][m], atol=1e-6)


def test_log_variance_stays_between_its_bounds():
    model = EnsembleDynamics(1, 1, n_members=1, n_elites=1, hidden_sizes=())
    with th.no_grad():
        model.biases[0][..., 2:] = th.tensor([1e4, -1e4])
    _, logvar = model(th.zeros(1, 1), th.zeros(1, 1))
    assert logvar[0, 0, 0].item() == pytest.approx(0.5, abs=1e-4)
    assert logvar[0, 0, 1].item() == pytest.approx(-10.0, abs=1e-4)


def test_normalizers():
    model = EnsembleDynamics(2, 1)
    values = th.randn(1000, 1, generator=th.Generator().manual_seed(0))
    unit, middle = values.std(correction=0).item(), values.mean().item()
    observations = th.cat([values * 5 + 2, th.full((1000, 1), 1234.5)], dim=1)
    next_observations = observations + th.cat([values * 0.1 + 3, th.zeros(1000, 1)], dim=1)
    model.fit_normalizers(observations, values * 1e-3, next_observations, values * 70 - 9)
    assert model.input_std.tolist() == pytest.approx([5 * unit, 1.0, 1e-3 * unit], rel=1e-4)  # a constant is only centred
    assert model.input_mean.tolist() == pytest.approx([2 + 5 * middle, 1234.5, 1e-3 * middle], rel=1e-3)
    assert model.target_std.tolist() == pytest.approx([0.1 * unit, 1e-6 * 1234.5, 70 * unit], rel=1e-3)
    assert model.target_mean[1] == 0


def test_samples_have_the_predicted_mean_and_std():
    model = gaussian_of_known_members(means=(5.0, 0.0, -1.0), stds=(1.2, 0.5, 0.01))
    model.elites.copy_(th.tensor([2, 1]))
    n = 100_000
    observations = th.full((n, 1), 10.0)
    sample = model.sample(observations, th.zeros(n, 1), th.Generator().manual_seed(0))
    assert sample.rewards.shape == (n,)
    for member, mean, std in ((1, 0.0, 0.5), (2, -1.0, 0.01)):
        rows = sample.members == member
        assert rows.sum() == n / 2  # dealt in equal hands
        assert th.allclose(sample.std[rows], th.tensor(std), rtol=1e-4)
        for drawn in (sample.next_observations[rows, 0] - 10, sample.rewards[rows]):
            assert drawn.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(n / 2))
            assert drawn.std().item() == pytest.approx(std, rel=0.01)
    residual = sample.next_observations[:, 0] - 10 - sample.mean[:, 0]
    reward_residual = sample.rewards - sample.mean[:, 1]
    assert abs(th.corrcoef(th.stack([residual, reward_residual]) / sample.std.T)[0, 1]) < 0.02


@pytest.mark.parametrize("n_rows", [1, 2, 7, 30])
def test_each_row_gets_the_prediction_of_its_own_member(n_rows, monkeypatch):
    monkeypatch.setattr(ensemble, "CPU_BLOCK_ROWS", 4)
    model = small_model()
    model.elites.copy_(th.tensor([3, 0, 1]))
    model.fit_normalizers(*batch(50), batch(50, seed=1)[0] * 3, batch(50)[1][:, :1])
    observations, actions = batch(n_rows)
    sample = model.sample(observations, actions, th.Generator().manual_seed(3))
    mean, logvar = model(observations, actions)
    rows = th.arange(n_rows)
    assert set(sample.members.tolist()) <= {0, 1, 3}
    assert th.allclose(sample.mean, mean[sample.members, rows], atol=1e-6)
    assert th.allclose(sample.std, (0.5 * logvar[sample.members, rows]).exp(), atol=1e-6)


@pytest.mark.parametrize("n_rows", [1, 4])
def test_every_row_draws_its_elite_uniformly(n_rows):
    model, generator = small_model(), th.Generator().manual_seed(0)
    model.elites.copy_(th.tensor([3, 0, 1]))
    draws = th.stack([model.sample(*batch(n_rows), generator).members for _ in range(1500)])
    for row in range(n_rows):
        counts = th.bincount(draws[:, row], minlength=4)
        assert counts[2] == 0
        # 500 expected; the standard deviation is sqrt(1500 * 1/3 * 2/3) = 18.3
        assert (counts[[0, 1, 3]] - 500).abs().max() < 80


def test_state_dict_round_trip_predicts_identically():
    model = small_model()
    model.elites.copy_(th.tensor([3, 0, 1]))
    model.fitted.fill_(True)
    model.fit_normalizers(*batch(50), batch(50, seed=1)[0] * 3, batch(50)[1][:, :1])
    file = io.BytesIO()
    th.save(model.state_dict(), file)
    file.seek(0)
    restored = small_model(generator=th.Generator().manual_seed(99))
    restored.load_state_dict(th.load(file, weights_only=True))
    assert restored.fitted
    assert restored.elites.tolist() == [3, 0, 1]
    for a, b in zip(
        model.sample(*batch(20), th.Generator().manual_seed(0)),
        restored.sample(*batch(20), th.Generator().manual_seed(0)),
        strict=True,
    ):
        assert th.equal(a, b)


@pytest.mark.parametrize(
    ("n_layers", "expected"),
    [(5, (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)), (3, (2.5e-5, 5e-5, 1e-4)), (2, (2.5e-5, 1e-4)), (1, (1e-4,))],
)
def test_default_weight_decay(n_layers, expected):
    assert EnsembleDynamics(1, 1, hidden_sizes=(4,) * (n_layers - 1)).weight_decay == expected


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="n_elites"):
        small_model(n_elites=5)
    with pytest.raises(ValueError, match="3 layers"):
        small_model(weight_decay=(0.1, 0.2))
    assert small_model(weight_decay=0.3).weight_decay == (0.3, 0.3, 0.3)
