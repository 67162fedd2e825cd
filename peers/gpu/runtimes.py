"""Latency of the exported network in ONNX Runtime, with CUDA and with TensorRT where they are installed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from peers.gpu.inference_systems import SAIS, random_model
from peers.gpu.plan import Check, Plan, Row, arithmetic
from peers.gpu.timing import interleaved

PROVIDERS = {"CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider"}
"""Name of the row -> execution provider of ONNX Runtime."""
MAX_DIFFERENCE = 0.02
"""Maximum difference of an output, relative to the largest value; providers may compute in TF32."""


def runtime_checks(plan: Plan) -> Iterator[Check]:
    """Yield a check for each execution provider; on a CPU its own one."""
    providers = {"CPU": "CPUExecutionProvider"} if plan.small else PROVIDERS
    for name, provider in providers.items():
        yield Check("ONNX Runtime", name, partial(measure_provider, name=name, provider=provider))


def measure_provider(plan: Plan, name: str, provider: str) -> list[Row]:
    """Export SAIS-R50-768 (sais-lite on a CPU) and time the session; the outputs must equal those of PyTorch.

    Raises:
        ImportError: ONNX Runtime is missing, or lacks the provider.
    """
    import onnxruntime

    from sais.export import ExportOptions
    from sais.export.exporter import export_model

    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise ImportError(f"the installed ONNX Runtime {onnxruntime.__version__} has only {', '.join(available)}")
    model = random_model(plan.experiment("sais-lite" if plan.small else SAIS))
    side = model.experiment.input.size[0]
    images = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_model(model, path, ExportOptions(graph="raw"))
        session = onnxruntime.InferenceSession(str(path), providers=[provider])
        feed = {session.get_inputs()[0].name: images}
        actual = session.run(["class_logits"], feed)[0]
        with torch.inference_mode(), arithmetic("fp32"):
            expected = model.network.eval()(torch.from_numpy(images)).class_logits.numpy()
        difference = float(np.abs(actual - expected).max() / np.abs(expected).max())

        def run() -> int:
            session.run(None, feed)
            return 1

        milliseconds = interleaved(plan, {name: run})[name]
    used = session.get_providers()[0]
    text = f"{milliseconds:.2f} ms per image, network and copies; maximum relative difference {difference:.1e}"
    values = {"milliseconds": milliseconds, "difference": difference, "provider": used}
    passed = difference <= MAX_DIFFERENCE and used == provider
    return [Row(f"{name}, {model.experiment.name}, batch 1", passed, text, f"<= {MAX_DIFFERENCE}", values)]
