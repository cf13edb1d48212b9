"""The learned model of the world: a probabilistic ensemble, its fit, and what is imagined with it.
Imports training, datasets and below.
"""

from sb3_offline.dynamics.calibration import CalibrationMaps
from sb3_offline.dynamics.config import DynamicsConfig
from sb3_offline.dynamics.ensemble import EnsembleDynamics, ModelSample
from sb3_offline.dynamics.penalties import PENALTIES, Forecast, Penalty
from sb3_offline.dynamics.recalibration import CalibrationMethod
from sb3_offline.dynamics.reward import RewardFn, resolve_reward
from sb3_offline.dynamics.rollout import Rollout, rollout
from sb3_offline.dynamics.rules import TERMINATION_RULES
from sb3_offline.dynamics.termination import TerminationFn, resolve_termination
from sb3_offline.dynamics.termination_fit import fit_termination_head
from sb3_offline.dynamics.termination_head import TerminationHead, TerminationReport
from sb3_offline.dynamics.training import DynamicsDivergedError, EpochStats, FitReport, fit_ensemble

__all__ = [
    "PENALTIES",
    "TERMINATION_RULES",
    "CalibrationMaps",
    "CalibrationMethod",
    "DynamicsConfig",
    "DynamicsDivergedError",
    "EnsembleDynamics",
    "EpochStats",
    "FitReport",
    "Forecast",
    "ModelSample",
    "Penalty",
    "RewardFn",
    "Rollout",
    "TerminationFn",
    "TerminationHead",
    "TerminationReport",
    "fit_ensemble",
    "fit_termination_head",
    "resolve_reward",
    "resolve_termination",
    "rollout",
]
