from sb3_offline.cql.cql import CQL
from sb3_offline.cql.discrete_cql import DiscreteCQL

__all__ = ["CQL", "DiscreteCQL"]
