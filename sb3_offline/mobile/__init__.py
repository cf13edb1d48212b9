"""MOBILE: targets less where the ensemble's members disagree on them. Imports common and below."""

from sb3_offline.mobile.mobile import MOBILE

__all__ = ["MOBILE"]
