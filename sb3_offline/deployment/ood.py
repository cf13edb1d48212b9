"""How far (s, a) lies from the data: by the state, by the behaviour policy, and by the dynamics model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from torch import nn

from sb3_offline.behavior.behavior_fit import behavior_optimizer, fit_behavior_policy
from sb3_offline.behavior.behavior_policy import BehaviorPolicy
from sb3_offline.dynamics import Forecast
from sb3_offline.dynamics.penalties import ensemble_std

if TYPE_CHECKING:
    from sb3_offline.dynamics import EnsembleDynamics

N_QUANTILES = 1001
_MAX_ROWS = 20_000  # of the data, on which the quantiles are taken


class OODDetector(nn.Module):
    """
    Three measures of strangeness, each compared with its own distribution on the data:

    ``state``: the Mahalanobis distance of s; ``action``: -log pi_beta(a|s); ``dynamics``: the spread of the ensemble's
    predictions at (s, a), where there is an ensemble.

    Its quantiles are buffers, saved with the model. The behaviour policy is part of it; the ensemble is passed in.

    :param observation_dim: D, of flattened observations.
    :param action_dim: A.
    :param generator: CPU generator of the behaviour policy's first weights.
    """

    mean: th.Tensor
    whitening: th.Tensor
    quantiles: th.Tensor
    fitted: th.Tensor

    def __init__(self, observation_dim: int, action_dim: int, *, generator: th.Generator):
        super().__init__()
        self.behavior_policy = BehaviorPolicy(observation_dim, action_dim, generator=generator)
        self.register_buffer("mean", th.zeros(observation_dim))
        self.register_buffer("whitening", th.eye(observation_dim))
        self.register_buffer("quantiles", th.zeros(3, N_QUANTILES))
        self.register_buffer("fitted", th.tensor(False))

    def fit(
        self,
        observations: th.Tensor,
        actions: th.Tensor,
        raw_actions: th.Tensor,
        dynamics: EnsembleDynamics | None,
        generator: th.Generator,
        **behavior_kwargs: Any,
    ) -> None:
        """
        Fit pi_beta and the quantiles to data.

        :param observations: (N, D), raw.
        :param actions: (N, A), scaled to [-1, 1].
        :param raw_actions: (N, A), as the dynamics model takes them.
        :param behavior_kwargs: Of :func:`~sb3_offline.behavior.behavior_fit.fit_behavior_policy`.
        """
        optimizer = behavior_optimizer(self.behavior_policy)
        fit_behavior_policy(self.behavior_policy, optimizer, observations, actions, generator=generator, **behavior_kwargs)
        rows = th.randperm(len(observations), generator=generator)[:_MAX_ROWS].to(observations.device)
        sample = observations[rows].double()
        self.mean = sample.mean(dim=0).to(self.mean)
        covariance = th.atleast_2d(th.cov(sample.T))
        values, vectors = th.linalg.eigh(covariance)
        # a direction in which the data never moves counts as moving a thousandth of the widest one
        floor = 1e-6 * values.max().clamp(min=1e-12)
        self.whitening = (vectors * values.clamp(min=floor).rsqrt()).to(self.whitening)
        measures = self.measures(observations[rows], actions[rows], raw_actions[rows], dynamics)
        levels = th.linspace(0, 1, N_QUANTILES, device=measures.device, dtype=measures.dtype)
        self.quantiles = th.quantile(measures, levels, dim=1).T.contiguous()
        self.fitted = th.tensor(True, device=self.fitted.device)

    @th.no_grad()
    def measures(
        self, observations: th.Tensor, actions: th.Tensor, raw_actions: th.Tensor, dynamics: EnsembleDynamics | None
    ) -> th.Tensor:
        """State, action and dynamics measure, larger is stranger: (3, B); the last is 0 without dynamics."""
        state = ((observations - self.mean) @ self.whitening).norm(dim=1)
        action = -self.behavior_policy.log_prob(observations, actions)
        if dynamics is None:
            return th.stack([state, action, th.zeros_like(state)])
        mean, std = dynamics.moments(observations, raw_actions)
        # in units of each dimension's usual error, so that no unit decides
        reference = dynamics.residual_std.clamp(min=1e-12)
        return th.stack([state, action, ensemble_std(Forecast(mean / reference, std / reference, th.ones_like(reference)))])

    def ranks(
        self, observations: th.Tensor, actions: th.Tensor, raw_actions: th.Tensor, dynamics: EnsembleDynamics | None
    ) -> th.Tensor:
        """The share of the data that each measure finds less strange than (s, a): (3, B) in [0, 1]."""
        if not bool(self.quantiles[2].any()):  # fitted when there were no dynamics to compare with
            dynamics = None
        measures = self.measures(observations, actions, raw_actions, dynamics).contiguous()
        below = th.searchsorted(self.quantiles.to(measures), measures)  # quantiles that are smaller
        ranks = (below - 1).clamp(min=0) / (N_QUANTILES - 1)
        return th.where(below >= N_QUANTILES, 1.0, ranks)
