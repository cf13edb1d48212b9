"""A probabilistic ensemble as the model of the world: PETS (Chua et al. 2018, arXiv 1805.12114) with MBPO's sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_offline.buffers.moments import Moments
from sb3_offline.buffers.rows import Rows, row_blocks
from sb3_offline.dynamics.calibration import CalibrationMaps
from sb3_offline.dynamics.end_reward import EndReward
from sb3_offline.dynamics.termination_head import TerminationHead

FLOAT32_ROUNDING = 1e-6  # relative; what varies less is constant
MAX_HOLDOUT_ROWS = 1000
CPU_BLOCK_ROWS = 1024  # rows per member evaluated at once: activations that stay in the cache are twice as fast


class ModelSample(NamedTuple):
    """One sampled step for B rows; ``mean`` and ``std`` are the sampled member's, before any calibration."""

    next_observations: th.Tensor  # (B, observation_dim), environment units
    rewards: th.Tensor  # (B,)
    mean: th.Tensor  # (B, observation_dim + 1): of (next observation - observation, reward)
    std: th.Tensor  # (B, observation_dim + 1)
    members: th.Tensor  # (B,) which member moved each row


def weight_decay_per_layer(weight_decay: float | Sequence[float] | None, n_layers: int) -> tuple[float, ...]:
    """
    One coefficient a layer. None takes those of MBPO (Janner et al. 2019), stretched or cut in the middle for other
    depths than its five layers.

    :raises ValueError: the number of values is not that of the layers, or one is negative
    """
    if weight_decay is None:
        rising = [2.5e-5, 5e-5, *[7.5e-5] * (n_layers - 3)]
        return (*rising[: n_layers - 1], 1e-4)
    decays = (weight_decay,) * n_layers if isinstance(weight_decay, (int, float)) else tuple(weight_decay)
    if len(decays) != n_layers or not min(decays) >= 0:
        raise ValueError(
            f"weight_decay must be one number >= 0, or one for each of the {n_layers} layers (one more than "
            f"hidden_sizes); got {weight_decay}."
        )
    return decays


def complete(state: dict[str, Any], prefix: str = "") -> None:
    """Add what a model of earlier versions did not keep: it knew one reward of all ends, or none."""
    own = f"{prefix}end_reward"
    if f"{own}.paid" not in state and f"{prefix}target_mean" in state:
        earlier = EndReward.everywhere(len(state[f"{prefix}target_mean"]) - 1, float(state.pop(own, 0.0)))
        state.update((f"{own}.{name}", value) for name, value in earlier.state_dict().items())


