"""The predictor: images in, detections out. The route of one forward pass is `Predictor.detect`.

The file needs no torch; `sais.inference.backends` imports it where the model needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.config import InputConfig
from sais.errors import ConfigError
from sais.inference.assemble import assemble
from sais.inference.backends import Backend, open_backend
from sais.inference.options import InferenceOptions, merge_options
from sais.io.images import LARGE_IMAGE_PIXELS, as_image
from sais.ops.letterbox import CanvasMap, group_by_canvas
from sais.results.detections import DetectFunction, Detections

if TYPE_CHECKING:
    from PIL import Image

    from sais.inference.trained_model import TrainedModel

    ImageSource = np.ndarray | str | Path | Image.Image


class Predictor:
    """A trained or exported model, ready to predict.

        predictor = Predictor("runs/cats", score=0.3)
        detections = predictor("cat.jpg")

    Args:
        source: path of a checkpoint, of a run folder, or of an exported `.onnx` or `.xml` file; or a model in memory
            (`sais.load_model`).
        options: inference options; the defaults if None.
        changes: single options by name, replacing those of `options`: score, device, precision, tiles, ...; see
            `InferenceOptions`.

    Raises:
        CheckpointError: the file is missing, corrupted or of another kind.
        ConfigError: an option has no valid value, or the model or its backend does not support it.
        MissingDependencyError: torch or the runtime of an exported file is not installed.
        ResourceError: the machine has no such device.
    """

    def __init__(
        self,
        source: str | Path | TrainedModel | Backend,
        options: InferenceOptions | None = None,
        **changes: Any,
    ) -> None:
        self.options = merge_options(options, changes)
        self.backend = open_backend(source, self.options)
        self.experiment = self.backend.experiment
        self.class_names = self.backend.class_names
        self.category_ids = self.backend.category_ids
        self._detect_images = self._compose()

    def __call__(self, image: ImageSource) -> Detections:
        """Detect the objects of one image: a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
        return self.batch([image])[0]

    def batch(
        self, images: Sequence[ImageSource], progress: Callable[[int], None] = lambda passes: None
    ) -> list[Detections]:
        """Detect the objects of several images, as the options say: in tiles, with test-time augmentation, or plainly.

        Args:
            images: paths, PIL images or arrays (H, W), (H, W, 3) or (H, W, 4) of uint8.
            progress: function called with the number of tiles (without slicing: images) done since its last call.

        Returns:
            Detections of each image, in its pixels, scores descending.
        """
        max_pixels = None if self.options.tiles is None else LARGE_IMAGE_PIXELS
        arrays = [as_image(image, max_pixels) for image in images]
        if self.options.tiles is None:
            results = list(self._detect_images(arrays))
            progress(len(arrays))
            return results
        from sais.inference.slicing import predict_sliced, tile_side

        side, overlap = tile_side(self.options, self.experiment.input), self.options.tile_overlap
        return [
            predict_sliced(array, self._detect_images, side, overlap, self.options.batch_size, progress=progress)
            for array in arrays
        ]

    def num_tiles(self, image_size: tuple[int, int]) -> int:
        """Return the number of tiles of an image (H, W); 1 without slicing."""
        if self.options.tiles is None:
            return 1
        from sais.inference.slicing import slice_windows, tile_side

        return len(slice_windows(image_size, tile_side(self.options, self.experiment.input), self.options.tile_overlap))

    def detect(self, canvases: Any, canvas_maps: Sequence[CanvasMap]) -> list[Detections]:
        """Detect the objects on canvases in one forward pass, without slicing and test-time augmentation.

        Args:
            canvases: (B, 3, height, width) uint8 RGB, numpy or torch.
            canvas_maps: B maps from the images to their canvases.

        Returns:
            Detections of each image, in its pixels, scores descending.
        """
        return self._detect(canvases, canvas_maps, self.options.score)

    def _detect(self, canvases: Any, canvas_maps: Sequence[CanvasMap], score: float | None) -> list[Detections]:
        detect = getattr(self.backend, "detect", None)  # an architecture that makes its masks itself
        if detect is not None:
            detections: list[Detections] = detect(canvases, canvas_maps, score)
            return detections
        instances = self.backend.run(canvases, [canvas_map.content_size for canvas_map in canvas_maps], score)
        margin = self.experiment.postprocess.mask_margin
        return assemble(instances, canvas_maps, self.class_names, margin, self.backend.mask_stride)

    def _compose(self) -> DetectFunction:
        """Return the function that detects on whole images or tiles: one forward pass each, or with augmentation."""
        options, settings = self.options, self.experiment.input
        if not options.uses_tta:
            return self._at_input(settings, options.score)
        from sais.inference.tta import predict_tta, tta_inputs

        inputs = tta_inputs(settings, options.tta_scales)
        if self.backend.fixed_canvas is not None and inputs != [settings]:
            height, width = self.backend.fixed_canvas
            raise ConfigError(
                f"tta_scales: the exported model has a fixed input of {height} x {width}. "
                "Use 1.0 only, or export it with a dynamic shape."
            )
        functions = [self._at_input(scaled, None) for scaled in inputs]
        limit = self.experiment.postprocess.max_detections

        def detect(images: list[np.ndarray]) -> list[Detections]:
            results = predict_tta(images, functions, options.tta_flip, limit)
            return results if options.score is None else [merged.above(options.score) for merged in results]

        return detect

    def _at_input(self, settings: InputConfig, score: float | None) -> DetectFunction:
        """Return the function that detects on images (H, W, 3) resized to the input that `settings` describe."""

        def detect(images: list[np.ndarray]) -> list[Detections]:
            results: dict[int, Detections] = {}
            for first in range(0, len(images), self.options.batch_size):
                chunk = images[first : first + self.options.batch_size]
                for group, canvas_maps, stacked in group_by_canvas(chunk, settings.mode, settings.size):
                    detections = self._detect(stacked.transpose(0, 3, 1, 2), canvas_maps, score)
                    results.update(zip([first + i for i in group], detections, strict=True))
            return [results[i] for i in range(len(images))]

        return detect
