from sb3_offline.dromo.dromo import DROMO

__all__ = ["DROMO"]
