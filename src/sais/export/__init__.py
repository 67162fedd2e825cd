"""Export of a trained model to ONNX, OpenVINO or torch.export, checked against PyTorch.

`sais.export` is both this package and the function: ``sais.export("runs/cats", "cats.onnx")``. Python binds a package
to its name in `sais` whenever a module of it is imported, so the package itself is callable. The graphs and their
outputs are described in `sais.export.graphs`.
"""

import sys
import types
from typing import Any

from sais.export.options import FORMATS, ExportOptions
from sais.inference.metadata import GraphMetadata

__all__ = ["FORMATS", "ExportOptions", "export_model"]


def __getattr__(name: str) -> Any:
    if name != "export_model":  # it needs torch, the options do not
        raise AttributeError(f"module 'sais.export' has no attribute {name!r}")
    from sais.export.exporter import export_model

    return export_model


class _CallablePackage(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> GraphMetadata:
        """Call `sais.export.exporter.export_model`."""
        from sais.export.exporter import export_model

        return export_model(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
