from sb3_offline.evaluation.callbacks import OfflineEvalCallback

__all__ = ["OfflineEvalCallback"]
