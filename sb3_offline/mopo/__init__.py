from sb3_offline.mopo.mopo import MOPO

__all__ = ["MOPO"]
