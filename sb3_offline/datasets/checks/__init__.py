"""The data gate: what is refused before anything is trained, and what is warned of."""

from sb3_offline.datasets.checks.arrays import build_dataset
from sb3_offline.datasets.checks.columns import ACTION_TOLERANCE
from sb3_offline.datasets.checks.findings import Finding
from sb3_offline.datasets.checks.gate import check_dataset, pass_gate, refuse_broken
from sb3_offline.datasets.checks.keys import ALIASES

__all__ = ["ACTION_TOLERANCE", "ALIASES", "Finding", "build_dataset", "check_dataset", "pass_gate", "refuse_broken"]
