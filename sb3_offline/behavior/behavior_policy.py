"""The behaviour policy pi_beta: a tanh-Gaussian mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_offline.buffers.moments import Moments
from sb3_offline.buffers.rows import Rows, row_blocks
from sb3_offline.networks.gaussian import ACTION_LIMIT, LOG_STD_MAX, LOG_STD_MIN


class BehaviorNoise(NamedTuple):
    """The randomness of n actions a state: ``uniform`` (B, n) picks the component, ``normal`` (B, n, A) moves in it."""

    uniform: th.Tensor
    normal: th.Tensor


def observation_moments(observations: Rows) -> tuple[th.Tensor, th.Tensor]:
    """Mean and standard deviation (D,) of observations (N, D), taken in float64; constant dimensions get std 1."""
    moments = Moments()
    for (rows,) in row_blocks(observations):
        moments.add(rows.double())
    varies = moments.std > 1e-6 * (1.0 + moments.mean.abs())
    return moments.mean.to(rows.dtype), th.where(varies, moments.std, 1.0).to(rows.dtype)


class BehaviorNetwork(nn.Module):
    """What behaviour policies share: the observations' statistics, and whether they have been fitted."""

    obs_mean: th.Tensor
    obs_std: th.Tensor
    fitted: th.Tensor

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.register_buffer("obs_mean", th.zeros(observation_dim))
        self.register_buffer("obs_std", th.ones(observation_dim))
        self.register_buffer("fitted", th.tensor(False))

    def standardize(self, observations: th.Tensor) -> th.Tensor:
        """Observations (B, D) as the network sees them."""
        return (observations - self.obs_mean) / self.obs_std


class BehaviorPolicy(BehaviorNetwork):
    """pi_beta(a|s) = sum_k w_k(s) tanh-Normal(a; mu_k(s), sigma_k(s)), over actions scaled to [-1, 1].

    A mixture, since one Gaussian fitted to several behaviours spreads over the gaps between them: too much variance.
    The dimensions of an action are independent within a component; log sigma lies in [-5, 2], by a smooth map.

    :param observation_dim: D, observations are (B, D)
    :param action_dim: A
    :param n_components: K; 1 is a plain tanh-Gaussian
    :param hidden_sizes: widths of the ReLU layers
    :param generator: CPU generator, the only source of the initial weights
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        n_components: int = 5,
        hidden_sizes: Sequence[int] = (256, 256),
        generator: th.Generator,
    ) -> None:
        if min(observation_dim, action_dim, n_components, *hidden_sizes) < 1:
            raise ValueError(
                "observation_dim, action_dim, n_components and hidden_sizes must be at least 1, got "
                f"{observation_dim}, {action_dim}, {n_components} and {tuple(hidden_sizes)}"
            )
        super().__init__(observation_dim, action_dim)
        self.n_components = n_components
        layers: list[nn.Module] = []
        width = observation_dim
        for size in hidden_sizes:
            layers += [linear(width, size, generator), nn.ReLU()]
            width = size
        self.trunk = nn.Sequential(*layers)
        self.logits = linear(width, n_components, generator)
        self.mean = linear(width, n_components * action_dim, generator)
        self.log_std = linear(width, n_components * action_dim, generator)
        nn.init.normal_(self.mean.bias, generator=generator)  # components that start together stay together

    def forward(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """The mixture at observations (B, D): logits (B, K); mean and log std before tanh, (B, K, A)."""
        hidden = self.trunk(self.standardize(observations))
        shape = (-1, self.n_components, self.action_dim)
        squashed = th.tanh(self.log_std(hidden)).reshape(shape)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (squashed + 1.0)
        return self.logits(hidden), self.mean(hidden).reshape(shape), log_std

    def log_prob(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """log pi_beta(a|s) (B,) of actions (B, A), clipped to |a| <= 1 - 1e-6, at observations (B, D)."""
        logits, mean, log_std = self(observations)
        u = th.atanh(actions.clamp(-ACTION_LIMIT, ACTION_LIMIT)).unsqueeze(1)
        normal = -0.5 * ((u - mean) * th.exp(-log_std)).square() - log_std - 0.5 * math.log(2.0 * math.pi)
        jacobian = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2)
        return th.logsumexp(F.log_softmax(logits, dim=1) + (normal - jacobian).sum(dim=2), dim=1)

    def draw_noise(self, batch_size: int, n: int, generator: th.Generator) -> BehaviorNoise:
        """Noise for ``n`` actions at each of ``batch_size`` states, drawn on the generator's device."""
        device, dtype = generator.device, self.obs_mean.dtype
        return BehaviorNoise(
            th.rand(batch_size, n, generator=generator, device=device, dtype=dtype),
            th.randn(batch_size, n, self.action_dim, generator=generator, device=device, dtype=dtype),
        )

    @th.no_grad()
    def sample_from_noise(self, observations: th.Tensor, noise: BehaviorNoise) -> th.Tensor:
        """Actions (B, n, A) at observations (B, D): a pure function, one forward a state, no gradient."""
        logits, mean, log_std = self(observations)
        edges = th.softmax(logits, dim=1).cumsum(dim=1)[:, None, :-1]
        component = (noise.uniform.unsqueeze(2) >= edges).sum(dim=2)
        index = component.unsqueeze(2).expand(-1, -1, self.action_dim)
        return th.tanh(mean.gather(1, index) + log_std.gather(1, index).exp() * noise.normal)

    def sample(self, observations: th.Tensor, n: int, generator: th.Generator) -> th.Tensor:
        """``n`` actions a state, (B, n, A), at observations (B, D)."""
        noise = self.draw_noise(len(observations), n, generator)
        return self.sample_from_noise(observations, BehaviorNoise(*(x.to(observations.device) for x in noise)))

    @th.no_grad()
    def mode(self, observations: th.Tensor) -> th.Tensor:
        """The behaviour clone's action (B, A): tanh of the mean of the heaviest component."""
        logits, mean, _ = self(observations)
        return th.tanh(mean[th.arange(len(mean), device=mean.device), logits.argmax(dim=1)])


def linear(n_in: int, n_out: int, generator: th.Generator) -> nn.Linear:
    """torch's usual U(+-1/sqrt(n_in)) initialisation, from ``generator`` alone."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(n_in**-0.5), n_in**-0.5, generator=generator)
    return layer
