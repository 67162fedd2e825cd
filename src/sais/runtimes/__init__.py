"""Deployment without torch: exported graphs on ONNX Runtime or OpenVINO, with the interface of `sais.Predictor`."""

from sais.runtimes.predictor import RuntimePredictor

__all__ = ["RuntimePredictor"]
