"""Behaviour cloning of discrete actions: cross-entropy."""

from __future__ import annotations

import torch as th

from sb3_offline.bc.cloning import Cloning
from sb3_offline.common.discrete_actions import DiscreteActions
from sb3_offline.networks.clones import CategoricalNetworks
from sb3_offline.networks.observations import Observations


class DiscreteBC(DiscreteActions, Cloning):
    """A categorical actor that maximises E_D log pi(a|s). ``predict`` takes the most likely action, or samples."""

    def networks(self) -> CategoricalNetworks:
        """The view of the networks that the losses get."""
        return CategoricalNetworks(self.policy, self.normalizer)

    def imitation(self, nets: CategoricalNetworks, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """-log pi(a|s) (B,) of logged actions (B, 1)."""
        return -nets.log_policy(observations).gather(1, actions).squeeze(1)
