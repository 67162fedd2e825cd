"""The predictor without torch: an exported graph in, the same `Detections` out as `sais.Predictor` gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sais.errors import SaisError
from sais.inference.assemble import assemble_detections
from sais.inference.backends.onnxruntime import OnnxSession
from sais.inference.backends.openvino import OpenVinoSession
from sais.inference.graph_metadata import EXPORTED_SUFFIXES, GraphMetadata
from sais.inference.numpy_postprocess import ImageInstances, postprocess
from sais.inference.slicing import default_slice_size, predict_sliced
from sais.io.images import as_image
from sais.ops.letterbox import group_by_canvas as fitted
from sais.results.detections import Detections
from sais.structures import CanvasMap

if TYPE_CHECKING:
    from PIL import Image

    ImageSource = np.ndarray | str | Path | Image.Image


class Session(Protocol):
    """An opened graph."""

    name: str
    metadata: GraphMetadata

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs by name; inputs it does not have are ignored."""
        ...


class ExportedPredictor:
    """An exported model, ready to predict; numpy, Pillow and the runtime are all it needs.

        predictor = RuntimePredictor("cats.onnx", score=0.3)
        detections = predictor("cat.jpg")

    Args:
        path: what `sais export` wrote: `.onnx`, or OpenVINO's `.xml`.
        score: least score (class x centerness) of a detection. None: as the experiment's `postprocess.score_threshold` has it.
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
        self.settings = metadata.experiment.postprocess
        self.score = score

    def __call__(self, image: ImageSource) -> Detections:
        """The objects of one image: a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
        return self.batch([image])[0]

    def batch(self, images: Sequence[ImageSource]) -> list[Detections]:
        """The objects of several images, in one pass of the network where their canvases are alike."""
        arrays = [as_image(p) for p in images]
        results: dict[int, Detections] = {}
        settings = self.experiment.input
        for group, canvas_maps, stacked in fitted(arrays, settings.mode, settings.size):
            results.update(zip(group, self.detect(stacked.transpose(0, 3, 1, 2), canvas_maps), strict=True))
        return [results[i] for i in range(len(arrays))]

    def tiled(
        self,
        image: ImageSource,
        side: int | None = None,
        overlap: float = 0.2,
        batch: int = 8,
        agreement: float = 0.5,
        progress: Callable[[int], None] = lambda tiles: None,
    ) -> Detections:
        """The objects of a big image, found in overlapping tiles; arguments as of `sais.Predictor.tiled`."""
        side = default_slice_size(self.experiment.input) if side is None else side
        return predict_sliced(as_image(image), self.batch, side, overlap, batch, agreement, progress)

    def detect(self, canvases: Any, canvas_maps: Sequence[CanvasMap]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8, of numpy or torch, to B detections."""
        return self.finish(self.run(canvases, canvas_maps), canvas_maps)

    def run(self, canvases: Any, canvas_maps: Sequence[CanvasMap]) -> dict[str, np.ndarray]:
        """The graph's outputs by name, for canvases (B, 3, height, width) uint8."""
        contents = np.array([p.content_size for p in canvas_maps], np.float32)
        return self.session.run({"images": np.ascontiguousarray(canvases), "contents": contents})

    def finish(self, outputs: dict[str, np.ndarray], canvas_maps: Sequence[CanvasMap]) -> list[Detections]:
        """From the graph's outputs to what a user holds."""
        results = []
        for image, canvas_map in enumerate(canvas_maps):
            found = self._found(outputs, image, canvas_map)
            results.append(
                assemble_detections(
                    found.boxes,
                    found.scores,
                    found.labels,
                    found.coefficients,
                    outputs["prototypes"][image] if found.coefficients is not None else None,
                    canvas_map,
                    self.class_names,
                    self.settings.mask_margin,
                )
            )
        return results

    def _found(self, outputs: dict[str, np.ndarray], image: int, canvas_map: CanvasMap) -> ImageInstances:
        """One image's detections; `self.score` decides what is left of them."""
        settings = self.settings
        coefficients = outputs["coefficients"][image] if "coefficients" in outputs else None
        if self.session.metadata.graph == "raw":
            found = postprocess(
                outputs["class_logits"][image],
                outputs["centerness_logits"][image],
                outputs["distances"][image],
                coefficients,
                canvas_map.canvas_size,
                canvas_map.content_size,
                # No score is greater than its class probability, so nothing is lost by asking for as much early.
                score=settings.score_threshold if self.score is None else self.score,
                candidates=settings.pre_nms_topk,
                nms_iou=settings.nms_iou,
                detections=settings.max_detections,
            )
        else:
            found = ImageInstances(
                outputs["boxes"][image], outputs["scores"][image], outputs["labels"][image], coefficients
            )
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
    if path.suffix not in EXPORTED_SUFFIXES:
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
