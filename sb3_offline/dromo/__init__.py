"""DROMO: COMBO plus a penalty on the spread of Q. Imports combo, cql, common and below."""

from sb3_offline.dromo.discrete_dromo import DiscreteDROMO
from sb3_offline.dromo.dromo import DROMO

__all__ = ["DROMO", "DiscreteDROMO"]
