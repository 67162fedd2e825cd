"""Detections on an accelerator: one copy to it, one copy back, and nothing in between waits for the host.

Post-processing and masks have fixed shapes there (`sais.modeling.postprocess_fixed`, `sais.ops.masks_on_device`). The
shapes follow what recent batches needed. A batch that needs more is detected by the route of the host, so that results
never depend on them. The CPU has shapes that depend on values, which cost it nothing.

Legend: B images, C classes, D detections of one image.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sais.config import PostprocessConfig
from sais.inference.score_thresholds import DetectionFilter
from sais.modeling.architecture import PostprocessFixed
from sais.ops.letterbox import CanvasMap
from sais.ops.masks_on_device import MapTensors, map_tensors, masknesses, pack_masks
from sais.ops.transfers import HostCopy, copy_together
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.structures import DenseOutputs, Instances

if TYPE_CHECKING:
    from sais.results.omitted import Omitted

PAIR_BYTES = 20
"""Bytes for each pair of candidates in NMS."""
MAX_CANDIDATES = 4000
"""Maximum number of candidates of an image that take part in NMS."""
MAX_BYTES = 2**31
"""Maximum memory of the pairs of candidates of a batch, and of the logits of its masks on the prototype grid."""
MAX_MASK_BYTES = 2**27
"""Maximum bytes of the packed masks of a batch, eight pixels each: 32-bit indices count the pixels."""

Finish = Callable[[], "list[Detections] | None"]
"""Function that waits for the detections of a batch; None if they need larger shapes."""


class FixedSizes:
    """Sizes of the fixed shapes, which follow the batches. Threads may share them."""

    def __init__(self) -> None:
        self.candidates = 1000
        """Candidates of an image that take part in NMS."""
        self.repetitions = 8
        """Repetitions of NMS."""
        self._areas = 1.0
        self._lock = threading.Lock()

    @property
    def areas(self) -> int:
        """Pixels of the masks of a batch, in areas of its images; a power of 2, so that few sizes occur."""
        return int(2 ** math.ceil(math.log2(max(1.25 * self._areas, 1))))

    def limit_candidates(self, batch: int) -> int:
        """Return the number of candidates of each of B images."""
        return min(self.candidates, math.isqrt(MAX_BYTES // (PAIR_BYTES * batch)))

    def follow(self, areas: float, enough: bool, converged: bool) -> None:
        """Adapt to a batch.

        Args:
            areas: pixels of its masks, in areas of its images.
            enough: whether the number of candidates was.
            converged: whether the number of repetitions was enough.
        """
        with self._lock:
            self._areas = max(areas, 0.9 * self._areas)  # one crowded batch does not slow down all others
            self.candidates = self.candidates if enough else min(2 * self.candidates, MAX_CANDIDATES)
            self.repetitions = self.repetitions if converged else min(2 * self.repetitions, 128)


class DeviceInputs(NamedTuple):
    """A batch on the device."""

    images: Tensor
    """(B, 3, height, width) uint8."""
    maps: MapTensors
    """Canvas maps (B, .) on the device."""
    minimum: Tensor
    """(C,) minimum score of each class."""
    excluded: Tensor | None
    """(C,) -inf for classes that are not wanted, else 0; None if all are."""
    canvas_maps: Sequence[CanvasMap]
    """B canvas maps in host memory."""


class DeviceRoute:
    """Detections of batches on an accelerator.

    Args:
        network: network on its device, prepared for inference.
        postprocess: post-processing of its architecture in fixed shapes.
        device: the device.
        class_names: C names.
        mask_stride: canvas pixels for one cell of the prototype grid.
        compile: whether to compile post-processing and masks with `torch.compile`: a fifth of the operations.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        postprocess: PostprocessFixed,
        device: torch.device,
        class_names: tuple[str, ...],
        mask_stride: int,
        compile: bool = False,
    ) -> None:
        self.network = network
        self.postprocess = postprocess
        self.device = device
        self.class_names = class_names
        self.mask_stride = mask_stride
        self.sizes = FixedSizes()
        self.compile = compile
        self._compute = torch.compile(compute_results, dynamic=False) if compile else compute_results

    @torch.inference_mode()
    def start(
        self,
        canvases: Any,
        canvas_maps: Sequence[CanvasMap],
        settings: PostprocessConfig,
        detection_filter: DetectionFilter,
    ) -> Finish:
        """Start the detection on canvases.

        Args:
            canvases: (B, 3, height, width) uint8 RGB, numpy or torch.
            canvas_maps: B maps from the images to their canvases.
            settings: post-processing settings.
            detection_filter: filter of the detections; masks of others are not assembled.

        Returns:
            The function that waits for the detections; it returns None if the fixed shapes were too small.
        """
        cells = canvases.shape[2] * canvases.shape[3] // self.mask_stride**2
        if not fits(len(canvas_maps), cells, settings.max_detections):
            return lambda: None
        inputs = self.copy_inputs(canvases, canvas_maps, detection_filter)
        return self.finish_from(self.network(inputs.images), inputs, settings, detection_filter)

    def copy_inputs(
        self, canvases: Any, canvas_maps: Sequence[CanvasMap], detection_filter: DetectionFilter
    ) -> DeviceInputs:
        """Copy what a batch needs to the device, in one transfer.

        Args:
            canvases: (B, 3, height, width) uint8 RGB, numpy or torch; None where the network has run.
            canvas_maps: B maps from the images to their canvases.
            detection_filter: filter of the detections.
        """
        minimum, wanted = detection_filter.minimum, detection_filter.wanted
        small = [
            *map_tensors(canvas_maps, self.mask_stride),
            torch.zeros(len(self.class_names)) if minimum is None else torch.from_numpy(minimum),
            torch.zeros(0) if wanted is None else torch.from_numpy(np.where(wanted, 0, -np.inf).astype(np.float32)),
        ]
        images = torch.zeros(0) if canvases is None else torch.as_tensor(canvases)
        if canvases is None or images.device.type != "cpu":
            copies = copy_together(small, self.device, overlap=True)
        else:
            rows = images.permute(0, 2, 3, 1)  # contiguous where `group_by_canvas` made the canvases
            channels_last = rows.is_contiguous()
            *copies, images = copy_together([*small, rows if channels_last else images], self.device, overlap=True)
            images = images.permute(0, 3, 1, 2) if channels_last else images
        *maps, lowest, excluded = copies
        return DeviceInputs(images, MapTensors(*maps), lowest, None if wanted is None else excluded, canvas_maps)

    @torch.inference_mode()
    def finish_from(
        self, outputs: Any, inputs: DeviceInputs, settings: PostprocessConfig, detection_filter: DetectionFilter
    ) -> Finish:
        """Post-process the outputs of the network and start the copy of the detections (B, D, .); see `start`."""
        sizes, batch = self.sizes, len(inputs.canvas_maps)
        image_sizes = [canvas_map.image_size for canvas_map in inputs.canvas_maps]
        area, side = sum(height * width for height, width in image_sizes), max(map(max, image_sizes))
        capacity = min(sizes.areas * area // 8 + batch * settings.max_detections, MAX_MASK_BYTES)
        if self.compile:  # each size is compiled, so there are few of them
            side, capacity = -(-side // 256) * 256, 1 << (capacity - 1).bit_length()
        tensors = inputs.maps, inputs.minimum, inputs.excluded
        limits = sizes.limit_candidates(batch), sizes.repetitions, side, capacity
        results = self._compute(self.postprocess, outputs, *tensors, settings, *limits)
        copy = HostCopy(results)

        def finish() -> list[Detections] | None:
            """Wait for the copy and return the B detections; None if the fixed shapes were too small."""
            boxes, scores, labels, enough, converged, *masks = (tensor.numpy() for tensor in copy.tensors())
            length = int(masks[2]) if masks else 0
            sizes.follow(8 * length / area, bool(enough.all()), bool(converged.all()))
            if length > capacity or not (enough.all() and converged.all()):
                return None
            scores, notes = detection_filter.drop(scores, labels)
            tighten = settings.boxes_from_masks and bool(masks)
            packed = unpack_masks(masks[0], masks[1], scores > 0) if masks else [[] for _ in notes]
            return [
                self._detections(canvas_map, boxes[i], scores[i], labels[i], packed[i], notes[i], tighten)
                for i, canvas_map in enumerate(inputs.canvas_maps)
            ]

        return finish

    def _detections(
        self,
        canvas_map: CanvasMap,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        masks: list[CroppedMask],
        note: Omitted,
        tighten: bool,
    ) -> Detections:
        filled = scores > 0
        boxes = canvas_map.boxes_to_image(boxes[filled])
        if tighten:
            from sais.inference.mask_boxes import boxes_from_masks

            boxes = boxes_from_masks(masks, boxes)
        detections = Detections(canvas_map.image_size, boxes, scores[filled], labels[filled], self.class_names, masks)
        detections.omitted = note
        return detections


def compute_results(
    postprocess: PostprocessFixed,
    outputs: Any,
    maps: MapTensors,
    minimum: Tensor,
    excluded: Tensor | None,
    settings: PostprocessConfig,
    candidates: int,
    repetitions: int,
    side: int,
    capacity: int,
) -> list[Tensor]:
    """Compute on the device what the host needs to make detections.

    Args:
        postprocess: post-processing in fixed shapes.
        outputs: outputs of the network.
        maps: canvas maps (B, .).
        minimum: (C,) minimum scores.
        excluded: (C,) -inf for classes that are not wanted, else 0; None if all are.
        settings: post-processing settings.
        candidates: see `sais.modeling.postprocess_fixed.postprocess_fixed`.
        repetitions: see `sais.ops.fixed_nms.suppress`.
        side: see `sais.ops.masks_on_device.pack_masks`.
        capacity: see `sais.ops.masks_on_device.pack_masks`.

    Returns:
        Boxes (B, D, 4), scores (B, D), labels (B, D), whether the candidates (B,) and the repetitions (B,) were enough;
        with masks also the fields of `sais.ops.masks_on_device.PackedMasks`.
    """
    if excluded is not None and isinstance(outputs, DenseOutputs):
        outputs = replace(outputs, class_logits=outputs.class_logits + excluded)
    fixed = postprocess(outputs, maps.content_sizes, settings, candidates, repetitions)
    instances = fixed.instances
    if settings.maskness and instances.coefficients is not None:
        instances = rescore_by_maskness(instances, maps, settings.mask_margin)
    results = [instances.boxes, instances.scores, instances.labels, fixed.enough, fixed.converged]
    if instances.coefficients is not None and instances.prototypes is not None:
        visible = (instances.scores > 0) & (instances.scores >= minimum[instances.labels])
        results += pack_masks(
            *(instances.boxes, instances.coefficients, instances.prototypes, visible, maps),
            *(side, capacity, settings.mask_margin),
        )
    return results


def rescore_by_maskness(instances: Instances, maps: MapTensors, margin: float) -> Instances:
    """Multiply scores by the maskness and sort the detections again, as `sais.inference.assemble` does.

    Args:
        instances: detections of a batch (B, D, .), with masks.
        maps: canvas maps (B, .).
        margin: margin by which a mask may extend beyond its box, as a fraction of the box's sides.
    """
    boxes, coefficients, prototypes = instances.boxes, instances.coefficients, instances.prototypes
    assert coefficients is not None
    assert prototypes is not None
    factors = masknesses(boxes, coefficients, prototypes, maps, margin)
    scores, order = (instances.scores * factors).sort(dim=1, descending=True, stable=True)
    rows = order[:, :, None]
    return Instances(  # torch.compile of torch 2.6 knows no `dataclasses.replace`
        boxes=boxes.gather(1, rows.expand(-1, -1, 4)),
        scores=scores,
        labels=instances.labels.gather(1, order),
        coefficients=coefficients.gather(1, rows.expand(-1, -1, coefficients.shape[2])),
        prototypes=prototypes,
    )


def fits(batch: int, cells: int, max_detections: int) -> bool:
    """Return whether the fixed shapes of B images with that number of prototype cells each take bounded memory."""
    pairs = PAIR_BYTES * batch * max(max_detections, 1000) ** 2
    return pairs <= MAX_BYTES and 4 * batch * max_detections * cells <= MAX_BYTES


def unpack_masks(windows: np.ndarray, packed: np.ndarray, remaining: np.ndarray) -> list[list[CroppedMask]]:
    """Return the masks of the remaining detections of each image.

    Args:
        windows: (B, D, 4) x1 y1 x2 y2 in image pixels; empty where the mask of a detection was not assembled.
        packed: (n,) uint8, see `sais.ops.masks_on_device.PackedMasks`.
        remaining: (B, D) bool.
    """
    heights, widths = windows[..., 3] - windows[..., 1], windows[..., 2] - windows[..., 0]
    lengths = -(-heights.astype(np.int64) * widths // 8)
    starts = (np.cumsum(lengths) - lengths.reshape(-1)).reshape(lengths.shape)
    masks: list[list[CroppedMask]] = [[] for _ in windows]
    for image, index in np.argwhere(remaining).tolist():
        start, length = starts[image, index], lengths[image, index]
        x, y = windows[image, index, :2]
        shape = heights[image, index], widths[image, index]
        # A copy: a part would keep the masks of the whole batch in memory.
        content = packed[start : start + length].copy()
        masks[image].append(CroppedMask.from_packed(x, y, shape, content))
    return masks
