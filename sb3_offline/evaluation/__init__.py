"""How good a policy is: callbacks and the demo. Imports the algorithms and below."""

from sb3_offline.evaluation.callbacks import OfflineEvalCallback
from sb3_offline.evaluation.selection import OfflineSelectionCallback, StopOnValidation

__all__ = ["OfflineEvalCallback", "OfflineSelectionCallback", "StopOnValidation"]
