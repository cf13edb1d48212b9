"""Cross-entropy against the exact behaviour policy, and a policy that samples by it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th

from sb3_offline import DiscreteBC
from sb3_offline.networks.networks import Batch
from sb3_offline.ope.policy import EvaluatedPolicy
from tests.conformance.tables import converge
from tests.conftest import FAST, Arrays, maker

make = maker(DiscreteBC, "CartPole-v1", **FAST, check_data=False)


def test_the_minimum_is_pi_beta(cartpole_arrays: Arrays) -> None:
    """A table of logits: pi(a|s) = n(s, a) / n(s)."""
    counts = np.array([[3, 1, 4], [1, 5, 2], [6, 5, 3]])
    states, actions = np.nonzero(counts)
    repeats = counts[states, actions]
    s, a = (th.tensor(np.repeat(column, repeats)).unsqueeze(1) for column in (states, actions))
    logits = th.zeros(3, 3, dtype=th.float64, requires_grad=True)
    nets: Any = SimpleNamespace(log_policy=lambda observations: th.log_softmax(logits[observations[:, 0]], dim=1))
    nothing = th.zeros(len(s))
    batch, model = Batch(s, a, s, nothing, nothing, len(s)), make(cartpole_arrays)
    converge([logits], lambda: model.actor_loss(nets, batch, None)[0])
    pi = logits.detach().softmax(dim=1).numpy()
    np.testing.assert_allclose(pi, counts / counts.sum(axis=1, keepdims=True), atol=1e-4)


def test_it_samples_by_pi(cartpole_arrays: Arrays) -> None:
    """As often as it says, and OPE is told the same."""
    model = make(cartpole_arrays).learn(50, validation=0.2)
    row = cartpole_arrays["observations"][7]
    pi = model.networks().log_policy(th.as_tensor(row[None])).exp().detach().numpy()[0]
    th.manual_seed(0)
    drawn, _ = model.predict(np.repeat(row[None], 4000, axis=0))
    np.testing.assert_allclose(np.bincount(drawn, minlength=2) / 4000, pi, atol=0.03)
    assert model.predict(row, deterministic=True)[0] == pi.argmax()
    rows = model.validation
    with th.no_grad():
        distribution = th.distributions.Categorical(logits=model.actor(rows.observations))
    expected = float(distribution.log_prob(rows.actions.flatten()).mean())
    assert abs(rows.figures()["likelihood"] - expected) < 1e-6
    evaluated = EvaluatedPolicy(model, model.load_dataset(), deterministic=False)
    np.testing.assert_allclose(evaluated.probabilities(row[None])[0], pi, atol=1e-6)
