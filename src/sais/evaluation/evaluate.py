"""Evaluation: predict every image of a dataset split, and score the detections by the COCO protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.data.loader import evaluation_loader, full_image_loader
from sais.data.paths import DataPaths
from sais.distributed import SINGLE_PROCESS, World
from sais.errors import InputError
from sais.evaluation.coco_metrics import IouType, Metrics, coco_metrics
from sais.ops.letterbox import CanvasMap
from sais.results.detections import DetectFunction, Detections
from sais.structures import Sample

if TYPE_CHECKING:
    from sais.inference.trained_model import TrainedModel

PredictedBatch = tuple[list[int], Sequence[Detections], list[str]]
"""Ids of the readable images, their detections, and one line for each unreadable image."""


class Detector(Protocol):
    """The interface that `evaluate` needs; `sais.Predictor` implements it."""

    experiment: Experiment
    class_names: tuple[str, ...]

    def detect(self, canvases: Any, canvas_maps: Sequence[CanvasMap]) -> Sequence[Detections]:
        """Detect the objects on canvases (B, 3, height, width) uint8 with B canvas maps: B detections."""
        ...


@dataclass
class Evaluation:
    """The result of an evaluation."""

    metrics: Metrics | None
    """COCO metrics; None if the images have no annotations."""
    results: list[dict[str, Any]]
    """Detections in the COCO submission format."""
    dataset_split: DatasetSplit
    """The evaluated images: those of the data set without the unreadable ones."""
    unreadable_images: list[str] = field(default_factory=list)
    """One line for each unreadable image that was skipped."""


def evaluate(
    model: Detector | TrainedModel | str | Path,
    dataset: DatasetSplit | DataPaths | str | Path,
    batch_size: int = 8,
    workers: int = 2,
    skip_broken: bool = False,
    progress: Callable[[int], None] = lambda images: None,
    detect_images: DetectFunction | None = None,
    world: World = SINGLE_PROCESS,
) -> Evaluation:
    """Predict every image of a dataset split and score the detections.

    Args:
        model: a predictor, a model in memory, or the path of a checkpoint, run or exported model. A predictor's score
            threshold limits the detections; the COCO protocol uses 0.05. Its tiles and test-time augmentation are used.
        dataset: a split with the model's class names in the model's order, or a data set with a validation split.
        batch_size: number of images that are predicted at once.
        workers: number of processes that read images.
        skip_broken: whether unreadable images are skipped and counted; they are removed from the ground truth.
        progress: function called with the number of images done since its last call.
        detect_images: function that detects on a list of images (H, W, 3) of different sizes, instead of the model's
            forward pass on the loader's canvases.
        world: processes that evaluate together. Each predicts its share; rank 0 scores and has all results, the other
            ranks receive the metrics only.

    Raises:
        InputError: the classes differ from the model's, or an image is unreadable and `skip_broken` is False.
    """
    detector = _open_detector(model)
    split = _open_split(dataset, detector.class_names)
    if split.class_names != detector.class_names:
        raise InputError(
            f"{split.name}: its classes ({', '.join(split.class_names[:5])}, ...) are not those of the model "
            f"({', '.join(detector.class_names[:5])}, ...). Evaluate on data with the model's classes."
        )
    if detect_images is None:
        detect_images = _whole_image_function(detector)
    share = (world.rank, world.world_size)
    predictions = (
        _predict_canvases(detector, split, batch_size, workers, share)
        if detect_images is None
        else _predict_images(detect_images, _take_share(split, share), batch_size, workers)
    )
    shares = world.gather(_collect(predictions, split, skip_broken, progress))
    results = [result for results_of_rank, _, _ in shares for result in results_of_rank]
    unreadable = [message for _, messages_of_rank, _ in shares for message in messages_of_rank]
    read_ids = {image_id for _, _, ids_of_rank in shares for image_id in ids_of_rank}
    if unreadable:
        split = replace(split, images=tuple(record for record in split.images if record.id in read_ids))
    metrics = world.broadcast(_score(detector, split, results) if world.is_main else None)
    return Evaluation(metrics, results, split, unreadable)


def _collect(
    predictions: Iterator[PredictedBatch], split: DatasetSplit, skip_broken: bool, progress: Callable[[int], None]
) -> tuple[list[dict[str, Any]], list[str], set[int]]:
    """Return the results of one rank, a line for each unreadable image, and the ids of the readable images."""
    results: list[dict[str, Any]] = []
    unreadable: list[str] = []
    read_ids: set[int] = set()
    for image_ids, detections_of_images, messages in predictions:
        if messages and not skip_broken:
            raise InputError(f"{messages[0].rstrip('.')}. Or skip unreadable images (skip_broken).")
        unreadable += messages
        for image_id, detections in zip(image_ids, detections_of_images, strict=True):
            results += detections.to_coco(image_id, split.category_ids)
            read_ids.add(image_id)
        progress(len(messages) + len(image_ids))
    return results, unreadable, read_ids


def _open_detector(model: Detector | TrainedModel | str | Path) -> Detector:
    if hasattr(model, "detect"):
        return cast("Detector", model)
    from sais.inference.predictor import Predictor

    return Predictor(model)


def _open_split(dataset: DatasetSplit | DataPaths | str | Path, class_names: tuple[str, ...]) -> DatasetSplit:
    """Return a split as it is, or the validation split of a data set with its labels in the order of `class_names`."""
    paths = DataPaths(Path(dataset)) if isinstance(dataset, (str, Path)) else dataset
    if not isinstance(paths, DataPaths):
        return paths
    split = paths.read_valid(class_names)
    if split is None:
        raise InputError(f"{paths.name}: no validation split. Name the split to evaluate on (DataPaths.valid).")
    return split


def _whole_image_function(detector: Detector) -> DetectFunction | None:
    """Return the function that detects on whole images if a predictor's options need more than one pass an image."""
    options = getattr(detector, "options", None)
    if options is None or options.single_pass:
        return None
    function: DetectFunction = detector.batch  # type: ignore[attr-defined]  # only predictors have options
    return function


