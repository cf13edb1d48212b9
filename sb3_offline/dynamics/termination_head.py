"""A classifier of (s, a, s') that says when an imagined episode ends, for tasks whose rule nobody wrote down."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import torch as th
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class TerminationReport:
    """
    The head on rows that neither its weights nor its threshold have seen.

    ``precision`` is the share of rows called terminal that are, ``recall`` the share of terminal rows that are called so,
    ``brier`` the mean squared error of the probability, ``calibration_gap`` the difference between the mean probability and
    the share of terminal rows.
    """

    precision: float
    recall: float
    brier: float
    calibration_gap: float
    threshold: float
    n_terminal: int
    n_rows: int


class TerminationHead(nn.Module):
    """
    Probability that (s, a, s') ends the episode: a small network on standardised (s, a, s'), whose logit is recalibrated
    (Platt 1999) because it is trained on more terminal rows than there are.

    :param observation_dim: length of a flat observation
    :param action_dim: length of a flat action
    :param hidden_sizes: widths of the hidden layers
    :param generator: a CPU generator that initialises the weights
    """

    fitted: th.Tensor  # () bool
    input_mean: th.Tensor  # (2 observation_dim + action_dim,)
    input_std: th.Tensor
    mask: th.Tensor  # 1 for the inputs that are looked at
    platt: th.Tensor  # (2,) slope and intercept of the recalibrated logit
    threshold: th.Tensor  # () of the recalibrated probability
    figures: th.Tensor  # (7,) of TerminationReport

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_sizes: tuple[int, ...] = (64, 64),
        generator: th.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = th.Generator().manual_seed(0) if generator is None else generator
        sizes = [2 * observation_dim + action_dim, *hidden_sizes, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in pairwise(sizes):
            weight = th.randn(n_in, n_out, generator=generator) / n_in**0.5
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(th.zeros(n_out)))
        self.register_buffer("fitted", th.tensor(False))
        self.register_buffer("input_mean", th.zeros(sizes[0]))
        self.register_buffer("input_std", th.ones(sizes[0]))
        self.register_buffer("mask", th.ones(sizes[0]))
        self.register_buffer("platt", th.tensor([1.0, 0.0]))
        self.register_buffer("threshold", th.tensor(0.5))
        self.register_buffer("figures", th.zeros(7, dtype=th.float64))

    def logits(self, inputs: th.Tensor) -> th.Tensor:
        """The network itself: (B, 2 observation_dim + action_dim), environment units -> (B,)."""
        hidden = self.mask * (inputs - self.input_mean) / self.input_std
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = F.silu(th.addmm(bias, hidden, weight))
        return th.addmm(self.biases[-1], hidden, self.weights[-1]).squeeze(1)

    @th.no_grad()
    def probability(self, observations: th.Tensor, actions: th.Tensor, next_observations: th.Tensor) -> th.Tensor:
        """P(terminal | s, a, s'), (B,)."""
        return self.probability_of(th.cat([observations, actions, next_observations], dim=1))

    @th.no_grad()
    def probability_of(self, inputs: th.Tensor) -> th.Tensor:
        """The same for joined (s, a, s')."""
        return th.sigmoid(self.platt[0] * self.logits(inputs) + self.platt[1])

    def forward(self, observations: th.Tensor, actions: th.Tensor, next_observations: th.Tensor) -> th.Tensor:
        """Whether (s, a, s') ends the episode, (B,) bool."""
        return self.probability(observations, actions, next_observations) >= self.threshold

    def report(self) -> TerminationReport | None:
        """How it did on rows that it had not seen; None before the fit."""
        if not self.fitted:
            return None
        figures = dict(zip((field.name for field in fields(TerminationReport)), self.figures.tolist(), strict=True))
        counts = {name: int(figures.pop(name)) for name in ("n_terminal", "n_rows")}
        return TerminationReport(**figures, **counts)
