"""Behaviour cloning of discrete actions: cross-entropy."""

from __future__ import annotations

from typing import ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_offline.bc.cloning import Cloning
from sb3_offline.common.discrete_actions import DiscreteActions
from sb3_offline.common.validation import Validation
from sb3_offline.networks.choices import renormalized
from sb3_offline.networks.clones import CHOOSING_CLONE_POLICIES, CategoricalNetworks
from sb3_offline.networks.networks import Batch


class DiscreteBC(DiscreteActions, Cloning):
    """A categorical actor that maximises E_D log pi(a|s). ``predict`` takes the most likely action, or samples."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = CHOOSING_CLONE_POLICIES

    def networks(self) -> CategoricalNetworks:
        """The view of the networks that the losses get."""
        return CategoricalNetworks(self.policy, self.normalizer)

    def imitation(self, nets: CategoricalNetworks, rows: Batch | Validation) -> th.Tensor:
        """-log pi(a|s) (B,) of the rows' own actions, among those that their masks allow."""
        return -renormalized(nets.log_policy(rows.observations), rows.masks).gather(1, rows.actions).squeeze(1)
