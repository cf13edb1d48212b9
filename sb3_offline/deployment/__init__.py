"""From a trained model to something that runs elsewhere, and knows when it is out of its depth. Imports dynamics and below."""

from sb3_offline.deployment.onnx import export_onnx
from sb3_offline.deployment.ood import OODDetector

__all__ = ["OODDetector", "export_onnx"]
