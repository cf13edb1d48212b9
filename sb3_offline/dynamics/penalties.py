"""How unsure the model is of (s, a): what a penalised reward pays for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch as th

Penalty = Literal["max_std", "entropy", "relative_entropy", "ensemble_std", "pairwise_diff"]


class Forecast(NamedTuple):
    """Of (next observation - observation, reward), by M members for B rows."""

    mean: th.Tensor  # (M, B, D)
    std: th.Tensor  # (M, B, D), calibrated
    reference_std: th.Tensor  # (D,) of the error on held-out rows

    def mixture_variance(self) -> th.Tensor:
        """Of the equal mixture of the members' Gaussians, noise plus disagreement: (B, D)."""
        return self.std.square().mean(dim=0) + self.mean.var(dim=0, correction=0)


def max_std(forecast: Forecast) -> th.Tensor:
    """max_i |sigma_i|_2 (MOPO, Yu et al. 2020, section 4.3)."""
    return forecast.std.norm(dim=2).amax(dim=0)


def entropy(forecast: Forecast) -> th.Tensor:
    """
    1/2 sum_j (1 + log 2 pi sigma_j^2) (DROMO, appendix B): the entropy of the Gaussian that has the mixture's variance. It
    is negative for a small sigma, and then a penalty becomes a bonus for going on.
    """
    return 0.5 * (1 + (2 * math.pi * forecast.mixture_variance()).log()).sum(dim=1)


def relative_entropy(forecast: Forecast) -> th.Tensor:
    """sum_j 1/2 log(sigma_j^2 / sigma_ref,j^2), at least 0: nats by which the mixture is wider than its usual error."""
    return (0.5 * forecast.mixture_variance().log() - forecast.reference_std.log()).sum(dim=1).clamp(min=0)


def ensemble_std(forecast: Forecast) -> th.Tensor:
    """Root of the mean over dimensions of the members' variance about their mean (Lu et al. 2022)."""
    return forecast.mean.var(dim=0, correction=0).mean(dim=1).sqrt()


def pairwise_diff(forecast: Forecast) -> th.Tensor:
    """max_{i,k} |mu_i - mu_k|_2 (MOReL, Kidambi et al. 2020, section 4)."""
    mean = forecast.mean
    gaps = [(mean[i] - mean[k]).norm(dim=1) for i in range(len(mean)) for k in range(i)]
    return th.stack(gaps).amax(dim=0) if gaps else mean.new_zeros(mean.shape[1])


PENALTIES: dict[Penalty, Callable[[Forecast], th.Tensor]] = {
    "max_std": max_std,
    "entropy": entropy,
    "relative_entropy": relative_entropy,
    "ensemble_std": ensemble_std,
    "pairwise_diff": pairwise_diff,
}
"""u(s, a), one number a row: Forecast -> (B,)."""