def _score(detector: Detector, split: DatasetSplit, results: list[dict[str, Any]]) -> Metrics | None:
    """Return the COCO metrics; None if there are no annotations."""
    if not any(image.annotations for image in split.images):
        return None
    return coco_metrics(split, results, _iou_types(detector, split))


def _take_share(split: DatasetSplit, share: tuple[int, int]) -> DatasetSplit:
    """Return the images of one rank; `share` is (rank, world size)."""
    return replace(split, images=split.images[share[0] :: share[1]])


def _predict_canvases(
    detector: Detector, split: DatasetSplit, batch_size: int, workers: int, share: tuple[int, int]
) -> Iterator[PredictedBatch]:
    """Predict on canvases of one size per batch, which the workers read and resize."""
    for loaded in evaluation_loader(split, detector.experiment.input, batch_size, workers, share):
        if loaded.batch is None:
            yield [], [], loaded.unreadable_images
        else:
            detections = detector.detect(loaded.batch.images, loaded.batch.canvas_maps)
            yield loaded.batch.image_ids, detections, loaded.unreadable_images


def _predict_images(
    detect_images: DetectFunction, split: DatasetSplit, batch_size: int, workers: int
) -> Iterator[PredictedBatch]:
    """Predict on whole images, which the workers read and `detect_images` resizes."""
    for items in full_image_loader(split, batch_size, workers):
        samples = [item for item in items if isinstance(item, Sample)]
        detections = detect_images([sample.image for sample in samples])
        yield [sample.image_id for sample in samples], detections, [item for item in items if isinstance(item, str)]


def _iou_types(detector: Detector, split: DatasetSplit) -> tuple[IouType, ...]:
    """Return boxes, and masks if both the model and the objects have masks."""
    objects = (annotation for image in split.images for annotation in image.annotations if not annotation.crowd)
    has_masks = detector.experiment.model.masks and any(a.segmentation is not None for a in objects)
    return ("bbox", "segm") if has_masks else ("bbox",)
