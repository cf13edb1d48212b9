"""The learned model of the world: a probabilistic ensemble, its fit, and what is imagined with it."""

from sb3_offline.dynamics.config import DynamicsConfig
from sb3_offline.dynamics.ensemble import EnsembleDynamics, ModelSample
from sb3_offline.dynamics.rollout import Rollout, rollout
from sb3_offline.dynamics.rules import TERMINATION_RULES
from sb3_offline.dynamics.termination import TerminationFn, resolve_termination
from sb3_offline.dynamics.training import DynamicsDivergedError, EpochStats, FitReport, fit_ensemble

__all__ = [
    "TERMINATION_RULES",
    "DynamicsConfig",
    "DynamicsDivergedError",
    "EnsembleDynamics",
    "EpochStats",
    "FitReport",
    "ModelSample",
    "Rollout",
    "TerminationFn",
    "fit_ensemble",
    "resolve_termination",
    "rollout",
]
