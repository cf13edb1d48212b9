"""The loop that the dynamics' speed is measured against does the same work."""

import pytest
import torch as th

from benchmarks.speed_dynamics import ACTION_DIM, DECAYS, OBSERVATION_DIM, ReferenceEnsemble, batch_flops, rollouts
from sb3_offline.dynamics import EnsembleDynamics
from sb3_offline.dynamics.ensemble import weight_decay_per_layer


def test_same_networks_as_ours() -> None:
    ours, reference = EnsembleDynamics(OBSERVATION_DIM, ACTION_DIM), ReferenceEnsemble()
    with th.no_grad():
        for theirs, own in zip([*reference.weights, *reference.biases], [*ours.weights, *ours.biases], strict=True):
            theirs.copy_(own)
    inputs = th.randn(7, 5, 14, generator=th.Generator().manual_seed(0))
    for one, other in zip(ours.networks(inputs), reference(inputs), strict=True):
        assert th.allclose(one, other, atol=1e-5)
    assert weight_decay_per_layer(None, 5) == DECAYS


def test_arithmetic_by_hand() -> None:
    """7 members x 256 rows x 2: forward and the weights' gradients, then the gradients of all inputs but the first."""
    assert batch_flops() == 7 * 256 * 2 * (2 * (14 * 200 + 3 * 200**2 + 200 * 24) + 3 * 200**2 + 200 * 24)


def test_rollouts_are_counted() -> None:
    figures = rollouts(n_starts=20, horizon=2, repeats=1)
    assert figures["float32_per_second"] == pytest.approx(40 / figures["raw"]["float32"][0])
