"""The predictor without torch: an exported graph in, the same `Detections` out as `sais.Predictor` gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sais.assembly import assemble_picture
from sais.detections import Detections
from sais.images import as_picture
from sais.images import canvases as fitted
from sais.runtimes.decode import Found, decode
from sais.runtimes.metadata import EXPORTED, GraphMetadata
from sais.runtimes.onnx_runtime import OnnxSession
from sais.runtimes.openvino_runtime import OpenVinoSession
from sais.structures import Placement, SaisError
from sais.tiles import default_side, predict_tiled

if TYPE_CHECKING:
    from PIL import Image

    Picture = np.ndarray | str | Path | Image.Image


class Session(Protocol):
    """An opened graph."""

    name: str
    metadata: GraphMetadata

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs by name; inputs it does not have are ignored."""
        ...


class RuntimePredictor:
    """An exported model, ready to predict; numpy, Pillow and the runtime are all it needs.

        predictor = RuntimePredictor("cats.onnx", score=0.3)
        detections = predictor("cat.jpg")

    Args:
        path: what `sais export` wrote: `.onnx`, or OpenVINO's `.xml`.
        score: least score (class x centerness) of a detection. None: as the experiment's `test.score` has it.
        runtime: "auto" opens `.onnx` with ONNX Runtime and `.xml` with OpenVINO; "openvino" opens both.
        threads: of one pass; 0 takes all cores.
        device: "cpu", or what the runtime has besides.
        precision: OpenVINO only: "bf16" is faster where the processor has it, and less exact.

    Raises:
        SaisError: no such file, not exported by sais, or its runtime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        score: float | None = None,
        runtime: str = "auto",
        threads: int = 0,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.session = open_session(Path(path), runtime, threads, device, precision)
        metadata = self.session.metadata
        self.experiment = metadata.experiment
        self.class_names = metadata.class_names
        self.category_ids = metadata.category_ids
        self.settings = metadata.experiment.test
        self.score = score

    def __call__(self, picture: Picture) -> Detections:
        """The objects of one picture: a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
        return self.batch([picture])[0]

    def batch(self, pictures: Sequence[Picture]) -> list[Detections]:
        """The objects of several pictures, in one pass of the network where their canvases are alike."""
        arrays = [as_picture(p) for p in pictures]
        results: dict[int, Detections] = {}
        settings = self.experiment.input
        for group, placements, stacked in fitted(arrays, settings.mode, settings.size):
            results.update(zip(group, self.detect(stacked.transpose(0, 3, 1, 2), placements), strict=True))
        return [results[i] for i in range(len(arrays))]

    def tiled(
        self,
        picture: Picture,
        side: int | None = None,
        overlap: float = 0.2,
        batch: int = 8,
        agreement: float = 0.5,
        progress: Callable[[int], None] = lambda tiles: None,
    ) -> Detections:
        """The objects of a big picture, found in overlapping tiles; arguments as of `sais.Predictor.tiled`."""
        side = default_side(self.experiment.input) if side is None else side
        return predict_tiled(as_picture(picture), self.batch, side, overlap, batch, agreement, progress)

    def detect(self, canvases: Any, placements: Sequence[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8, of numpy or torch, to B detections."""
        return self.finish(self.run(canvases, placements), placements)

    def run(self, canvases: Any, placements: Sequence[Placement]) -> dict[str, np.ndarray]:
        """The graph's outputs by name, for canvases (B, 3, height, width) uint8."""
        contents = np.array([p.content_size for p in placements], np.float32)
        return self.session.run({"pictures": np.ascontiguousarray(canvases), "contents": contents})

    def finish(self, outputs: dict[str, np.ndarray], placements: Sequence[Placement]) -> list[Detections]:
        """From the graph's outputs to what a user holds."""
        results = []
        for image, placement in enumerate(placements):
            found = self._found(outputs, image, placement)
            results.append(
                assemble_picture(
                    found.boxes,
                    found.scores,
                    found.labels,
                    found.coefficients,
                    outputs["prototypes"][image] if found.coefficients is not None else None,
                    placement,
                    self.class_names,
                    self.settings.mask_margin,
                )
            )
        return results

    def _found(self, outputs: dict[str, np.ndarray], image: int, placement: Placement) -> Found:
        """One image's detections; `self.score` decides what is left of them."""
        settings = self.settings
        coefficients = outputs["coefficients"][image] if "coefficients" in outputs else None
        if self.session.metadata.graph == "raw":
            found = decode(
                outputs["class_logits"][image],
                outputs["centerness_logits"][image],
                outputs["distances"][image],
                coefficients,
                placement.canvas_size,
                placement.content_size,
                # No score is greater than its class probability, so nothing is lost by asking for as much early.
                score=settings.score if self.score is None else self.score,
                candidates=settings.candidates,
                nms=settings.nms,
                detections=settings.detections,
            )
        else:
            found = Found(outputs["boxes"][image], outputs["scores"][image], outputs["labels"][image], coefficients)
        if self.score is not None:
            found.scores[found.scores < self.score] = 0  # an empty slot: no mask is made for it
        return found


def open_session(
    path: Path, runtime: str = "auto", threads: int = 0, device: str = "cpu", precision: str = "fp32"
) -> Session:
    """The graph in a file, opened by the runtime that it belongs to.

    Raises:
        SaisError: as `RuntimePredictor`.
    """
    if not path.is_file():
        raise SaisError(f"{path}: no such file; give an .onnx or .xml file that `sais export` wrote")
    if runtime not in ("auto", "onnx", "openvino"):
        raise SaisError(f"runtime {runtime!r} is unknown; known are 'auto', 'onnx', 'openvino'")
    if path.suffix not in EXPORTED:
        raise SaisError(f"{path}: neither .onnx nor .xml; give a file that `sais export` wrote")
    if runtime == "openvino" or path.suffix == ".xml":
        if runtime == "onnx":
            raise SaisError(f"{path}: ONNX Runtime reads .onnx files; export it with --format onnx")
        return OpenVinoSession(path, threads, device, precision)
    if precision != "fp32":
        raise SaisError(
            f"{path}: precision {precision!r} cannot be asked of ONNX Runtime, which computes as the file has it; "
            "export it with --format openvino"
        )
    return OnnxSession(path, threads, device)
