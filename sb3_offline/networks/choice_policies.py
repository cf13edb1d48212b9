"""Policies that choose among the combinations of an action's parts, and SB3's DQN policies as such."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn import policies as sb3
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from sb3_offline.networks.aliases import by_alias
from sb3_offline.networks.choices import Choices, masked


class ChoosingPolicy(BasePolicy):
    """
    Beside a policy whose network scores every combination; ``predict`` gives the environment's own actions, and chooses among
    those that ``action_masks`` allow.
    """

    samples: bool = False  # whether the scores are log-probabilities by which it draws, if it is not deterministic
    table: th.Tensor

    def __init__(self, observation_space: spaces.Space, action_space: Any, lr_schedule: Schedule, **kwargs: Any):
        self.choices = Choices(action_space)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        table = th.as_tensor(self.choices.table(), device=self.device)
        self.register_buffer("table", table, persistent=False)

    def scores(self, obs: PyTorchObs, allowed: th.Tensor | None) -> th.Tensor:
        """What speaks for each combination, (B, n_actions); -inf where it is not ``allowed`` (likewise)."""
        raise NotImplementedError

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        As in SB3.

        :param action_masks: as sb3-contrib's ``MaskablePPO`` takes them: 1 or True where an action may be chosen, one row a
            state; of several parts one after the other
        :raises ValueError: for masks of another shape, or that allow nothing
        """
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        return predict_masked(self, observation, action_masks, deterministic), state

    def _predict(self, obs: PyTorchObs, deterministic: bool = True, allowed: th.Tensor | None = None) -> th.Tensor:
        scores = self.scores(obs, allowed)
        drawn = self.samples and not deterministic
        numbers = th.multinomial(scores.exp(), 1).squeeze(1) if drawn else scores.argmax(dim=1)
        return numbers if self.choices.plain else self.table[numbers]


def predict_masked(policy: Any, observation: Any, action_masks: Any, deterministic: bool) -> np.ndarray:
    """
    What a :class:`ChoosingPolicy`, or a policy of SB3's DQN, chooses among the allowed actions.

    :param action_masks: (n, m), or of one state (m,), as :meth:`ChoosingPolicy.predict` takes them
    :raises ValueError: for masks of another shape, or that allow nothing
    """
    policy.set_training_mode(False)
    rows, several = policy.obs_to_tensor(observation)
    n = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
    allowed = th.as_tensor(Choices(policy.action_space).allowed(action_masks, n), device=policy.device)
    with th.no_grad():
        actions = choose_allowed(policy, rows, allowed, deterministic).cpu().numpy()
    return actions if several else actions[0]


def choose_allowed(policy: Any, obs: PyTorchObs, allowed: th.Tensor, deterministic: bool = True) -> th.Tensor:
    """The environment's actions, (B, ...), among the ``allowed`` combinations, (B, n_actions) bool."""
    if isinstance(policy, ChoosingPolicy):
        return policy._predict(obs, deterministic, allowed)
    return masked(policy.q_net(obs), allowed).argmax(dim=1)  # SB3's, of actions that are their own numbers


class ChoicePolicy(ChoosingPolicy, DQNPolicy):
    """SB3's ``DQNPolicy``, whose Q-network has one output for each combination."""

    features: type[BaseFeaturesExtractor] = FlattenExtractor  # unless another one is asked for

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("features_extractor_class", self.features)
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        arguments = {**self.net_args, "action_space": spaces.Discrete(self.choices.n)}
        return QNetwork(**self._update_features_extractor(arguments, features_extractor=None)).to(self.device)

    def scores(self, obs: PyTorchObs, allowed: th.Tensor | None) -> th.Tensor:
        return masked(self.q_net(obs), allowed)


CHOICE_POLICIES = by_alias(ChoicePolicy)
_, ChoiceCnnPolicy, ChoiceMultiInputPolicy = CHOICE_POLICIES.values()

#: What takes the place of SB3's own, whose networks have the same weights, where actions are not their own numbers.
IN_PLACE_OF: dict[type[BasePolicy], type[BasePolicy]] = {
    sb3.DQNPolicy: ChoicePolicy,
    sb3.CnnPolicy: ChoiceCnnPolicy,
    sb3.MultiInputPolicy: ChoiceMultiInputPolicy,
}
