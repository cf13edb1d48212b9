"""SAC-N. Imports common and below."""

from sb3_offline.sacn.sacn import SACN

__all__ = ["SACN"]
