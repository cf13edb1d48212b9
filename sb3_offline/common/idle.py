"""What SB3's users assign to a model, and offline training does not read: named, as the constructor refuses it."""

from __future__ import annotations

import warnings
from typing import Any

from sb3_offline.common.signature import ONLINE_ONLY

_KEPT = ONLINE_ONLY.keys() - {"n_envs"}  # which follows the env


def keep_online_options(model: Any) -> None:
    """Note what stands there by the constructor or ``learn_online``: whatever differs later was assigned."""
    model._online_options = {name: getattr(model, name) for name in _KEPT if hasattr(model, name)}


def warn_of_assignments(model: Any) -> None:
    """Name the options of SB3's collecting loop, and the buffer, that were assigned, and that ``learn`` does not read."""
    for name, before in model._online_options.items():
        value = getattr(model, name)
        if value != before:
            warnings.warn(
                f"model.{name} = {value!r} changes nothing in {type(model).__name__}.learn(): {ONLINE_ONLY[name]}.",
                stacklevel=4,
            )
    if type(model.replay_buffer).__module__.startswith("stable_baselines3."):
        warnings.warn(
            "model.replay_buffer = ... is not learned from: learn() reads model.dataset. Assign model.dataset = that buffer.",
            stacklevel=4,
        )
    keep_online_options(model)  # said once
