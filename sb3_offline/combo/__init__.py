from sb3_offline.combo.combo import COMBO
from sb3_offline.combo.discrete_combo import DiscreteCOMBO

__all__ = ["COMBO", "DiscreteCOMBO"]
