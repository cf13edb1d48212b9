"""Conservative Q-learning, and the penalty that COMBO and DROMO share. Imports common and below."""

from sb3_offline.cql.cql import CQL
from sb3_offline.cql.discrete_cql import DiscreteCQL

__all__ = ["CQL", "DiscreteCQL"]
