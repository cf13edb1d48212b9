"""bf16 products change the fit and the rollouts by rounding alone, and only where they are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO
from sb3_offline.dynamics import EnsembleDynamics, rollout
from sb3_offline.dynamics.epoch import bootstrap_indices
from sb3_offline.dynamics.training import fit_ensemble
from sb3_offline.execution.precision import available_precision, precision_scope
from sb3_offline.files.checksum import read_checked
from tests.conftest import FAST_MODEL_BASED

needs_bf16 = pytest.mark.skipif(available_precision("bf16", "cpu") != "bf16", reason="no bfloat16 products here")


def make() -> EnsembleDynamics:
    model = EnsembleDynamics(2, 1, n_members=3, n_elites=2, hidden_sizes=(32, 32), generator=th.Generator().manual_seed(0))
    model.fitted.fill_(True)
    return model


@needs_bf16
def test_forecasts_are_rounded_in_the_hidden_layers_alone() -> None:
    """Without a hidden layer nothing is rounded; with two the error is that of 8 bits, and not zero."""
    inputs = th.randn(3, 50, 3, generator=th.Generator().manual_seed(1))
    for sizes, exact in (((), True), ((32, 32), False)):
        model = EnsembleDynamics(2, 1, n_members=3, n_elites=2, hidden_sizes=sizes)
        mean, logvar = model.networks(inputs)
        with precision_scope("bf16", "cpu"):
            rounded, rounded_logvar = model.networks(inputs)
        assert rounded.dtype == rounded_logvar.dtype == th.float32
        assert th.equal(mean, rounded) is exact
        assert th.equal(logvar, rounded_logvar) is exact
        assert (mean - rounded).abs().max() < 2**-6 * mean.abs().max()


@needs_bf16
def test_rollouts_judge_the_end_in_float32() -> None:
    model, weight = make(), th.full((2, 1), 1.001)  # 8 bits hold 1
    products = []

    def ended(observations: th.Tensor, actions: th.Tensor, following: th.Tensor) -> th.Tensor:
        assert observations.dtype == actions.dtype == following.dtype == th.float32
        products.append(th.ones(1, 2) @ weight)
        return th.zeros(len(following), dtype=th.bool)

    starts = th.randn(20, 2, generator=th.Generator().manual_seed(2))
    results = []
    for precision in ("float32", "bf16"):
        generator = th.Generator().manual_seed(0)
        results.append(rollout(model, starts, lambda s: s @ weight, ended, 2, generator, precision))
    assert [product.item() for product in products] == [pytest.approx(2.002, abs=1e-6)] * 4
    exact, rounded = (result.next_observations[:20] for result in results)
    assert not th.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.05
    assert results[1].actions.dtype == th.float32


@needs_bf16
def test_a_fit_in_bf16_learns_the_same_world() -> None:
    """s' = s + (a, -a), r = s_0 + 1: an error of 1 would be that of a constant."""
    generator = th.Generator().manual_seed(0)
    observations, actions = th.randn(1500, 2, generator=generator), th.randn(1500, 1, generator=generator)
    columns = (observations, actions, observations + th.cat([actions, -actions], dim=1), observations[:, 0] + 1)
    errors, weights = {}, {}
    for precision in ("float32", "bf16"):
        model = make()
        optimizer = th.optim.Adam(model.member_parameters(), lr=3e-3, fused=True)
        generator = th.Generator().manual_seed(1)
        report = fit_ensemble(model, optimizer, *columns, generator=generator, max_epochs=12, precision=precision)
        errors[precision], weights[precision] = np.mean(report.holdout_error), model.weights[1].detach()
        assert model.weights[1].dtype == th.float32
    assert not th.equal(weights["float32"], weights["bf16"])
    assert errors["float32"] < 0.02
    assert errors["bf16"] == pytest.approx(errors["float32"], abs=0.01)


@needs_bf16
def test_the_algorithms_option_reaches_fit_cache_and_rollouts(pendulum_arrays: dict[str, np.ndarray]) -> None:
    folder = Path(os.environ["SB3_OFFLINE_CACHE"])
    options = FAST_MODEL_BASED | {"dynamics_cache": True}
    exact, rounded = (
        COMBO("MlpPolicy", "Pendulum-v1", pendulum_arrays, precision=precision, **options).learn(1, log_interval=None)
        for precision in ("float32", "bf16")
    )
    assert len(list(folder.iterdir())) == 2
    assert not th.equal(exact.dynamics.weights[1], rounded.dynamics.weights[1])
    again = COMBO("MlpPolicy", "Pendulum-v1", pendulum_arrays, precision="float32", **options)
    weights = {path: read_checked(path)["dynamics"]["weights.1"] for path in folder.iterdir()}
    again.load_dynamics(next(path for path in weights if th.equal(weights[path], rounded.dynamics.weights[1])))
    again.learn(1, log_interval=None)
    starts = exact.model_buffer.observations[:200]
    assert th.equal(again.model_buffer.observations[:200], starts)
    assert not th.equal(again.model_buffer.next_observations[:200], rounded.model_buffer.next_observations[:200])


def test_bootstrap_samples_are_those_of_one_draw() -> None:
    """Drawn member by member, so that int64 indices of all members are never held."""
    drawn = bootstrap_indices(4, 1001, th.Generator().manual_seed(5))
    assert drawn.dtype == th.int32
    assert th.equal(drawn.long(), th.randint(1001, (4, 1001), generator=th.Generator().manual_seed(5)))
