"""
Offline reinforcement learning for Stable-Baselines3.

``import sb3_offline`` registers the packaged data with gymnasium, and imports nothing that is heavy: a name is imported when
it is first asked for.
"""

# ruff: noqa: F401  (what is imported here is for others)

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sb3_offline import registry
from sb3_offline._version import __version__
from sb3_offline.catalogue import register_envs
from sb3_offline.registry import register_algorithm

if TYPE_CHECKING:  # what type checkers see; a test compares it with what there is
    from sb3_offline.awac import AWAC
    from sb3_offline.bc import BC, DiscreteBC
    from sb3_offline.combo import COMBO, DiscreteCOMBO
    from sb3_offline.common.offline_sac import OfflineSAC
    from sb3_offline.cql import CQL, DiscreteCQL
    from sb3_offline.datasets import OfflineDataset, load_dataset, make_env
    from sb3_offline.diagnostics.divergence_guard import DivergenceGuard
    from sb3_offline.dromo import DROMO, DiscreteDROMO
    from sb3_offline.edac import EDAC
    from sb3_offline.evaluation import OfflineEvalCallback
    from sb3_offline.fql import FQL
    from sb3_offline.iql import IQL, DiscreteIQL
    from sb3_offline.mobile import MOBILE
    from sb3_offline.mopo import MOPO
    from sb3_offline.preqn import PreQN
    from sb3_offline.rebrac import ReBRAC
    from sb3_offline.sacn import SACN
    from sb3_offline.seeds import learn_seeds, resume_seeds, train_seeds
    from sb3_offline.td3bc import TD3BC

register_envs()

#: Where each name is imported from: the package's algorithms, which the registry knows, and what goes with them.
_EXPORTS = {path.rpartition(":")[2]: path.partition(":")[0] for path in registry.BUILT_IN.values()} | {
    "DivergenceGuard": "sb3_offline.diagnostics.divergence_guard",
    "OfflineDataset": "sb3_offline.datasets",
    "OfflineEvalCallback": "sb3_offline.evaluation",
    "learn_seeds": "sb3_offline.seeds",
    "load_dataset": "sb3_offline.datasets",
    "make_env": "sb3_offline.datasets",
    "resume_seeds": "sb3_offline.seeds",
    "train_seeds": "sb3_offline.seeds",
}

__all__ = sorted([*_EXPORTS, "__version__", "register_algorithm"])


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:  # a room: sb3_offline.datasets
        return import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
