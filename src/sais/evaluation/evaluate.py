"""Evaluation: predict every image of a dataset split, and score the detections by the COCO protocol.

Needs no torch, except for models in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sais.config import Experiment
from sais.data.annotations import DatasetSplit, trainable
from sais.data.objects import select_classes
from sais.data.paths import DataPaths
from sais.errors import InputError, OutOfMemoryError
from sais.evaluation.coco_metrics import COCO_MAX_DETECTIONS, IouType, Metrics, coco_metrics
from sais.inference.score_thresholds import DEFAULT_SCORE
from sais.ops.letterbox import CanvasMap
from sais.results.detections import DetectFunction, Detections
from sais.structures import Sample
from sais.text import short_names

if TYPE_CHECKING:
    from sais.distributed import World
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
    max_detections: int = COCO_MAX_DETECTIONS
    """Number of detections of an image that AP counts, those with the highest scores."""
    score: float = DEFAULT_SCORE
    """Minimum score of the detections that reports analyze and draw: the model's threshold, 0.3 if it has none."""

    def limit_note(self) -> str:
        """Return a sentence if images have more objects than AP counts detections, else an empty string."""
        counts = [len(trainable(record)) for record in self.dataset_split.images]
        crowded = [count for count in counts if count > self.max_detections]
        if not crowded:
            return ""
        return (
            f"{len(crowded)} images have more than {self.max_detections} objects (up to {max(crowded)}), but AP counts "
            f"the best {self.max_detections} detections of an image; evaluate with a higher max_detections"
        )


def evaluate(
    model: Detector | TrainedModel | str | Path,
    data: DatasetSplit | DataPaths | Mapping[str, DatasetSplit] | str | Path,
    batch_size: int = 8,
    workers: int = 2,
    skip_broken: bool = False,
    progress: Callable[[int], None] = lambda images: None,
    detect_images: DetectFunction | None = None,
    world: World | None = None,
    split: str = "valid",
    trust: bool = False,
) -> Evaluation:
    """Predict every image of a dataset split and score the detections.

    Args:
        model: a predictor, a model in memory, or the path of a checkpoint, run or exported model. A predictor's
            options are used: a minimum score other than "auto" limits the detections (the COCO protocol uses all above
            a class threshold of 0.05), and `max_detections` also sets how many detections of an image AP counts (COCO:
            100). With `classes`, the other classes are removed from the ground truth.
        data: a split with the model's class names in the model's order, splits by name, or a data set.
        batch_size: number of images that are predicted at once.
        workers: number of processes (for exported models: threads) that read images.
        skip_broken: whether unreadable images are skipped and counted; they are removed from the ground truth.
        progress: function called with the number of images done since its last call.
        detect_images: function that detects on images (H, W, 3) of different sizes, instead of the model.
        world: processes that evaluate together; None for a single one. Each predicts its share; rank 0 scores and has
            all results, the other ranks receive the metrics only.
        split: name of the split to evaluate on, where `data` has several.
        trust: whether code outside of sais that a model file names is imported and run; see `sais.trust`.

    Raises:
        InputError: the classes differ from the model's, or an image is unreadable and `skip_broken` is False.
    """
    detector = _open_detector(model, trust)
    dataset = _open_split(data, split, detector.class_names)
    _check_classes(dataset, detector)
    options = getattr(detector, "options", None)  # only predictors have options
    limit = (options and options.max_detections) or COCO_MAX_DETECTIONS
    dataset = _keep_classes(dataset, options.classes if options else ())
    if detect_images is None and options is not None and not options.single_pass:
        detect_images = detector.batch  # type: ignore[attr-defined]
    share = (0, 1) if world is None else (world.rank, world.world_size)
    predictions = (
        _predict_canvases(detector, dataset, batch_size, workers, share)
        if detect_images is None
        else _predict_images(detect_images, _take_share(dataset, share), batch_size, workers, detector)
    )
    collected = _collect(predictions, dataset, skip_broken, progress)
    shares = [collected] if world is None else world.gather(collected)
    results = [result for results_of_rank, _, _ in shares for result in results_of_rank]
    unreadable = [message for _, messages_of_rank, _ in shares for message in messages_of_rank]
    read_ids = {image_id for _, _, ids_of_rank in shares for image_id in ids_of_rank}
    if unreadable:
        dataset = replace(dataset, images=tuple(record for record in dataset.images if record.id in read_ids))
    metrics = _score(detector, dataset, results, limit) if world is None or world.is_main else None
    if world is not None:
        metrics = world.broadcast(metrics)
    thresholds = getattr(detector, "thresholds", None)
    score = DEFAULT_SCORE if thresholds is None else thresholds.overall
    return Evaluation(metrics, results, dataset, unreadable, limit, score)


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


def _open_detector(model: Detector | TrainedModel | str | Path, trust: bool = False) -> Detector:
    if hasattr(model, "for_evaluation"):
        model = model.for_evaluation()
    if hasattr(model, "detect"):
        return cast("Detector", model)
    from sais.inference.predictor import Predictor

    return Predictor(model, score=None, trust=trust)


