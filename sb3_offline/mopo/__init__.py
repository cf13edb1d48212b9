"""MOPO: rewards less where the model is unsure. Imports common and below."""

from sb3_offline.mopo.mopo import MOPO

__all__ = ["MOPO"]
