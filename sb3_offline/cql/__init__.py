from sb3_offline.cql.cql import CQL

__all__ = ["CQL"]
