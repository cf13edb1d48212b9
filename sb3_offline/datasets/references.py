"""Reference returns that put scores on one scale: 0 is a random policy, 100 a trained one."""

from __future__ import annotations

from typing import NamedTuple


class ReferenceScores(NamedTuple):
    """Mean undiscounted returns of whole episodes, and how they were measured."""

    minimum: float
    maximum: float
    note: str


_D4RL = "0: uniform random actions; 100: the reference of D4RL (Fu et al. 2020), measured on an older MuJoCo"

#: Keyed by Gymnasium id. A data set's own reference scores come before these.
REFERENCE_SCORES = {
    "CartPole-v1": ReferenceScores(22.5, 500.0, "0: uniform random actions; 100: the time limit"),
    "Hopper-v5": ReferenceScores(17.5, 3234.3, _D4RL),
    "HalfCheetah-v5": ReferenceScores(-268.9, 12135.0, _D4RL),
    "Pendulum-v1": ReferenceScores(-1187.9, -130.9, "measured with the packaged data; see their cards"),
    "Walker2d-v5": ReferenceScores(1.6, 4592.3, _D4RL),
}
