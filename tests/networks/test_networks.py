import math

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.sac.policies import SACPolicy
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from sb3_offline.networks.networks import SACNetworks, identity, squashed_gaussian


@pytest.fixture
def policy() -> SACPolicy:
    th.manual_seed(0)
    return SACPolicy(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,)), lambda _: 1e-3, net_arch=[16, 16])


def test_squashed_gaussian_matches_torch_distributions() -> None:
    generator = th.Generator().manual_seed(0)
    mean, log_std = th.randn(5, 2, generator=generator), 0.3 * th.randn(5, 2, generator=generator) - 0.5
    noise = th.randn(5, 7, 2, generator=generator)
    actions, log_prob = squashed_gaussian(mean, log_std, noise)
    base = Independent(Normal(mean.unsqueeze(1), log_std.exp().unsqueeze(1)), 1)
    reference = TransformedDistribution(base, TanhTransform(cache_size=1))
    pre_tanh = mean.unsqueeze(1) + log_std.exp().unsqueeze(1) * noise
    th.testing.assert_close(actions, th.tanh(pre_tanh))
    jacobian = th.log1p(-actions.double().square()).sum(-1)
    th.testing.assert_close(log_prob.double(), base.log_prob(pre_tanh).double() - jacobian, rtol=1e-4, atol=1e-4)
    th.testing.assert_close(log_prob, reference.log_prob(actions), rtol=1e-3, atol=1e-3)


def test_log_prob_of_a_known_action() -> None:
    # mean 0, std 1, noise 0: density of the Gaussian at 0, and the Jacobian of tanh is 1 there
    _, log_prob = squashed_gaussian(th.zeros(1, 1), th.zeros(1, 1), th.zeros(1, 1, 1))
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi), abs=1e-6)


def test_log_prob_depends_on_the_action() -> None:
    _, log_prob = squashed_gaussian(th.zeros(1, 1), th.zeros(1, 1), th.tensor([[[0.0], [1.0]]]))
    # at x = 1: -1/2 - log sqrt(2 pi) - log(1 - tanh(1)^2)
    expected = -0.5 - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(1.0) ** 2)
    assert log_prob[0, 1].item() == pytest.approx(expected, abs=1e-5)
    assert log_prob[0, 0] != log_prob[0, 1]


def test_density_integrates_to_one() -> None:
    # E_uniform[pi(a)] * 2 = 1 on [-1, 1]; substitute a = tanh(x), x on a grid
    x = th.linspace(-12, 12, 20001, dtype=th.float64)
    mean, log_std = th.tensor([[0.3]], dtype=th.float64), th.tensor([[-0.4]], dtype=th.float64)
    noise = ((x - mean[0]) / log_std.exp()[0]).view(1, -1, 1)
    actions, log_prob = squashed_gaussian(mean, log_std, noise)
    assert th.trapezoid(log_prob[0].exp(), actions[0, :, 0]).item() == pytest.approx(1.0, abs=1e-6)


def test_networks_agree_with_sb3(policy: SACPolicy) -> None:
    nets = SACNetworks(policy, identity)
    observations = th.randn(4, 3)
    actions = th.rand(4, 6, 2) * 2 - 1
    values = nets.q(observations, actions)
    assert values.shape == (2, 4, 6)
    for n in range(6):
        expected = th.stack(policy.critic(observations, actions[:, n])).squeeze(-1)
        th.testing.assert_close(values[:, :, n], expected)
    mean, _, _ = policy.actor.get_action_dist_params(observations)
    sampled, _ = nets.sample(observations, th.zeros(4, 1, 2))
    th.testing.assert_close(sampled[:, 0], th.tanh(mean))
    th.testing.assert_close(sampled[:, 0], policy.actor(observations, deterministic=True))
