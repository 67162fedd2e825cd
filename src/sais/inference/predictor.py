"""The predictor: images in, detections out. The route of one forward pass is `Predictor.detect`.

The file needs no torch; `sais.inference.backends` imports it where the model needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.config import InputConfig, PostprocessConfig
from sais.inference.assemble import assemble, to_numpy
from sais.inference.backends import Backend, open_backend
from sais.inference.options import InferenceOptions, merge_options
from sais.io.images import LARGE_IMAGE_PIXELS, as_image
from sais.ops.letterbox import CanvasMap, group_by_canvas
from sais.results.detections import DetectFunction, Detections

if TYPE_CHECKING:
    from PIL import Image

    from sais.inference.score_thresholds import DetectionFilter
    from sais.inference.trained_model import TrainedModel

    ImageSource = np.ndarray | str | Path | Image.Image


class Predictor:
    """A trained or exported model, ready to predict.

        predictor = Predictor("runs/cats")
        detections = predictor("cat.jpg")
        print(predictor.filter)  # score >= 0.42: best F1 of masks on valid, stored in the model

    Threads may share a predictor, with every backend: a call changes nothing in it.

    Args:
        source: path of a checkpoint, of a run folder, or of an exported `.onnx` or `.xml` file; hf://owner/name; or a
            model in memory (`sais.load_model`).
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
        from sais.inference.score_thresholds import make_filter, override_settings

        self.options = merge_options(options, changes)
        self.backend = open_backend(source, self.options)
        settings = override_settings(self.backend.experiment.postprocess, self.options)
        if hasattr(self.backend, "check_settings"):
            self.backend.check_settings(settings)
        self.experiment = replace(self.backend.experiment, postprocess=settings)
        self.class_names = self.backend.class_names
        self.category_ids = self.backend.category_ids
        self.thresholds = getattr(self.backend, "thresholds", None)
        self.filter = make_filter(self.options, self.class_names, self.thresholds, settings)
        self._detect_images = self._compose()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        options: InferenceOptions | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **changes: Any,
    ) -> Predictor:
        """Open a model of the Hugging Face Hub, or of a local folder; see `sais.hub.fetch_model`.

        Args:
            source: owner/name or `hf://owner/name[@revision][/file]`; or a local path, which wins over a repository.
            options: as for the class, with `changes`.
            revision: branch, tag or commit.
            token: token of the Hub; None for HF_TOKEN or the one of `hf auth login`.
            cache_dir: folder of the cache; None for that of `huggingface_hub`.
            local_files_only: whether only the cache is used, without the network.
            changes: as for the class.
        """
        from sais.hub import find_pretrained

        return cls(find_pretrained(source, revision, token, cache_dir, local_files_only), options, **changes)

    def __call__(self, image: ImageSource, keep_image: bool = False) -> Detections:
        """Detect the objects of one image, of any kind that `sais.io.images.as_image` converts, such as a path.

        Args:
            image: the image.
            keep_image: whether the detections refer to the image (no copy), for `Detections.show` and notebooks.
        """
        if not keep_image:
            return self.batch([image])[0]
        max_pixels = None if self.options.tiles is None else LARGE_IMAGE_PIXELS
        array = as_image(image, max_pixels, white_level=self.experiment.input.white_level)
        detections = self.batch([array])[0]
        detections.image = array
        return detections

    def batch(
        self, images: Sequence[ImageSource], progress: Callable[[int], None] = lambda passes: None
    ) -> list[Detections]:
        """Detect the objects of several images, as the options say: in tiles, with test-time augmentation, or plainly.

        Args:
            images: paths, Pillow images, arrays or others that `sais.io.images.as_image` converts.
            progress: function called with the number of tiles (without slicing: images) done since its last call.

        Returns:
            Detections of each image, in its pixels, scores descending.
        """
        max_pixels = None if self.options.tiles is None else LARGE_IMAGE_PIXELS
        white_level = self.experiment.input.white_level
        arrays = [as_image(image, max_pixels, white_level=white_level) for image in images]
        if self.options.tiles is not None:
            from sais.inference.slicing import predict_in_tiles

            detect, settings = self._detect_images, self.experiment.input
            return self._drop_overlaps(predict_in_tiles(arrays, detect, self.options, settings, progress))
        results = self._drop_overlaps(self._detect_images(arrays))
        progress(len(arrays))
        return results

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Detections]:
        """Detect the objects of many images, one after the other, as the options say.

        A thread reads and resizes the next batch while the network computes, so that a GPU does not wait for either.
        An error of an image, or of the iterable, ends the stream after the batches before it.

        Args:
            images: as for `batch`; the thread iterates over them, at most two batches ahead.

        Yields:
            Detections of each image, in the order of the images.
        """
        from sais.inference.streaming import stream

        return stream(self, images)

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
        return self.start(canvases, canvas_maps)()

    def start(self, canvases: Any, canvas_maps: Sequence[CanvasMap]) -> Callable[[], list[Detections]]:
        """Start `detect` where the device computes by itself (a GPU); return the function that waits for the result.

        Args:
            canvases: (B, 3, height, width) uint8 RGB, numpy or torch; not to be changed before the result.
            canvas_maps: B maps from the images to their canvases.
        """
        finish = self._start(canvases, canvas_maps, self.filter)
        return lambda: self._drop_overlaps(finish())

    @property
    def computes_ahead(self) -> bool:
        """Whether the device computes while the host does other work: the next `start` may precede a result."""
        return getattr(self.backend, "device_route", None) is not None

    def for_evaluation(self) -> Predictor:
        """Return this predictor, or one with every detection above the class threshold if the minimum score is auto."""
        if self.options.score != "auto":
            return self
        return Predictor(self.backend, replace(self.options, score=None))

    def _start(
        self, canvases: Any, canvas_maps: Sequence[CanvasMap], detection_filter: DetectionFilter
    ) -> Callable[[], list[Detections]]:
        settings = detection_filter.early_settings(self.experiment.postprocess)
        route = getattr(self.backend, "device_route", None)
        if route is None:
            return lambda: self._detect(canvases, canvas_maps, settings, detection_filter)
        finish = route.start(canvases, canvas_maps, settings, detection_filter)

        def result() -> list[Detections]:
            detections = finish()
            return self._detect(canvases, canvas_maps, settings, detection_filter) if detections is None else detections

        return result

    def _detect(
        self,
        canvases: Any,
        canvas_maps: Sequence[CanvasMap],
        settings: PostprocessConfig,
        detection_filter: DetectionFilter,
    ) -> list[Detections]:
        detect = getattr(self.backend, "detect", None)  # an architecture that makes its masks itself
        if detect is not None:
            return [detection_filter.select(detections) for detections in detect(canvases, canvas_maps, settings)]
        sizes = [canvas_map.content_size for canvas_map in canvas_maps]
        instances = self.backend.run(canvases, sizes, settings, detection_filter.labels)
        scores, labels = to_numpy(instances.scores), to_numpy(instances.labels)
        scores, notes = detection_filter.drop(scores, labels, settings.maskness)
        instances = replace(instances, scores=scores)
        results = assemble(instances, canvas_maps, self.class_names, settings, self.backend.mask_stride)
        if settings.maskness:
            return [detection_filter.select(detections) for detections in results]
        for detections, note in zip(results, notes, strict=True):
            detections.omitted = note
        return results

    def _drop_overlaps(self, results: Sequence[Detections]) -> list[Detections]:
        if not self.options.class_agnostic:
            return list(results)
        from sais.inference.class_agnostic import drop_overlaps

        return [drop_overlaps(detections, self.experiment.postprocess.nms_iou) for detections in results]

    def _compose(self) -> DetectFunction:
        """Return the function that detects on whole images or tiles: one forward pass each, or with augmentation."""
        options, settings = self.options, self.experiment.input
        if not options.uses_tta:
            return self._at_input(settings, self.filter)
        from sais.data.flip_pairs import flip_labels
        from sais.inference.tta import compose_tta

        labels = flip_labels(self.experiment.augment.flip_pairs, self.class_names) if options.tta_flip else None
        return compose_tta(self._at_input, settings, options, self.filter, self.backend.fixed_canvas, labels)

    def _at_input(self, settings: InputConfig, detection_filter: DetectionFilter) -> DetectFunction:
        """Return the function that detects on images (H, W, 3) resized to the input that `settings` describe."""

        def start(canvases: np.ndarray, canvas_maps: Sequence[CanvasMap]) -> Callable[[], list[Detections]]:
            return self._start(canvases, canvas_maps, detection_filter)

        def detect(images: list[np.ndarray]) -> list[Detections]:
            from sais.inference.streaming import finish_in_order, start_groups

            size = self.options.batch_size
            chunks = (images[first : first + size] for first in range(0, len(images), size))
            started = (
                (None, start_groups(start, group_by_canvas(chunk, settings.mode, settings.size))) for chunk in chunks
            )
            results = finish_in_order(started, self.computes_ahead)
            return [detections for _, batch in results for detections in batch]

        return detect
