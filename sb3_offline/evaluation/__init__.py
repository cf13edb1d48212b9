"""How good a policy is: callbacks and the demo. Imports the algorithms and below."""

from sb3_offline.evaluation.callbacks import OfflineEvalCallback

__all__ = ["OfflineEvalCallback"]
