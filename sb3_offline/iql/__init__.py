"""Implicit Q-learning. Imports common and below."""

from sb3_offline.iql.discrete_iql import DiscreteIQL
from sb3_offline.iql.iql import IQL

__all__ = ["IQL", "DiscreteIQL"]
