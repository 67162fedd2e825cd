"""Evaluation: every image of an index through the predictor, scored by the COCO protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sais.data.annotations import DatasetSplit
from sais.data.loader import evaluation_loader, full_image_loader
from sais.distributed import SINGLE_PROCESS, World
from sais.engine.architecture import Detector
from sais.errors import SaisError
from sais.evaluation.coco_metrics import IouType, Metrics, coco_metrics
from sais.results.detections import DetectFunction, Detections
from sais.structures import Sample

PredictedBatch = tuple[list[int], Sequence[Detections], list[str]]
"""Image ids, what was found on those images, and a line for each image beside them that could not be read."""


@dataclass
class Evaluation:
    """What an evaluation found."""

    metrics: Metrics | None
    """None where the images have no annotations."""
    results: list[dict[str, Any]]
    """Detections in the COCO submission format."""
    dataset_split: DatasetSplit
    """The images that were looked at."""
    unreadable_images: list[str] = field(default_factory=list)
    """One line for each image that could not be read and was left out."""


def evaluate(
    predictor: Detector,
    index: DatasetSplit,
    batch: int = 8,
    workers: int = 2,
    skip_broken: bool = False,
    progress: Callable[[int], None] = lambda images: None,
    find: DetectFunction | None = None,
    ranks: World = SINGLE_PROCESS,
) -> Evaluation:
    """Predict every image of `index` and score the predictions.

    Args:
        predictor: its score threshold decides what is kept; the protocol's is 0.05.
        index: with the class names of the predictor, in its order.
        skip_broken: leave unreadable images out of results and ground truth, and count them.
        progress: called with the number of images done since the last call.
        find: finds on whole images, where one canvas of the loader's is not enough: a predictor's `batch` that looks
            at each image in several ways. None: `predictor.detect` on the loader's canvases.
        ranks: each predicts its share, the first gathers and scores all of it. The others get metrics only.

    Raises:
        SaisError: other classes than the model's, or an unreadable image without `skip_broken`.
    """
    if index.class_names != predictor.class_names:
        raise SaisError(
            f"{index.name}: its classes ({', '.join(index.class_names[:5])}, ...) are not the model's "
            f"({', '.join(predictor.class_names[:5])}, ...); evaluate on data with the classes the model was trained on"
        )
    results: list[dict[str, Any]] = []
    broken: list[str] = []
    seen: set[int] = set()
    share = (ranks.rank, ranks.world_size)
    way = (
        _by_canvas(predictor, index, batch, workers, share)
        if find is None
        else _by_image(find, _part(index, share), batch, workers)
    )
    for image_ids, found, unreadable in way:
        if unreadable and not skip_broken:
            raise SaisError(f"{unreadable[0]} (or leave such images out with --skip-broken)")
        broken += unreadable
        for image_id, detections in zip(image_ids, found, strict=True):
            results += detections.to_coco(image_id, index.category_ids)
            seen.add(image_id)
        progress(len(unreadable) + len(found))
    shares = ranks.gather((results, broken, seen))
    results = [one for of_rank, _, _ in shares for one in of_rank]
    broken = [line for _, of_rank, _ in shares for line in of_rank]
    seen = {image_id for _, _, of_rank in shares for image_id in of_rank}
    if broken:
        index = replace(index, images=tuple(i for i in index.images if i.id in seen))
    metrics = ranks.broadcast(_scored(predictor, index, results) if ranks.is_main else None)
    return Evaluation(metrics, results, index, broken)


def _scored(predictor: Detector, index: DatasetSplit, results: list[dict[str, Any]]) -> Metrics | None:
    """By the COCO protocol; None where there are no annotations."""
    if not any(image.annotations for image in index.images):
        return None
    return coco_metrics(index, results, _kinds(predictor, index))


def _part(index: DatasetSplit, share: tuple[int, int]) -> DatasetSplit:
    """A rank's share of the images."""
    return replace(index, images=index.images[share[0] :: share[1]])


def _by_canvas(
    predictor: Detector, index: DatasetSplit, batch: int, workers: int, share: tuple[int, int]
) -> Iterator[PredictedBatch]:
    """Workers read and fit the images, the predictor sees canvases of one size."""
    for loaded in evaluation_loader(index, predictor.experiment.input, batch, workers, share):
        if loaded.batch is None:
            yield [], [], loaded.unreadable_images
        else:
            found = predictor.detect(loaded.batch.images, loaded.batch.canvas_maps)
            yield loaded.batch.image_ids, found, loaded.unreadable_images


def _by_image(find: DetectFunction, index: DatasetSplit, batch: int, workers: int) -> Iterator[PredictedBatch]:
    """Workers read the images, `find` fits them as it likes."""
    for items in full_image_loader(index, batch, workers):
        samples = [item for item in items if isinstance(item, Sample)]
        found = find([sample.image for sample in samples])
        yield [sample.image_id for sample in samples], found, [item for item in items if isinstance(item, str)]


def _kinds(predictor: Detector, index: DatasetSplit) -> tuple[IouType, ...]:
    """Boxes, and masks where both the model and the objects have them."""
    objects = (a for image in index.images for a in image.annotations if not a.crowd)
    both = predictor.experiment.model.masks and any(a.segmentation is not None for a in objects)
    return ("bbox", "segm") if both else ("bbox",)
