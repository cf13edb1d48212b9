"""Calibration inside the ensemble, on a linear-Gaussian system with state-dependent noise."""

import io
import math

import numpy as np
import pytest
import torch as th

from sb3_offline.dynamics import EnsembleDynamics
from sb3_offline.dynamics.calibration import KNOTS, REACH, CalibrationMaps
from sb3_offline.dynamics.calibration_metrics import calibration_error
from sb3_offline.dynamics.world import Columns, standardized_residuals

METHODS = ["std", "isotonic", "scaling-binning"]
FACTORS = th.tensor([1 / 3, 1 / 2])  # of each member's sigma to the truth


def system(n: int, seed: int) -> Columns:
    """s' = .9 s + .5 a + sigma(s) noise and r = s + sigma(s) noise with log sigma(s) = -1 + .5 s."""
    generator = th.Generator().manual_seed(seed)
    s, a = th.randn(n, 1, generator=generator), 2 * th.rand(n, 1, generator=generator) - 1
    noise = th.exp(-1 + 0.5 * s) * th.randn(n, 2, generator=generator)
    ended = th.zeros(n, dtype=th.bool)
    return Columns(s, a, 0.9 * s + 0.5 * a + noise[:, :1], s[:, 0] + noise[:, 1], ended)


def overconfident_model() -> EnsembleDynamics:
    """The true mean; each member's sigma is the truth times its factor, for any state."""
    model = EnsembleDynamics(1, 1, n_members=2, n_elites=2, hidden_sizes=())
    with th.no_grad():
        model.max_logvar.fill_(60.0)  # bounds far away: the log-variance is linear
        model.min_logvar.fill_(-60.0)
        model.weights[0].copy_(th.tensor([[-0.1, 1.0, 1.0, 1.0], [0.5, 0.0, 0.0, 0.0]]).expand(2, 2, 4))
        model.biases[0][:, 0, :2] = 0.0
        model.biases[0][:, 0, 2:] = (-2 + 2 * FACTORS.log())[:, None]
    model.fitted.fill_(True)
    return model


def errors(model: EnsembleDynamics) -> list[float]:
    """Debiased squared calibration error of each member and dimension on fresh data."""
    pit = model.calibration.pit(standardized_residuals(model, system(20_000, seed=9)))
    return [calibration_error(pit[m, :, d]).debiased for m in range(2) for d in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_calibration_error_falls(method):
    model = overconfident_model()
    before = errors(model)
    model.calibration.fit(method, standardized_residuals(model, system(2000, seed=1)))
    after = errors(model)
    assert min(before) > 0.1
    assert all(a < b / 3 for a, b in zip(after, before, strict=True))
    assert sum(after) < sum(before) / 20


@pytest.mark.parametrize("method", METHODS)
def test_samples_have_the_true_std(method):
    """Each member is recalibrated by its own factor, at every state; moments() says the same as the samples."""
    model = overconfident_model()
    model.calibration.fit(method, standardized_residuals(model, system(5000, seed=1)))
    for state in (-1.0, 1.5):
        s, a = th.full((40_000, 1), state), th.zeros(40_000, 1)
        sample = model.sample(s, a, th.Generator().manual_seed(0))
        truth = math.exp(-1 + 0.5 * state)
        mean, std = model.moments(s[:1], a[:1])
        for m in range(2):
            rows = sample.members == m
            for drawn, expected, d in (
                (sample.next_observations[rows, 0] - s[0], -0.1 * state, 0),
                (sample.rewards[rows], state, 1),
            ):
                assert drawn.std().item() == pytest.approx(truth, rel=0.06)
                assert drawn.mean().item() == pytest.approx(expected, abs=0.06 * truth)
                assert std[m, 0, d].item() == pytest.approx(drawn.std().item(), rel=0.02)
                assert mean[m, 0, d].item() == pytest.approx(drawn.mean().item(), abs=0.02 * truth)


def test_without_calibration_nothing_changes():
    maps, noise = CalibrationMaps(3, 2), th.randn(10, 2)
    assert maps(noise, th.zeros(10, dtype=th.long)) is noise


def test_the_table_is_interpolated_for_the_right_member_and_dimension():
    maps = CalibrationMaps(2, 2)
    grid = th.linspace(-REACH, REACH, KNOTS)
    for m in range(2):
        for d in range(2):
            maps.table[m, d] = (1 + m + 10 * d) * grid + m
    maps.active.fill_(True)
    noise = th.tensor([[0.123, -2.0], [-9.0, 3.5], [4.0, 0.05]])
    mapped = maps(noise, th.tensor([0, 1, 1]))
    expected = [[0.123, -22.0], [2 * -9.0 + 1, 12 * 3.5 + 1], [9.0, 1.6]]  # and straight on beyond the table
    assert mapped.tolist() == [pytest.approx(row, abs=1e-4) for row in expected]


def test_isotonic_samples_stay_inside_what_was_seen():
    maps = CalibrationMaps(1, 1)
    residuals = th.linspace(-2, 3, 200).view(1, 200, 1)
    maps.fit("isotonic", residuals)
    drawn = maps(th.tensor([[-10.0], [10.0]]), th.zeros(2, dtype=th.long))
    assert drawn.flatten().tolist() == pytest.approx([-2, 3])


def test_a_constant_dimension_is_left_alone():
    maps = CalibrationMaps(1, 2)
    residuals = th.stack([th.zeros(100), th.randn(100, generator=th.Generator().manual_seed(0))], dim=1)[None]
    maps.fit("std", residuals)
    noise = th.tensor([[1.25, 1.25]])
    assert maps(noise, th.zeros(1, dtype=th.long))[0, 0].item() == pytest.approx(1.25, abs=1e-6)
    assert maps.scale[0, 0] == 1
    assert maps.scale[0, 1].item() == pytest.approx(residuals[0, :, 1].square().mean().sqrt().item(), rel=1e-3)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match=r"calibration='std' needs at least 60 rows of its own, and has 12"):
        CalibrationMaps(1, 1).fit("std", th.randn(1, 12, 1))


def test_maps_travel_with_the_state_dict():
    model = overconfident_model()
    model.calibration.fit("isotonic", standardized_residuals(model, system(500, seed=1)))
    file = io.BytesIO()
    th.save(model.state_dict(), file)
    file.seek(0)
    restored = overconfident_model()
    restored.load_state_dict(th.load(file, weights_only=True))
    s, a = th.zeros(50, 1), th.zeros(50, 1)
    one, other = (m.sample(s, a, th.Generator().manual_seed(0)) for m in (model, restored))
    assert th.equal(one.next_observations, other.next_observations)


def test_pit_is_the_sampling_law_of_the_samples():
    """PITs of the model's own samples are uniform, whatever the map."""
    model = overconfident_model()
    skewed = th.as_tensor(np.exp(np.random.default_rng(0).normal(size=(2, 3000, 2)) / 2))
    model.calibration.fit("isotonic", skewed)
    s, a = th.zeros(20_000, 1), th.zeros(20_000, 1)
    sample = model.sample(s, a, th.Generator().manual_seed(0))
    columns = Columns(s, a, sample.next_observations, sample.rewards, th.zeros(20_000, dtype=th.bool))
    pit = model.calibration.pit(standardized_residuals(model, columns))
    for m in range(2):
        own = pit[m][sample.members.numpy() == m]
        assert calibration_error(own[:, 0]).ks < 0.02
        assert calibration_error(own[:, 1]).ks < 0.02
