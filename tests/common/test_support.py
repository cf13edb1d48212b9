"""BCQ's support rule: by hand, against value iteration over the supported actions, and through the discrete family."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN

from sb3_offline import DiscreteCOMBO, DiscreteCQL
from sb3_offline.common.offline_dqn import DQNNetworks
from sb3_offline.execution.updates import UpdateRunner
from sb3_offline.networks.networks import Batch
from sb3_offline.networks.support import greedy_supported, supported
from tests.conftest import FAST, FAST_MODEL_BASED, Arrays, maker
from tests.iql.test_iql import empirical, logged, minimise

make = maker(DiscreteCQL, "CartPole-v1", **FAST, check_data=False)


def test_the_rule_by_hand() -> None:
    """pi_beta = (.6, .3, .1), threshold .3: two actions remain, and of these the one with the larger Q is taken."""
    log_behavior = th.tensor([[0.6, 0.3, 0.1]]).log()
    assert supported(log_behavior, 0.3).tolist() == [[True, True, False]]
    assert supported(log_behavior, 0.6).tolist() == [[True, False, False]]
    assert supported(log_behavior, 0.1).tolist() == [[True, True, True]]
    assert greedy_supported(th.tensor([[1.0, 2.0, 9.0]]), log_behavior, 0.3).tolist() == [1]


class Tables(DQNNetworks):
    """Q is a table (1, S, A), pi_beta is given."""

    def __init__(self, pi_beta: np.ndarray, threshold: float):
        super().__init__(SimpleNamespace(support_threshold=threshold), lambda rows: rows)  # type: ignore[arg-type]
        self.table = th.zeros(1, *pi_beta.shape, dtype=th.float64, requires_grad=True)
        self.log_pi_beta = th.tensor(pi_beta).log()

    def q(self, observations: Any) -> th.Tensor:
        return self.table[:, observations[:, 0].long()]

    def q_target(self, observations: Any) -> th.Tensor:
        return self.q(observations).detach()

    def log_behavior(self, observations: Any) -> th.Tensor:
        return self.log_pi_beta[observations[:, 0].long()]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("threshold", [0.05, 0.45, 1.0])
def test_the_fixed_point_is_value_iteration_over_the_support(threshold: float, seed: int, cartpole_arrays: Arrays) -> None:
    gamma = 0.7
    mdp, counts, pi_beta = empirical(seed, gamma)
    model = make(cartpole_arrays, gamma=gamma, conservative_weight=0.0, support_threshold=threshold)
    nets, batch = Tables(pi_beta, threshold), logged(mdp, counts)
    batch = batch._replace(actions=batch.actions.long())
    for _ in range(80):
        minimise(nets.table, lambda: model.critic_loss(nets, batch, None)[0])
    allowed = pi_beta / pi_beta.max(axis=1, keepdims=True) >= threshold - 1e-9
    v = np.zeros(4)
    for _ in range(200):
        q = mdp.rewards + gamma * mdp.transitions @ v
        v = np.where(allowed, q, -np.inf).max(axis=1)
    np.testing.assert_allclose(nets.table.detach().numpy()[0][pi_beta > 0], q[pi_beta > 0], atol=1e-4)


def test_pi_beta_is_learned_from_real_rows_alone(cartpole_arrays: Arrays) -> None:
    model = make(cartpole_arrays, support_threshold=0.3).learn(1)
    log_behavior = th.tensor([[0.6, 0.3, 0.1]]).log().expand(2, 3)
    nets: Any = SimpleNamespace(log_behavior=lambda rows: log_behavior[: len(rows)])
    zeros = th.zeros(2)
    batch = Batch(th.zeros(2, 1), th.tensor([[1], [2]]), th.zeros(2, 1), zeros, zeros, n_real=1)
    loss, _ = model.behavior_loss(nets, batch, None)
    assert float(loss) == pytest.approx(-np.log(0.3))


def test_it_clones_who_acted(cartpole_arrays: Arrays) -> None:
    """A policy that is a function of the state: its other action is never chosen, whatever Q says."""
    actions = (cartpole_arrays["observations"][:, 2] > 0).astype(np.int64)
    data = cartpole_arrays | {"actions": actions}
    model = make(data, support_threshold=0.3, learning_rate=3e-3, conservative_weight=0.0).learn(300)
    chosen, _ = model.predict(data["observations"], deterministic=True)
    assert (chosen == actions).mean() > 0.9
    with th.no_grad():
        rows = th.as_tensor(data["observations"])
        assert float((model.q_net(rows).argmax(dim=1).numpy() == actions).mean()) < 0.9  # Q alone would do otherwise
        np.testing.assert_array_equal(model.networks().policy(rows).argmax(dim=1), chosen)


def test_none_is_what_was_there_before(cartpole_arrays: Arrays) -> None:
    model = make(cartpole_arrays).learn(3)
    assert model.behavior is None
    assert type(model.policy) is DQN.policy_aliases["MlpPolicy"]
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="support_threshold must"):
            make(cartpole_arrays, support_threshold=threshold)


def test_it_comes_back_and_goes_on(cartpole_arrays: Arrays, tmp_path: Any) -> None:
    model = make(cartpole_arrays, support_threshold=0.4).learn(5)
    model.save(tmp_path / "model")
    loaded = DiscreteCQL.load(tmp_path / "model", device="cpu")
    rows = cartpole_arrays["observations"][:50]
    np.testing.assert_array_equal(model.predict(rows)[0], loaded.predict(rows)[0])
    assert (loaded.support_threshold, loaded.policy.support_threshold) == (0.4, 0.4)
    loaded.dataset = cartpole_arrays
    before = loaded.behavior.logits.weight.clone()
    loaded.learn(2)
    assert not th.equal(before, loaded.behavior.logits.weight)


def test_its_losses_compile_whole(cartpole_arrays: Arrays) -> None:
    """Q's and the clone's, and the numbers are those of eager execution."""
    graphs = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    model, eager = (make(cartpole_arrays, support_threshold=0.3).learn(1) for _ in range(2))
    model.execution = "compile"
    model._runner = UpdateRunner(model, compile_backend=backend)
    for _ in range(3):
        model.update()
        eager.update()
    assert len(graphs) == 2
    for name, value in model.policy.state_dict().items():
        th.testing.assert_close(value, eager.policy.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_rollouts_keep_to_the_support(cartpole_arrays: Arrays) -> None:
    """Imagined states, too, are acted in by supported actions alone."""
    options = FAST_MODEL_BASED | {"check_data": False, "support_threshold": 1.0}
    model: Any = DiscreteCOMBO("MlpPolicy", "CartPole-v1", dataset=cartpole_arrays, **options).learn(3)
    rows = th.as_tensor(cartpole_arrays["observations"][:50])
    with th.no_grad():
        taken = model.rollout_actor(th.Generator())(rows).argmax(dim=1)
        assert th.equal(taken, model.behavior(rows).argmax(dim=1))
