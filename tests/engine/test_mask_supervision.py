"""Data sets with boxes but no outlines: all objects, or some of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, make_annotation
from sais.engine.mask_supervision import match_masks
from sais.engine.trainer import train
from sais.inference.predictor import Predictor

OUTLINE = [[30, 20, 80, 20, 80, 60, 30, 60]]


def split_of(name: str, *annotations: Annotation) -> DatasetSplit:
    """Return a split of one image."""
    image = np.zeros((96, 128, 3), np.uint8)
    return DatasetSplit(name, ("part",), images=(ImageRecord(1, image, (96, 128), annotations),))


def box_only(number: int) -> Annotation:
    """Return an object without an outline."""
    return make_annotation(number, 0, box=[30, 20, 80, 60])


def outlined(number: int) -> Annotation:
    """Return an object with an outline."""
    return make_annotation(number, 0, box=[30, 20, 80, 60], segmentation=OUTLINE)


def test_match_masks_turns_masks_off_without_outlines() -> None:
    experiment, (note,) = match_masks(Experiment(), split_of("train", box_only(1), box_only(2)))
    assert experiment == replace(Experiment(), model=replace(Experiment().model, masks=False))
    assert "train: none of its 2 objects has an outline" in note
    assert "boxes only" in note
    crowd = replace(outlined(2), crowd=True)  # is not trained on
    assert not match_masks(Experiment(), split_of("train", box_only(1), crowd))[0].model.masks


def test_match_masks_counts_objects_without_outline() -> None:
    experiment, notes = match_masks(Experiment(), split_of("train", box_only(1), outlined(2), box_only(3)))
    assert experiment == Experiment()
    assert notes == ["train: 2 of 3 objects have no outline: they train class and box, but no mask"]


def test_match_masks_names_a_validation_split_without_outlines() -> None:
    train_split = split_of("train", outlined(1))
    experiment, notes = match_masks(Experiment(), train_split, split_of("valid", box_only(1)))
    assert experiment == Experiment()
    assert notes == ["valid: no object has an outline: boxes are evaluated, masks are not"]


@pytest.mark.parametrize("annotations", [(), (outlined(1),)], ids=["no objects", "outlines"])
def test_match_masks_changes_nothing_for_healthy_data(annotations: tuple[Annotation, ...]) -> None:
    split = split_of("train", *annotations)
    assert match_masks(Experiment(), split, split_of("valid")) == (Experiment(), [])
    boxes = replace(Experiment(), model=replace(Experiment().model, masks=False))
    assert match_masks(boxes, split_of("train", box_only(1))) == (boxes, [])


def write_roboflow(root: Path, segmentations: list[Any], valid_objects: bool = True) -> Path:
    """Write a detection export in Roboflow's layout: an image of one object for each segmentation, "" for no key."""
    for split, values in (("train", segmentations), ("valid", segmentations[:2])):
        folder = root / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for number, value in enumerate(values):
            pixels = np.full((96, 128, 3), 70, np.uint8)
            pixels[20:60, 30:80] = (220, 40, 40)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
            entry = {"id": number, "image_id": number, "category_id": 1, "bbox": [30, 20, 50, 40], "area": 2000}
            entry |= {"iscrowd": 0} | ({} if value == "" else {"segmentation": value})
            if split == "train" or valid_objects:
                annotations.append(entry)
        categories = [{"id": 0, "name": "objects", "supercategory": "none"}, {"id": 1, "name": "part"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "_annotations.coco.json").write_text(json.dumps(document))
    return root


def test_train_without_outlines_makes_a_model_of_boxes(
    tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 21, "none": an empty list, null, no key and an empty part all mean that there is no outline."""
    data = write_roboflow(tmp_path / "none", [[], None, "", [[]]])
    result = train(replace(tiny, schedule=replace(tiny.schedule, epochs=1)), data, tmp_path / "run")
    assert "train: none of its 4 objects has an outline" in capsys.readouterr().out
    assert result.metrics is not None
    assert result.metrics["mask"] is None
    checkpoint = load_checkpoint(tmp_path / "run/model.safetensors")
    assert not checkpoint.experiment.model.masks
    assert not json.loads((tmp_path / "run/experiment.json").read_text())["model"]["masks"]
    assert not [name for name in checkpoint.part("model") if "protonet" in name or "coefficients" in name]
    detections = Predictor(tmp_path / "run", score=0.0)(data / "valid/0.png")
    assert len(detections)
    assert detections.cropped_masks is None or not len(detections.cropped_masks)
    resumed = train(replace(tiny, schedule=replace(tiny.schedule, epochs=1)), data, tmp_path / "run", resume=True)
    assert resumed.iterations == result.iterations


def test_train_with_half_of_the_outlines_uses_those(
    tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 21, "half": with mosaic and copy-paste, which leave objects without outline where they are."""
    data = write_roboflow(tmp_path / "half", [OUTLINE, []] * 3)
    augmented = replace(
        tiny,
        augment=replace(tiny.augment, mosaic=0.5, copy_paste=1.0, crop=0.5),
        schedule=replace(tiny.schedule, epochs=1),
    )
    result = train(augmented, data, tmp_path / "run")
    output = capsys.readouterr().out
    assert "train: 3 of 6 objects have no outline: they train class and box, but no mask" in output
    assert "train: objects without a mask" not in output  # the reader's note of the same
    assert load_checkpoint(tmp_path / "run/model.safetensors").experiment.model.masks
    assert result.metrics is not None
    assert result.metrics["mask"] is not None
    assert result.metrics["without_mask"] == 1


def test_train_with_fewer_images_than_a_batch_says_so(
    tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 21, "few" and "no_valid_objects": AP is undefined, and the last weights are the result."""
    data = write_roboflow(tmp_path / "few", [OUTLINE] * 3, valid_objects=False)
    result = train(replace(tiny, schedule=replace(tiny.schedule, epochs=1)), data, tmp_path / "run")
    output = capsys.readouterr().out
    assert "train: 3 images, fewer than one batch: each batch has 3 instead of optim.batch_size 4" in output
    assert "AP is undefined" in output
    assert result.iterations == 1
    assert (tmp_path / "run/model.safetensors").is_file()
    assert not (tmp_path / "run/best.safetensors").exists()
