"""The algorithms under the names by which RL-Zoo and the shell know them."""

from __future__ import annotations

import sb3_offline
from sb3_offline.common.offline_algorithm import OfflineAlgorithm


def algorithms() -> dict[str, type[OfflineAlgorithm]]:
    """Every exported algorithm by its name, which is that of its module and of its YAML file (``dromo``)."""
    exported = (getattr(sb3_offline, name) for name in sb3_offline.__all__)
    classes = [item for item in exported if isinstance(item, type) and issubclass(item, OfflineAlgorithm)]
    return {cls.__module__.rpartition(".")[2]: cls for cls in sorted(classes, key=lambda cls: cls.__name__)}
