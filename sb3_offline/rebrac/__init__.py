"""ReBRAC. Imports common and below."""

from sb3_offline.rebrac.rebrac import ReBRAC

__all__ = ["ReBRAC"]
