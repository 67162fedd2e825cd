"""Suggestions of a model for labels: planted mistakes are found and ranked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from sais.config import Experiment
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, make_annotation
from sais.data.doctor.findings import Finding
from sais.data.doctor.kinds import NEVER_FOUND, OTHER_CLASS, UNLABELED
from sais.errors import InputError
from sais.evaluation.label_suggestions import LOW_SCORE, overlap_areas, read_labels, suggest_labels
from sais.inference.predictor import Predictor
from sais.ops.numpy_boxes import box_iou
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

SIZE = (100, 120)
Found = tuple[str, float, tuple[int, int, int, int]]


class FakePredictor:
    """A predictor with given detections for each image, by the value of its first pixel."""

    def __init__(self, *found: Sequence[Found], names: tuple[str, ...] = ("dog", "cat", "eel"), masks: bool = True):
        self.experiment, self.class_names, self.thresholds = Experiment(), names, None
        self._found, self._masks = found, masks

    def stream(self, images: Iterable[np.ndarray]) -> Iterator[Detections]:
        """Yield the detections of each image (H, W, 3)."""
        for image in images:
            rows = sorted(self._found[int(image[0, 0, 0])], key=lambda row: -row[1])
            boxes = np.array([box for _, _, box in rows], np.float32).reshape(-1, 4)
            labels = np.array([self.class_names.index(name) for name, _, _ in rows], np.int64)
            masks = [CroppedMask(x1, y1, np.ones((y2 - y1, x2 - x1), bool)) for _, _, (x1, y1, x2, y2) in rows]
            scores = np.array([score for _, score, _ in rows], np.float32)
            yield Detections(SIZE, boxes, scores, labels, self.class_names, masks if self._masks else [])


def label(number: int, name: str, box: tuple[int, int, int, int], crowd: bool = False) -> Annotation:
    x1, y1, x2, y2 = box
    outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return make_annotation(number, ("cat", "dog", "newt").index(name), segmentation=outline, crowd=crowd)


def split_of(*images: Sequence[Annotation]) -> DatasetSplit:
    records = tuple(
        ImageRecord(i, np.full((*SIZE, 3), i, np.uint8), SIZE, tuple(objects)) for i, objects in enumerate(images)
    )
    return DatasetSplit("train", ("cat", "dog", "newt"), images=records)


def suggest(predictor: FakePredictor, split: DatasetSplit) -> dict[str, Finding]:
    return {finding.kind: finding for finding in suggest_labels(cast(Any, predictor), split)}


def test_detections_without_a_label_are_ranked_by_score() -> None:
    boxes = [(0, 0, 20, 20), (40, 0, 60, 20), (80, 0, 100, 20), (0, 60, 20, 80)]
    found = [
        ("cat", 0.9, boxes[0]),  # labeled
        ("dog", 0.5, boxes[1]),
        ("dog", 0.2, boxes[2]),  # not confident
        ("cat", 0.8, (5, 5, 15, 15)),  # a part of a labeled object
        ("dog", 0.45, (41, 0, 61, 20)),  # the object of the second again
        ("eel", 0.99, boxes[3]),  # a class that the data set does not have
    ]
    predictor = FakePredictor(found, [("cat", 0.7, boxes[3])])
    findings = suggest(predictor, split_of([label(1, "cat", boxes[0])], []))
    assert set(findings) == {UNLABELED}
    assert [case.text for case in findings[UNLABELED].cases] == [
        "image 1: cat 0.70 at 0 60 20 80",
        "image 0: dog 0.50 at 40 0 60 20",
    ]
    first = findings[UNLABELED].cases[0]
    assert first.image is not None
    assert first.image.image_id == 1
    assert first.detections is not None
    assert first.detections.class_names[first.detections.labels[0]] == "cat"
    assert first.to_dict()["detections"] == [{"class": "cat", "score": 0.7, "box": [0, 60, 20, 80]}]


def test_detections_in_crowds_and_in_objects_without_a_mask_are_labeled() -> None:
    crowd = label(1, "cat", (0, 0, 60, 60), crowd=True)
    box_only = make_annotation(2, 0, box=(70, 0, 110, 40))
    found = [("cat", 0.9, (5, 5, 25, 25)), ("cat", 0.9, (75, 5, 105, 35))]
    for masks in (True, False):
        findings = suggest(FakePredictor(found, masks=masks), split_of([crowd, box_only]))
        assert UNLABELED not in findings


def test_labels_without_any_detection_are_ranked_by_size() -> None:
    small, large, hit, unknown = (
        label(1, "cat", (0, 0, 10, 10)),
        label(2, "dog", (40, 0, 80, 40)),
        label(3, "cat", (0, 50, 20, 70)),
        label(4, "newt", (90, 90, 100, 100)),  # a class that the model does not know
    )
    found = [("dog", 0.06, (0, 50, 20, 70)), ("cat", 0.06, (8, 8, 18, 18))]  # the second has an IoU of 0.02
    findings = suggest(FakePredictor(found), split_of([small, large, hit, unknown]))
    assert findings[NEVER_FOUND].severity == "NOTE"
    assert [case.annotation_ids for case in findings[NEVER_FOUND].cases] == [(2,), (1,)]


def test_other_classes_are_found_where_no_better_detection_agrees() -> None:
    places = [(0, 0, 20, 20), (40, 0, 60, 20), (80, 0, 100, 20)]
    labels = [label(i, "cat", box) for i, box in enumerate(places)]
    found = [
        ("dog", 0.6, places[0]),
        ("dog", 0.5, places[1]),
        ("cat", 0.55, places[1]),  # the model agrees with the label
        ("dog", 0.9, (80, 0, 92, 20)),  # an IoU of 0.6
        ("cat", 0.1, places[0]),
    ]
    findings = suggest(FakePredictor(found), split_of(labels))
    assert set(findings) == {OTHER_CLASS}
    (case,) = findings[OTHER_CLASS].cases
    assert case.annotation_ids == (0,)
    assert case.text == "image 0: annotation 0, cat: detected as dog 0.60"


def test_unreadable_images_are_left_out_and_progress_is_complete(tmp_path: Path) -> None:
    split = split_of([], [])
    broken = replace(split.images[0], id=7, source=tmp_path / "missing.jpg")
    other_size = replace(split.images[0], id=8, size=(10, 10))
    split = replace(split, images=(broken, other_size, *split.images))
    predictor = FakePredictor([("cat", 0.9, (0, 0, 9, 9))], [("cat", 0.8, (0, 0, 9, 9))])
    done: list[int] = []
    (finding,) = suggest_labels(cast(Any, predictor), split, done.append)
    assert [case.image.image_id for case in finding.cases if case.image] == [0, 1]
    assert sum(done) == 4


def test_a_model_of_other_classes_is_an_error() -> None:
    with pytest.raises(InputError, match=r"none of its classes \(cat, dog, newt\) is one of the model \(fox\)"):
        suggest(FakePredictor([], names=("fox",)), split_of([]))


def test_overlap_areas_equal_dense_masks() -> None:
    random = np.random.default_rng(5)
    sets = []
    for count in (6, 4):
        masks = []
        for _ in range(count):
            y, x = random.integers(0, 60, 2)
            masks.append(CroppedMask(x, y, random.random((30, 40)) < 0.5))
        boxes = np.array([[m.x, m.y, m.x + 40, m.y + 30] for m in masks], np.float32)
        zeros = np.zeros(count)
        sets.append(Detections(SIZE, boxes, zeros, zeros, ("cat",), masks))
    expected = np.einsum("dhw,nhw->dn", *(objects.masks().astype(int) for objects in sets))
    np.testing.assert_array_equal(overlap_areas(*sets), expected)


def test_read_labels_has_crowds_and_no_malformed_masks() -> None:
    crowd = label(1, "cat", (0, 0, 60, 60), crowd=True)
    malformed = replace(label(2, "dog", (70, 0, 90, 20)), segmentation={"size": [1, 1], "counts": "zz"})
    labels = read_labels(split_of([]).images[0], split_of([]), (crowd, malformed))
    assert labels.labels.tolist() == [0, 1]
    assert [mask.area for mask in labels.cropped_masks] == [3600, 0]


def test_read_labels_has_masks_beyond_their_boxes() -> None:
    inside = replace(label(1, "cat", (10, 10, 50, 40)), box=np.array([10, 10, 20, 20], np.float32))
    outside = label(2, "cat", (-20, 80, 30, 150))  # of 100 x 120 pixels
    labels = read_labels(split_of([]).images[0], split_of([]), (inside, replace(outside, box=inside.box)))
    assert [mask.area for mask in labels.cropped_masks] == [40 * 30, 30 * 20]
    assert labels.boxes.tolist() == [[10, 10, 20, 20]] * 2


def scene(number: int) -> ImageRecord:
    """Return an image with up to four red disks and blue squares on a gray background."""
    random = np.random.default_rng(number)
    image = random.integers(90, 120, (96, 96, 3)).astype(np.uint8)
    rows, columns = np.mgrid[:96, :96]
    objects = []
    for place in range(4):
        if random.random() < 0.25:
            continue
        y, x = np.array(((24, 24), (24, 72), (72, 24), (72, 72))[place]) + random.integers(-4, 5, 2)
        radius, label = int(random.integers(12, 19)), int(random.integers(2))
        disk = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        square = (abs(rows - y) < radius) & (abs(columns - x) < radius)
        mask = square if label else disk
        image[mask] = (40, 60, 220) if label else (220, 40, 40)
        objects.append(make_annotation(10 * number + place, label, segmentation=mask))
    return ImageRecord(number, image, (96, 96), tuple(objects))


@pytest.mark.slow
def test_removed_labels_and_swapped_classes_are_ranked_first(tiny: Experiment, tmp_path: Path) -> None:
    """Overfit a model on 12 images, then remove 10 of their labels and change the class of 5."""
    import sais

    split = DatasetSplit("train", ("disk", "square"), images=tuple(map(scene, range(12))))
    settings = replace(tiny, input=replace(tiny.input, size=(96, 96)), schedule=replace(tiny.schedule, epochs=30))
    sais.train(settings, dataset=split, valid_dataset=split, out=tmp_path / "run")
    objects = {a.id: a for record in split.images for a in record.annotations}
    order = np.random.default_rng(0).permutation(list(objects)).tolist()
    removed, swapped = set(order[:10]), set(order[10:15])
    images = [
        replace(
            record,
            annotations=tuple(
                replace(a, label=1 - a.label) if a.id in swapped else a
                for a in record.annotations
                if a.id not in removed
            ),
        )
        for record in split.images
    ]
    predictor = Predictor(tmp_path / "run", score=LOW_SCORE, device="cpu")
    findings = {f.kind: f for f in suggest_labels(predictor, replace(split, images=tuple(images)))}
    found = set()
    for case in findings[UNLABELED].cases[:10]:
        assert case.image is not None
        assert case.detections is not None
        places = {a.id: a for a in split.images[case.image.image_id].annotations}
        boxes = np.stack([a.box for a in places.values()]).astype(np.float64)
        found.add(list(places)[box_iou(case.detections.boxes.astype(np.float64), boxes).argmax()])
    assert found == removed
    assert {case.annotation_ids[0] for case in findings[OTHER_CLASS].cases[:5]} == swapped
