"""The policy's own critic at the first states: free, and as optimistic as the training was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_offline.buffers.buffers import scale_actions
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope.estimate import Estimate, Estimator, first_rows
from sb3_offline.ope.policy import EvaluatedPolicy


@dataclass(kw_only=True)
class DirectMean(Estimator):
    """
    The mean of min_j Q_j(s0, pi(s0)) over the logged episodes' first states, in the task's own reward. The discount is the
    model's, whatever ``gamma`` says. The interval is that of the first states alone: the critic's own error, which is most of
    it, does not show.
    """

    name: ClassVar[str] = "DirectMean"

    def _estimate(self, policy: EvaluatedPolicy, dataset: OfflineDataset) -> Estimate:
        model = policy.source
        if not isinstance(model, BaseAlgorithm):
            raise ValueError(f"DirectMean asks a model's critic; {type(model).__name__} is no model. Use FQE.")
        gamma = float(vars(model)["gamma"])
        states = dataset.observations[first_rows(dataset)]
        values = _critic_values(policy, states)
        scale, shift = float(getattr(model, "reward_factor", 1.0)), float(getattr(model, "reward_shift", 0.0))
        if shift != 0 and bool(dataset.terminations.any()):
            raise ValueError(
                "DirectMean cannot take reward_shift out of Q where episodes end: how long they last is not known. Use FQE."
            )
        values = (values - shift / (1 - gamma)) / scale
        interval = self._bootstrap(lambda counts: counts @ values / len(values), len(values))
        result = self._result(values.mean(), interval, values, {})
        return Estimate(**{**vars(result), "gamma": gamma})


@th.no_grad()
def _critic_values(policy: EvaluatedPolicy, states: np.ndarray) -> np.ndarray:
    network: Any = policy.policy
    seen = policy._tensor(states)
    if isinstance(network, DQNPolicy):
        return network.q_net(seen).amax(dim=1).double().cpu().numpy()
    if isinstance(network, ActorCriticPolicy):
        return network.predict_values(seen).flatten().double().cpu().numpy()
    if not hasattr(network, "critic"):
        raise ValueError(f"DirectMean: {type(network).__name__} has no critic. Use FQE.")
    actions = th.as_tensor(scale_actions(policy.actions(states), policy.action_space), device=network.device)
    return th.cat(network.critic(seen, actions), dim=1).amin(dim=1).double().cpu().numpy()
