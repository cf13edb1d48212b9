from sb3_offline.combo.combo import COMBO

__all__ = ["COMBO"]
