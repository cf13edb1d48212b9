"""COMBO: conservative Q-learning on data and rollouts of a learned model. Imports cql, common and below."""

from sb3_offline.combo.combo import COMBO
from sb3_offline.combo.discrete_combo import DiscreteCOMBO

__all__ = ["COMBO", "DiscreteCOMBO"]