class EnsembleDynamics(nn.Module):
    """
    (s, a) -> Gaussian over (s' - s, r), by ``n_members`` swish networks whose weights are stacked along a first
    dimension, so that one batched product evaluates all of them.

    Everything is in environment units; normalisers of inputs and targets (buffers, set by the fit) sit inside. The
    log-variance of a standardised target is kept between soft bounds, which start at MBPO's 0.5 and -10 and are learned
    per member, so that no member's parameter depends on another's.

    :param observation_dim: length of a flat observation
    :param action_dim: length of a flat action
    :param n_members: number of networks that are trained
    :param n_elites: number of networks that :meth:`sample` uses, the best on held-out data
    :param hidden_sizes: widths of the hidden layers, () for a linear model
    :param weight_decay: coefficient of 0.5 |W|^2 in the loss for each of the ``len(hidden_sizes) + 1`` weight matrices,
        or one float for all; None takes MBPO's values
    :param termination_head: a classifier that ends imagined episodes, kept with the model; None for a rule, or for no end
    :param generator: a CPU generator that initialises the weights; None is a generator with seed 0
    :raises ValueError: for sizes that do not fit together
    """

    input_mean: th.Tensor  # (observation_dim + action_dim,)
    input_std: th.Tensor
    target_mean: th.Tensor  # (observation_dim + 1,)
    target_std: th.Tensor
    elites: th.Tensor  # (n_elites,) int64, best first
    fitted: th.Tensor  # () bool
    residual_std: th.Tensor  # (observation_dim + 1,) of the members' mean prediction on held-out rows
    holdout_rows: th.Tensor  # (MAX_HOLDOUT_ROWS,) int64, rows of the data that were held out, then -1
    test_every: th.Tensor  # () int64: every so many episodes one was kept from all fits; 0 for none
    max_logvar: nn.Parameter  # (n_members, 1, observation_dim + 1)
    min_logvar: nn.Parameter

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        n_members: int = 7,
        n_elites: int = 5,
        hidden_sizes: Sequence[int] = (200, 200, 200, 200),
        weight_decay: float | Sequence[float] | None = None,
        termination_head: TerminationHead | None = None,
        generator: th.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= n_elites <= n_members:
            raise ValueError(f"n_elites must lie in 1..n_members={n_members}, got {n_elites}.")
        self.observation_dim, self.action_dim, self.n_members = observation_dim, action_dim, n_members
        sizes = [observation_dim + action_dim, *hidden_sizes, 2 * (observation_dim + 1)]
        self.weight_decay = weight_decay_per_layer(weight_decay, len(sizes) - 1)

        generator = th.Generator().manual_seed(0) if generator is None else generator
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in pairwise(sizes):
            weight, std = th.empty(n_members, n_in, n_out), 0.5 / n_in**0.5
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(th.zeros(n_members, 1, n_out)))
        self.max_logvar = nn.Parameter(th.full((n_members, 1, observation_dim + 1), 0.5))
        self.min_logvar = nn.Parameter(th.full((n_members, 1, observation_dim + 1), -10.0))

        self.register_buffer("input_mean", th.zeros(sizes[0]))
        self.register_buffer("input_std", th.ones(sizes[0]))
        self.register_buffer("target_mean", th.zeros(observation_dim + 1))
        self.register_buffer("target_std", th.ones(observation_dim + 1))
        self.register_buffer("elites", th.arange(n_elites))
        self.register_buffer("fitted", th.tensor(False))
        self.register_buffer("residual_std", th.ones(observation_dim + 1))
        self.register_buffer("holdout_rows", th.full((MAX_HOLDOUT_ROWS,), -1))
        self.register_buffer("test_every", th.tensor(0))
        self.calibration = CalibrationMaps(n_members, observation_dim + 1)
        self.end_reward = EndReward(observation_dim)  # what a transition that ends pays beside what the networks say
        self.termination_head = termination_head

    @property
    def device(self) -> th.device:
        return self.input_mean.device

    def member_parameters(self) -> list[nn.Parameter]:
        """What the ensemble's fit trains; the first dimension of each is the member."""
        return [self.max_logvar, self.min_logvar, *self.weights, *self.biases]

    @th.no_grad()
    def fit_normalizers(
        self,
        observations: Rows,
        actions: Rows,
        next_observations: Rows,
        rewards: Rows,
        rows: th.Tensor | None = None,
    ) -> None:
        """
        Standardise inputs and targets as these n transitions ask, or those of them that ``rows`` (k,) names.

        A constant input is only centred, lest a rollout's slightest deviation be blown up. A constant target gets the
        scale of its rounding, so that samples of it stay constant.
        """
        inputs, targets, following = Moments(), Moments(), Moments()
        for block in row_blocks(observations, actions, next_observations, rewards, order=rows):
            observation, action, next_observation, reward = block
            reward = reward.reshape(-1, 1)
            inputs.add(th.cat([observation, action], dim=1))
            targets.add(th.cat([next_observation - observation, reward], dim=1))
            following.add(th.cat([next_observation, reward], dim=1))
        self.input_mean.copy_(inputs.mean)
        self.input_std.copy_(th.where(inputs.std <= FLOAT32_ROUNDING * inputs.largest, 1.0, inputs.std))
        self.target_mean.copy_(targets.mean)
        rounding = FLOAT32_ROUNDING * following.largest
        self.target_std.copy_(targets.std.clamp(min=rounding.clamp(min=FLOAT32_ROUNDING**2)))

    def normalize(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """(..., observation_dim) and (..., action_dim) -> standardised inputs (..., observation_dim + action_dim)."""
        return (th.cat([observations, actions], dim=-1) - self.input_mean) / self.input_std

    def networks(self, inputs: th.Tensor, members: th.Tensor | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        The stacked networks themselves.

        :param inputs: (M, B, observation_dim + action_dim), standardised; row m goes to network m
        :param members: (M,) which networks to evaluate, None for all in order
        :return: mean and log-variance of the standardised targets, (M, B, observation_dim + 1) each
        """

        def pick(parameter: th.Tensor) -> th.Tensor:
            return parameter if members is None else parameter.index_select(0, members)

        hidden = inputs
        *inner, (last_weight, last_bias) = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            hidden = F.silu(th.baddbmm(pick(bias), hidden, pick(weight)))
        with th.autocast(hidden.device.type, enabled=False):  # the forecasts themselves keep their precision
            hidden = th.baddbmm(pick(last_bias), hidden.to(last_weight.dtype), pick(last_weight))
        mean, logvar = hidden.chunk(2, dim=-1)
        max_logvar, min_logvar = pick(self.max_logvar), pick(self.min_logvar)
        logvar = max_logvar - F.softplus(max_logvar - logvar)
        return mean, min_logvar + F.softplus(logvar - min_logvar)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As torch's, of earlier versions, too."""
        complete(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Every member's Gaussian.

        :param observations: (B, observation_dim) for all members, or (n_members, B, observation_dim)
        :param actions: the same, with action_dim, in environment units
        :return: mean and log-variance of (next observation - observation, reward), (n_members, B, observation_dim + 1)
        """
        mean, logvar = self.networks(self.normalize(observations, actions).expand(self.n_members, -1, -1))
        return mean * self.target_std + self.target_mean, logvar + 2 * self.target_std.log()

    @th.no_grad()
    def moments(self, observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Every member's calibrated mean and standard deviation of (next observation - observation, reward), shaped as in
        :meth:`forward`; evaluated in blocks of rows.
        """
        block = max(len(observations), 1) if observations.is_cuda else CPU_BLOCK_ROWS
        parts = [self(*rows) for rows in zip(observations.split(block), actions.split(block), strict=True)]
        mean, logvar = (th.cat(part, dim=1) for part in zip(*parts, strict=True))
        std = (0.5 * logvar).exp()
        return mean + std * self.calibration.shift[:, None], std * self.calibration.scale[:, None]

    @th.no_grad()
    def sample(self, observations: th.Tensor, actions: th.Tensor, generator: th.Generator) -> ModelSample:
        """
        One step: a random elite per row, then a draw from its Gaussian, calibrated if the model is.

        The B rows are dealt at random into ``n_elites`` hands of equal size, so only the elite that a row was dealt to
        is evaluated. Each row's elite is uniform; between rows it is stratified instead of independent.

        :param observations: (B, observation_dim)
        :param actions: (B, action_dim), in environment units
        :param generator: source of the elites and of the noise, on this model's device
        """
        inputs = self.normalize(observations, actions)
        n_rows, n_elites = len(inputs), len(self.elites)
        hand = -(-n_rows // n_elites)
        seats = th.randperm(hand * n_elites, generator=generator, device=generator.device)[:n_rows].to(self.device)
        dealt = inputs.new_zeros(hand * n_elites, inputs.shape[1]).index_copy_(0, seats, inputs)

        block = hand if dealt.is_cuda else CPU_BLOCK_ROWS
        blocks = dealt.view(n_elites, hand, -1).split(block, dim=1)
        means, logvars = zip(*(self.networks(rows, self.elites) for rows in blocks), strict=True)
        mean = th.cat(means, dim=1).flatten(0, 1).index_select(0, seats) * self.target_std + self.target_mean
        logvar = th.cat(logvars, dim=1).flatten(0, 1).index_select(0, seats)
        std = (0.5 * logvar).exp() * self.target_std

        noise = th.randn(mean.shape, generator=generator, device=generator.device).to(mean)
        members = self.elites[seats.div(hand, rounding_mode="floor")]
        drawn = mean + std * self.calibration(noise, members)
        return ModelSample(observations + drawn[:, :-1], drawn[:, -1], mean, std, members)
