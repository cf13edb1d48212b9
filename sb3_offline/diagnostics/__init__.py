"""Why a Q-function diverges: neural tangent kernel, TD linearisation, and callbacks that log them during training. Imports
common and below.
"""

from sb3_offline.diagnostics.callbacks import ExcitationCallback, NTKCallback
from sb3_offline.linearization.q_function import NonFiniteKernelError, QFunction
from sb3_offline.linearization.td_linearization import Transitions

__all__ = ["ExcitationCallback", "NTKCallback", "NonFiniteKernelError", "QFunction", "Transitions"]
