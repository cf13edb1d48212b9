"""Advantage-weighted actor-critic. Imports common and below."""

from sb3_offline.awac.awac import AWAC

__all__ = ["AWAC"]
