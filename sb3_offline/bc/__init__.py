"""Behaviour cloning. Imports common and below."""

from sb3_offline.bc.bc import BC
from sb3_offline.bc.discrete_bc import DiscreteBC

__all__ = ["BC", "DiscreteBC"]
