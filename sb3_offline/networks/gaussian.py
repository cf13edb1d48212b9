"""Normal actions: squashed by tanh into the box (SAC), or as they are (IQL, AWAC)."""

from __future__ import annotations

import math

import torch as th
import torch.nn.functional as F

# Bounds of log std. Before tanh they keep the log-density of actions at exactly +-1, which replay data holds, below
# 5 - log(2 pi)/2 - log(1 - ACTION_LIMIT^2), about 17.2 nats a dimension.
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
ACTION_LIMIT = 1.0 - 1e-6


def squashed_gaussian(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Actions tanh(mean + std noise) and their log-density (Haarnoja et al. 2018, appendix C).

    :param mean: (B, action_dim), as ``log_std``; one row a state.
    :param noise: Standard normal, (B, N, action_dim).
    :return: Actions (B, N, action_dim) and log-probabilities (B, N).
    """
    log_std = log_std.unsqueeze(1)
    pre_tanh = mean.unsqueeze(1) + log_std.exp() * noise
    return th.tanh(pre_tanh), _squashed_log_prob(noise, log_std, pre_tanh)


def squashed_gaussian_log_prob(mean: th.Tensor, log_std: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-density (B, N) of given actions (B, N, action_dim), clipped to |a| <= 1 - 1e-6; see :func:`squashed_gaussian`."""
    pre_tanh = th.atanh(actions.clamp(-ACTION_LIMIT, ACTION_LIMIT))
    log_std = log_std.unsqueeze(1)
    return _squashed_log_prob((pre_tanh - mean.unsqueeze(1)) * (-log_std).exp(), log_std, pre_tanh)


def _squashed_log_prob(noise: th.Tensor, log_std: th.Tensor, pre_tanh: th.Tensor) -> th.Tensor:
    log_prob = _normal_log_prob(noise, log_std)
    # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), stable for large |x|
    return (log_prob - 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))).sum(dim=-1)


def gaussian(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Actions mean + std noise, not clipped, and their log-density; shaped as in :func:`squashed_gaussian`."""
    log_std = log_std.unsqueeze(1)
    return mean.unsqueeze(1) + log_std.exp() * noise, _normal_log_prob(noise, log_std).sum(dim=-1)


def gaussian_log_prob(mean: th.Tensor, log_std: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-density (B, N) of given actions (B, N, action_dim); see :func:`gaussian`."""
    log_std = log_std.unsqueeze(1)
    return _normal_log_prob((actions - mean.unsqueeze(1)) * (-log_std).exp(), log_std).sum(dim=-1)


def _normal_log_prob(noise: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    return -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
