"""FQL: a flow that clones the data, and a one-step policy beside it. Imports common and below."""

from sb3_offline.fql.fql import FQL

__all__ = ["FQL"]