def _open_split(
    data: DatasetSplit | DataPaths | Mapping[str, DatasetSplit] | str | Path, name: str, class_names: tuple[str, ...]
) -> DatasetSplit:
    """Return a split as it is, or the split of a data set with its labels in the order of `class_names`."""
    if isinstance(data, DatasetSplit):
        return data
    if isinstance(data, Mapping):
        if name not in data:
            raise InputError(f"data: no split {name!r}, only {', '.join(map(str, data))}. Name one of them (split).")
        return select_classes(data[name], class_names)
    paths = data if isinstance(data, DataPaths) else DataPaths(Path(data), valid=name)
    split = paths.read_valid(class_names)
    if split is None:
        raise InputError(f"{paths.name}: no split {name!r}. Name the split to evaluate on (split).")
    return split


def _check_classes(dataset: DatasetSplit, detector: Detector) -> None:
    if dataset.class_names != detector.class_names:
        own, known = (", ".join(short_names(names[:5])) for names in (dataset.class_names, detector.class_names))
        raise InputError(
            f"{dataset.name}: its classes ({own}, ...) are not those of the model ({known}, ...). "
            "Evaluate on data with the model's classes."
        )


def _keep_classes(split: DatasetSplit, names: Sequence[str]) -> DatasetSplit:
    """Return a split with the objects of the named classes only; of all classes if there are no names."""
    if not names:
        return split
    images = tuple(
        replace(record, annotations=tuple(a for a in record.annotations if split.class_names[a.label] in names))
        for record in split.images
    )
    return replace(split, images=images)


def _uses_torch(detector: Detector) -> bool:
    """Return whether a detector's backend computes with torch."""
    return bool(getattr(getattr(detector, "backend", None), "uses_torch", True))


def _score(detector: Detector, split: DatasetSplit, results: list[dict[str, Any]], limit: int) -> Metrics | None:
    """Return the COCO metrics; None if there are no annotations."""
    if not any(image.annotations for image in split.images):
        return None
    return coco_metrics(split, results, _iou_types(detector, split), limit)


def _take_share(split: DatasetSplit, share: tuple[int, int]) -> DatasetSplit:
    """Return the images of one rank; `share` is (rank, world size)."""
    return replace(split, images=split.images[share[0] :: share[1]])


def _predict_canvases(
    detector: Detector, split: DatasetSplit, batch_size: int, workers: int, share: tuple[int, int]
) -> Iterator[PredictedBatch]:
    """Predict on canvases of one size per batch, which the workers read and resize."""
    if not _uses_torch(detector):
        from sais.evaluation.image_batches import read_canvases

        for batch in read_canvases(_take_share(split, share), detector.experiment.input, batch_size, workers):
            detections = detector.detect(batch.canvases, batch.canvas_maps) if batch.image_ids else []
            yield batch.image_ids, detections, batch.unreadable_images
        return
    from sais.data.loader import LoadedBatch, evaluation_loader
    from sais.inference.streaming import finish_in_order

    device = getattr(getattr(detector, "backend", None), "device", None)
    on_gpu = getattr(device, "type", "") == "cuda"
    computes_ahead = getattr(detector, "computes_ahead", False)  # then the host scores while the device computes

    def started() -> Iterator[tuple[LoadedBatch, Callable[[], Sequence[Detections]]]]:
        for loaded in evaluation_loader(split, detector.experiment.input, batch_size, workers, share, on_gpu):
            loaded.check_memory()
            batch = loaded.batch
            if batch is None:
                yield loaded, list
            elif computes_ahead:
                yield loaded, cast(Any, detector).start(batch.images, batch.canvas_maps)
            else:
                yield loaded, partial(detector.detect, batch.images, batch.canvas_maps)

    for loaded, detections in finish_in_order(started(), computes_ahead):
        image_ids = [] if loaded.batch is None else loaded.batch.image_ids
        yield image_ids, detections, loaded.unreadable_images


def _predict_images(
    detect_images: DetectFunction, split: DatasetSplit, batch_size: int, workers: int, detector: Detector
) -> Iterator[PredictedBatch]:
    """Predict on whole images, which the workers read and `detect_images` resizes."""
    batches: Iterable[Sequence[Sample | str | OutOfMemoryError]]
    white_level = detector.experiment.input.white_level
    if _uses_torch(detector):
        from sais.data.loader import full_image_loader

        batches = full_image_loader(split, batch_size, workers, white_level)
    else:
        from sais.evaluation.image_batches import read_full_images

        batches = read_full_images(split, batch_size, workers, white_level)
    for items in batches:
        for item in items:
            if isinstance(item, OutOfMemoryError):
                raise item
        samples = [item for item in items if isinstance(item, Sample)]
        detections = detect_images([sample.image for sample in samples])
        yield [sample.image_id for sample in samples], detections, [item for item in items if isinstance(item, str)]


def _iou_types(detector: Detector, split: DatasetSplit) -> tuple[IouType, ...]:
    """Return boxes, and masks if both the model and the objects have masks."""
    objects = (annotation for image in split.images for annotation in image.annotations if not annotation.crowd)
    has_masks = detector.experiment.model.masks and any(a.segmentation is not None for a in objects)
    return ("bbox", "segm") if has_masks else ("bbox",)
