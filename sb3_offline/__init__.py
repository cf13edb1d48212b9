"""Offline reinforcement learning for Stable-Baselines3."""

from sb3_offline._version import __version__
from sb3_offline.combo import COMBO, DiscreteCOMBO
from sb3_offline.common.offline_sac import OfflineSAC
from sb3_offline.cql import CQL, DiscreteCQL
from sb3_offline.datasets import OfflineDataset, load_dataset, make_env, register_envs
from sb3_offline.diagnostics.divergence_guard import DivergenceGuard
from sb3_offline.dromo import DROMO, DiscreteDROMO
from sb3_offline.evaluation import OfflineEvalCallback
from sb3_offline.mopo import MOPO
from sb3_offline.preqn import PreQN

register_envs()

__all__ = [
    "COMBO",
    "CQL",
    "DROMO",
    "MOPO",
    "DiscreteCOMBO",
    "DiscreteCQL",
    "DiscreteDROMO",
    "DivergenceGuard",
    "OfflineDataset",
    "OfflineEvalCallback",
    "OfflineSAC",
    "PreQN",
    "__version__",
    "load_dataset",
    "make_env",
]
