"""At home in RL-Zoo: ``register()``, and wrappers of its train, enjoy, record_video and plots.
Imports evaluation and below.
"""

from sb3_offline.registry import algorithms
from sb3_offline.zoo.configs import config_path
from sb3_offline.zoo.registration import register

__all__ = ["algorithms", "config_path", "register"]
