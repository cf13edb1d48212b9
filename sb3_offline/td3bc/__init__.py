"""TD3+BC. Imports common and below."""

from sb3_offline.td3bc.td3bc import TD3BC

__all__ = ["TD3BC"]
