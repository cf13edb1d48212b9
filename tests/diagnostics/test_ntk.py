"""The kernel against finite differences and closed forms; the conditions against hand-computed values."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from sb3_offline.diagnostics import ntk
from sb3_offline.linearization.td_linearization import Transitions

OBS = spaces.Box(-1, 1, (3,))
ACT = spaces.Box(-1, 1, (2,))


def continuous_critic(net_arch: list[int], activation: type[nn.Module] = nn.Tanh, share: bool = False) -> ContinuousCritic:
    with th.random.fork_rng():
        th.manual_seed(0)
        return ContinuousCritic(
            OBS, ACT, net_arch, FlattenExtractor(OBS), 3, activation, n_critics=2, share_features_extractor=share
        ).eval()


def batch(n: int, seed: int = 0) -> tuple[th.Tensor, th.Tensor]:
    generator = th.Generator().manual_seed(seed)
    return th.rand(n, 3, generator=generator) * 2 - 1, th.rand(n, 2, generator=generator) * 2 - 1


class Linear(nn.Module):
    """Q(x) = w . x, in float64."""

    def __init__(self, n: int):
        super().__init__()
        self.w = nn.Parameter(th.zeros(n, dtype=th.float64))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x @ self.w


@pytest.mark.parametrize("index", [0, 1])
def test_jacobian_of_a_continuous_critic_matches_finite_differences(index: int) -> None:
    critic = continuous_critic([5, 4]).double()
    obs, act = batch(3)
    obs, act = obs.double(), act.double()
    # preprocessing casts observations to float32: give values that survive it
    obs = obs.float().double()
    own = list(critic.q_networks[index].parameters())
    jacobian = ntk.jacobian(critic, obs, act, index=index)
    assert jacobian.shape == (3, sum(p.numel() for p in own))
    column = 0
    for parameter in own:
        flat = parameter.data.view(-1)
        for k in range(len(flat)):
            differences = []
            for step in (1e-6, -1e-6):
                flat[k] += step
                differences.append(critic(obs, act)[index].detach().flatten())
                flat[k] -= step
            expected = (differences[0] - differences[1]) / 2e-6
            assert th.allclose(jacobian[:, column], expected, atol=1e-8)
            column += 1


def test_jacobian_of_dqn_belongs_to_the_taken_actions() -> None:
    net = QNetwork(OBS, spaces.Discrete(3), FlattenExtractor(OBS), 3, [6]).eval()
    obs, _ = batch(4)
    actions = th.tensor([[0], [2], [1], [2]])
    jacobian = ntk.jacobian(net, obs, actions)
    for row in range(4):
        net.zero_grad()
        net(obs[row : row + 1])[0, int(actions[row])].backward()
        expected = th.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        assert th.allclose(jacobian[row], expected, atol=1e-6)


def test_discrete_and_dict_observations() -> None:
    one_hot = QNetwork(spaces.Discrete(4), spaces.Discrete(2), FlattenExtractor(spaces.Discrete(4)), 4, []).eval()
    jacobian = ntk.jacobian(one_hot, th.tensor([0, 3]), th.tensor([[0], [1]]))
    # weights (2, 4) then biases (2): exactly one weight and one bias each
    assert jacobian.nonzero().tolist() == [[0, 0], [0, 8], [1, 7], [1, 9]]

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(th.tensor([2.0, 3.0]))

        def forward(self, obs: dict[str, th.Tensor], actions: th.Tensor) -> th.Tensor:
            return self.w[0] * obs["a"].sum(1) + self.w[1] * (obs["b"] * actions).sum(1)

    jacobian = ntk.jacobian(Sum(), {"a": th.tensor([[1.0, 2.0]]), "b": th.tensor([[4.0]])}, th.tensor([[0.5]]))
    assert jacobian.tolist() == [[3.0, 2.0]]


def test_shared_features_extractor_is_not_part_of_the_critics_gradient() -> None:
    class Scaled(FlattenExtractor):
        def __init__(self, space: spaces.Box):
            super().__init__(space)
            self.layer = nn.Linear(3, 3)

        def forward(self, obs: th.Tensor) -> th.Tensor:
            return self.layer(obs)

    obs, act = batch(2)
    sizes = {}
    for share in (True, False):
        critic = ContinuousCritic(OBS, ACT, [4], Scaled(OBS), 3, share_features_extractor=share)
        sizes[share] = ntk.jacobian(critic, obs, act).shape[1]
    assert sizes[True] == (5 * 4 + 4) + (4 + 1)
    assert sizes[False] == sizes[True] + 12


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 10, 100])
def test_chunks_do_not_change_the_kernel(chunk_size: int) -> None:
    critic = continuous_critic([16, 16], nn.ReLU)
    obs, act = batch(10)
    jacobian = ntk.jacobian(critic, obs, act, chunk_size=chunk_size).double()
    kernel = ntk.kernel(critic, obs, act, chunk_size=chunk_size)
    assert kernel.dtype == th.float64
    assert th.allclose(kernel, jacobian @ jacobian.T, atol=1e-6)
    assert th.equal(kernel, kernel.T)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_transition_kernels_are_the_blocks_of_the_linear_kernel(chunk_size: int | None) -> None:
    x, x_next = th.tensor([[1.0, 2.0], [0.0, 3.0]]).double(), th.tensor([[5.0, 0.0], [1.0, 1.0]]).double()
    transitions = Transitions(x, None, th.zeros(2), th.ones(2), x_next, None)
    kernel, next_kernel = ntk.transition_kernels(Linear(2), transitions, chunk_size=chunk_size)
    assert kernel.tolist() == [[5, 6], [6, 9]]
    assert next_kernel.tolist() == [[5, 0], [3, 3]]


def test_large_critic_in_under_three_seconds() -> None:
    critic = continuous_critic([256, 256], nn.ReLU)
    obs, act = batch(256)
    ntk.kernel(critic, obs[:8], act[:8])
    start = time.process_time()
    kernel = ntk.kernel(critic, obs, act)
    # CPU seconds of all threads: two cores have six
    assert time.process_time() - start < 6.0
    assert kernel.shape == (256, 256)


# --- the conditions; values worked out by hand ---

HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("off", "expected", "satisfied"), [(0.1, 0.9975, True), (0.2, 1.045, False), (0.1 / 0.95, 1.0, False)]
)
def test_beta_modulus_of_two_pairs(off: float, expected: float, satisfied: bool) -> None:
    kernel = [[2.0, off], [off, 2.0]]
    assert ntk.beta_modulus(kernel, HALF, 0.5, 0.9) == pytest.approx(expected, abs=1e-14)
    assert ntk.cond16(kernel, HALF, 0.5)
    assert ntk.cond17(kernel, HALF, 0.9) is satisfied


@pytest.mark.parametrize(("rho", "constant"), [((1.0, 1.0, 1.0), 0.94), ((0.5, 0.3, 0.2), 0.988), ((0.5, 0.5, 0.0), 1.0)])
def test_u1_and_u2_have_their_moduli_and_reach_them(rho: tuple[float, ...], constant: float) -> None:
    """U1 (rho = 1): 1 - (1 - gamma) alpha; U2: 1 - (1 - gamma) alpha min rho, so 1 if a pair is unseen. gamma .9, alpha .6."""
    assert ntk.beta_modulus(np.eye(3), rho, 0.6, 0.9) == pytest.approx(constant, abs=1e-14)
    generator = np.random.default_rng(0)
    transitions = generator.dirichlet(np.ones(3), size=(3, 1))
    first, second = generator.normal(size=(2, 3, 1))
    task = (np.eye(3), rho, 0.6, 0.9, transitions, generator.normal(size=(3, 1)))
    change = ntk.u3(first, *task) - ntk.u3(second, *task)
    assert change.abs().max() <= constant * np.abs(first - second).max()
    apart = ntk.u3(first + 2.0, *task) - ntk.u3(first, *task)  # Qs that differ by a constant
    assert float(apart.abs().max()) == pytest.approx(2.0 * constant)


@pytest.mark.parametrize("n", [2, 7])
def test_identity_kernel(n: int) -> None:
    rho = np.full(n, 1 / n)
    assert ntk.beta_modulus(np.eye(n), rho, 0.3, 0.9) == pytest.approx(1 - 0.1 * 0.3 / n, abs=1e-14)
    assert ntk.largest_stable_learning_rate(np.eye(n), rho, 0.9) == pytest.approx(n)
    assert ntk.effective_rank(np.eye(n)) == pytest.approx(n)
    assert ntk.condition_number(np.eye(n)) == pytest.approx(1)
    assert ntk.row_ratio(np.eye(n)).tolist() == [0.0] * n


def test_conditions_are_strict() -> None:
    assert not ntk.cond16([[2.0, 0.0], [0.0, 2.0]], HALF, 1.0)
    assert ntk.cond16([[2.0, 0.0], [0.0, 2.0]], HALF, 1.0 - 1e-12)
    # a pair that is never visited is never corrected
    assert not ntk.cond17(np.eye(2), [1.0, 0.0], 0.9)
    assert ntk.beta_modulus(np.eye(2), [1.0, 0.0], 0.5, 0.9) == 1.0


def test_conditions_16_and_17_make_u3_a_contraction_and_the_modulus_bounds_it() -> None:
    rng = np.random.default_rng(0)
    n_states, n_actions, gamma = 3, 2, 0.6
    n = n_states * n_actions
    worst = 0.0
    for _ in range(50):
        features = np.eye(n) + 0.15 * rng.normal(size=(n, n))
        kernel, rho = features @ features.T, rng.dirichlet(np.full(n, 50.0))
        transitions = rng.dirichlet(np.ones(n_states), size=(n_states, n_actions))
        rewards = rng.normal(size=(n_states, n_actions))
        rate = 0.5 / (kernel.diagonal() * rho).max()
        modulus = ntk.beta_modulus(kernel, rho, rate, gamma)
        assert ntk.cond17(kernel, rho, gamma) == (modulus < 1)
        first, second = (rng.normal(size=(n_states, n_actions)) for _ in range(2))
        images = [ntk.u3(q, kernel, rho, rate, gamma, transitions, rewards) for q in (first, second)]
        ratio = float((images[0] - images[1]).abs().max()) / np.abs(first - second).max()
        assert ratio <= modulus + 1e-12
        worst = max(worst, ratio / modulus)
    assert worst > 0.6  # the bound is not vacuous


def test_u3_with_a_full_step_on_the_identity_kernel_is_the_bellman_operator() -> None:
    transitions = np.zeros((2, 2, 2))
    transitions[:, 0, 0] = transitions[:, 1, 1] = 1.0
    q = np.array([[1.0, 5.0], [2.0, -1.0]])
    image = ntk.u3(q, np.eye(4), np.full(4, 0.25), 4.0, 0.5, transitions, np.array([[0.0, 1.0], [2.0, 3.0]]))
    assert image.tolist() == [[2.5, 2.0], [4.5, 4.0]]  # r + .5 (5 or 2)
    with pytest.raises(ValueError, match="do not belong to one MDP"):
        ntk.u3(q, np.eye(2), np.full(2, 0.5), 4.0, 0.5, transitions, np.zeros((2, 2)))


def test_largest_stable_learning_rate_is_where_condition_16_ends() -> None:
    kernel = [[2.0, 0.1], [0.1, 4.0]]
    rate = ntk.largest_stable_learning_rate(kernel, HALF, 0.9)
    assert rate == 0.5
    assert ntk.beta_modulus(kernel, HALF, 0.999 * rate, 0.9) < 1
    assert not ntk.cond16(kernel, HALF, rate)
    assert ntk.largest_stable_learning_rate([[2.0, 0.2], [0.2, 2.0]], HALF, 0.9) == 0.0


def test_statistics_of_a_kernel() -> None:
    kernel = [[2.0, -1.0], [-1.0, 4.0]]
    assert ntk.row_ratio(kernel).tolist() == [0.25, 0.125]
    diagonal = np.diag([3.0, 1.0])
    # p = (3/4, 1/4): exp(-sum p log p)
    assert ntk.effective_rank(diagonal) == pytest.approx(4 / 3**0.75)
    assert ntk.condition_number(diagonal) == pytest.approx(3)
    assert ntk.condition_number([[1.0, 1.0], [1.0, 1.0]]) == np.inf
    assert ntk.effective_rank(np.zeros((2, 2))) == 0.0
    # K delta/2 = (1/2, 0) against (1, 0) is aligned; K (0, 1)/2 = (1/2, 1) against (0, 1) is not
    lower = [[1.0, 1.0], [0.0, 2.0]]
    assert ntk.update_alignment(lower, HALF, [1.0, 0.0]) == pytest.approx(1)
    assert ntk.update_alignment(lower, HALF, [0.0, 1.0]) == pytest.approx(2 / np.sqrt(5))


@pytest.mark.parametrize(("gamma", "diverges"), [(0.8, False), (0.85, True), (0.9, True)])
def test_growth_rate_of_the_tsitsiklis_van_roy_chain(gamma: float, diverges: bool) -> None:
    """Features 1 and 2, both states lead to the second: semi-gradient TD diverges for gamma > 5/6."""
    x, x_next = th.tensor([[1.0], [2.0]]).double(), th.tensor([[2.0], [2.0]]).double()
    discounts = th.full((2,), gamma, dtype=th.float64)
    kernel, next_kernel = ntk.transition_kernels(Linear(1), Transitions(x, None, th.zeros(2), discounts, x_next, None))
    growth = ntk.td_growth_rate(kernel, next_kernel, HALF, discounts)
    assert growth == pytest.approx(3 * gamma - 2.5)  # minus LSTD's A
    assert (growth > 0) is diverges
    assert ntk.td_spectral_radius(kernel, next_kernel, HALF, 0.1, discounts) == pytest.approx(1 + 0.1 * growth)


# --- bad input ---


class WithNorm(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(3, 1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.out(self.layer(x))


def test_batch_norm_in_train_mode_is_refused() -> None:
    net = WithNorm(nn.BatchNorm1d(3))
    obs, _ = batch(4)
    with pytest.raises(ValueError, match=r"BatchNorm layer 'layer'.*eval mode"):
        ntk.kernel(net, obs)
    assert ntk.kernel(net.eval(), obs).shape == (4, 4)
    with pytest.raises(ValueError, match="track_running_stats"):
        ntk.kernel(WithNorm(nn.BatchNorm1d(3, track_running_stats=False)).eval(), obs)


def test_dropout_is_switched_off_for_the_probe_and_restored() -> None:
    net = WithNorm(nn.Dropout(0.5)).train()
    net.out.eval()  # a mixture of modes must come back as it was
    obs, _ = batch(4)
    state = th.get_rng_state()
    first, second = ntk.kernel(net, obs), ntk.kernel(net, obs)
    assert th.equal(first, second)
    assert th.allclose(first, obs.double() @ obs.double().T + 1, atol=1e-6)
    assert [m.training for m in net.modules()] == [True, True, False]
    assert th.equal(state, th.get_rng_state())


def test_modes_are_restored_after_an_error() -> None:
    net = WithNorm(nn.Dropout(0.5)).train()
    with pytest.raises(ntk.NonFiniteKernelError):
        ntk.kernel(net, th.full((2, 3), float("nan")))
    assert net.layer.training


def test_non_finite_kernel_names_the_parameter() -> None:
    critic = continuous_critic([4])
    obs, act = batch(3)
    with th.no_grad():
        critic.q_networks[0][2].weight[0, 1] = float("nan")
    with pytest.raises(ntk.NonFiniteKernelError, match=r"qf0\.2\.weight.*already diverged") as raised:
        ntk.kernel(critic, obs, act)
    assert raised.value.parameter == "qf0.2.weight"
    ntk.kernel(critic, obs, act, index=1)  # the other Q is sound
    obs[1, 0] = float("inf")
    with pytest.raises(ntk.NonFiniteKernelError, match=r"rows \[1\].*parameter itself is finite"):
        ntk.kernel(critic, obs, act, index=1)


def test_arguments_that_do_not_fit_are_named() -> None:
    critic = continuous_critic([4])
    with pytest.raises(ValueError, match="index=2, but the critic has 2"):
        ntk.kernel(critic, *batch(3), index=2)
    with pytest.raises(ValueError, match=r"returned shape \(1, 3\)"):
        ntk.kernel(nn.Linear(3, 3), batch(3)[0])
    with pytest.raises(ValueError, match=r"rho \(3,\) must be"):
        ntk.beta_modulus(np.eye(2), np.ones(3) / 3, 0.1, 0.9)
    with pytest.raises(ValueError, match="finite"):
        ntk.cond17([[np.nan, 0], [0, 1]], HALF, 0.9)
    with pytest.raises(ValueError, match="negative"):
        ntk.cond17(np.eye(2), [1.5, -0.5], 0.9)


@pytest.mark.skipif(not th.cuda.is_available(), reason="no GPU")
def test_kernel_on_a_gpu() -> None:
    critic, (obs, act) = continuous_critic([32, 32]), batch(16)
    expected = ntk.kernel(critic, obs, act)
    assert th.allclose(ntk.kernel(critic.cuda(), obs.cuda(), act.cuda()).cpu(), expected, rtol=1e-4)
