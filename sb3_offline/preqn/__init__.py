"""PreQN: critic steps preconditioned by the neural tangent kernel. Imports common and below."""

from sb3_offline.preqn.preqn import PreQN
from sb3_offline.preqn.update import LineSearch, PreQNStep, preqn_step

__all__ = ["LineSearch", "PreQN", "PreQNStep", "preqn_step"]
