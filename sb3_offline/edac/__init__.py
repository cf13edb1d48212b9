"""EDAC: SAC-N whose critics are kept apart. Imports SAC-N, common and below."""

from sb3_offline.edac.edac import EDAC

__all__ = ["EDAC"]
