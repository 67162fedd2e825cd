"""A trained model as a file for other programs: ONNX, OpenVINO or torch.export, checked against torch.

`export_model` is the whole of it; the graphs and their outputs are described in `sais.export.graphs`.
"""

from sais.export.exporter import FORMATS, ExportOptions, export_model

__all__ = ["FORMATS", "ExportOptions", "export_model"]
