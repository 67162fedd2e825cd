"""`sais.convert`: every format has the objects of its source, counts what it cannot hold, and overwrites nothing."""

from __future__ import annotations

import json
import os
import shutil
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sais
from sais import cli
from sais.commands.convert import ConvertArguments
from sais.commands.predict import PredictArguments
from sais.data.annotations import DatasetSplit, object_mask
from sais.data.class_selection import NOT_CHOSEN
from sais.data.formats import read_dataset
from sais.data.label_folder import unique_stems
from sais.data.writers import WRITERS
from sais.errors import ConfigError, InputError
from sais.ops.rasterize import inside
from sais.ops.rle import encode
from sais.results import not_written as kinds

SIZE = (60, 80)
READABLE = tuple(name for name in WRITERS if name != "geojson")
"""Formats that sais reads."""


def blobs(random: np.random.Generator, count: int) -> list[np.ndarray]:
    """Return masks that do not overlap, (H, W) bool each, of several parts and with holes."""
    owners = np.zeros(SIZE, int)
    for i in range(count):
        for _ in range(random.integers(1, 3)):
            y, x, size = random.integers(0, 40), random.integers(0, 60), random.integers(6, 25)
            part = owners[y : y + size, x : x + size + 5]
            part[random.random(part.shape) < 0.97] = i + 1
    return [owners == i + 1 for i in range(count) if (owners == i + 1).any()]


def write_data(folder: Path, seed: int = 0, polygons: bool = False) -> Path:
    """Write a COCO data set with splits train and valid, and return its folder."""
    random = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train", 4), ("valid", 2)):
        images, annotations = [], []
        (folder / "images" / split).mkdir(parents=True)
        for number in range(1, count + 1):
            name = f"image {number}.png"
            Image.fromarray(random.integers(0, 255, (*SIZE, 3), np.uint8)).save(folder / "images" / split / name)
            images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
            for mask in blobs(random, 0 if number == count else 3):
                segmentation: Any = encode(mask)
                if polygons:
                    center = random.uniform(20, 40, 2)
                    segmentation = [(center + random.normal(0, 9, (7, 2))).reshape(-1).tolist()]
                entry = {"image_id": number, "category_id": int(random.choice([3, 7, 9])), "iscrowd": 0}
                annotations.append(entry | {"id": len(annotations) + 1, "segmentation": segmentation})
        names = [{"id": 3, "name": "cat"}, {"id": 7, "name": "polar bear"}, {"id": 9, "name": "Bär: ü"}]
        document = {"images": images, "annotations": annotations, "categories": names}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return folder


def add_objects(folder: Path, *entries: dict[str, Any]) -> None:
    """Add objects to the first training image of a data set of `write_data`, in place of its own."""
    path = folder / "annotations/train.json"
    document = json.loads(path.read_text())
    document["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 3, "iscrowd": 0} | entry for i, entry in enumerate(entries, 1)
    ]
    path.write_text(json.dumps(document))


def pixels(split: DatasetSplit) -> dict[str, list[tuple[str, bool, bytes]]]:
    """Return class, crowd and pixels of the objects of each image, sorted, by the image's name without suffix."""
    images = {}
    for record in split.images:
        height, width = record.size
        rows = []
        for annotation in record.annotations:
            mask = object_mask(annotation, record.size)
            filled = b"" if mask is None else inside(mask, (0, 0, width, height)).tobytes()
            rows.append((split.class_names[annotation.label], annotation.crowd, filled))
        images[record.path.stem] = sorted(rows)
    return images


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("format", READABLE)
def test_convert_keeps_every_pixel_of_masks(format: str, seed: int, tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", seed)
    for result in sais.convert(source, tmp_path / format, format):
        expected, split = read_dataset(source, result.name), read_dataset(tmp_path / format, result.name)
        assert by_name(split) == by_name(expected)
        assert result.images == len(expected.images)
        assert result.objects == sum(len(record.annotations) for record in expected.images)
        assert set(expected.class_names) == set(split.class_names)
        assert not split.notes
        for first, second in zip(expected.images, sorted(split.images, key=lambda r: r.path.stem[-1]), strict=True):
            np.testing.assert_array_equal(first.read(), second.read())


def by_name(split: DatasetSplit) -> list[Any]:
    """Return `pixels` in the order of the numbers of the images, to whose names formats add others."""
    return [rows for _, rows in sorted(pixels(split).items(), key=lambda item: item[0][-1])]


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme"])
def test_convert_keeps_polygons_to_the_last_digits(format: str, tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", 5, polygons=True)
    sais.convert(source, tmp_path / format, format)
    expected, split = read_dataset(source, "train"), read_dataset(tmp_path / format, "train")
    for first, second in zip(expected.images, sorted(split.images, key=lambda r: r.path.stem[-1]), strict=True):
        for before, after in zip(first.annotations, second.annotations, strict=True):
            assert isinstance(before.segmentation, list)
            assert isinstance(after.segmentation, list)
            a, b = (np.array(s.segmentation[0]).reshape(-1, 2) for s in (before, after))
            # Rings may run the other way round; coordinates outside of the image are clipped in YOLO.
            difference = min(np.abs(a - b).max(), np.abs(a - b[::-1]).max()) if len(a) == len(b) else 0
            assert difference < 1e-12
            assert len(a) == len(b) or format == "yolo"


def test_convert_counts_what_a_format_cannot_hold(tmp_path: Path) -> None:
    box, hidden, crowd = [2.0, 2, 20, 20], np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    hidden[30:40, 30:40] = True
    top = hidden.copy()
    top[30:33, 30:33] = False
    crowd[50:60, 60:70] = True
    source = write_data(tmp_path / "source")
    entries = [{"bbox": box}, {"segmentation": encode(hidden)}, {"segmentation": encode(top)}]
    add_objects(source, *entries, {"segmentation": encode(crowd), "iscrowd": 1})
    notes = {format: sais.convert(source, tmp_path / format, format)[0].notes for format in WRITERS}
    counts = {format: {kind: count for kind, count in values.items() if count} for format, values in notes.items()}
    assert counts["coco"] == counts["labelme"] == counts["geojson"] == {}
    assert counts["yolo"] == {kinds.CROWD: 1, kinds.BOX_AS_OUTLINE: 1}
    assert counts["masks"] == {kinds.BOX_LEFT_OUT: 1, kinds.HIDDEN: 1}
    assert counts["voc"] == {kinds.BOX_IN_XML: 1, kinds.HIDDEN: 1, kinds.VOID: 1}
    assert {kinds.BOX_LEFT_OUT: 1, kinds.HIDDEN: 1}.items() <= counts["cityscapes"].items()
    for format in ("coco", "labelme", "masks", "cityscapes"):
        (record, *_) = sorted(read_dataset(tmp_path / format, "train").images, key=lambda r: r.path.name)
        (region,) = (annotation for annotation in record.annotations if annotation.crowd)
        mask = object_mask(region, SIZE)
        assert mask is not None
        np.testing.assert_array_equal(inside(mask, (0, 0, SIZE[1], SIZE[0])), crowd)


def test_convert_writes_boxes_where_no_object_has_a_mask(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source")
    for split in ("train", "valid"):
        path = source / f"annotations/{split}.json"
        document = json.loads(path.read_text())
        document["annotations"] = [{"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "bbox": [8, 6, 40, 30]}]
        path.write_text(json.dumps(document))
    for format in ("coco", "yolo", "labelme", "voc"):
        assert not any(+result.notes for result in sais.convert(source, tmp_path / format, format))
        split = read_dataset(tmp_path / format, "train")
        (annotation,) = (annotation for record in split.images for annotation in record.annotations)
        assert annotation.segmentation is None
        np.testing.assert_allclose(annotation.box, [8, 6, 48, 36])


def test_convert_copies_links_or_leaves_images(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source")
    first = source / "images/train/image 1.png"
    for mode in ("copy", "link", "none"):
        for _ in range(2):  # a conversion can be repeated
            sais.convert(source, tmp_path / mode, "yolo", images=mode)  # type: ignore[arg-type]
        target = tmp_path / mode / "images/train/image 1.png"
        assert target.exists() == (mode != "none")
        assert not target.exists() or os.path.samefile(first, target) == (mode == "link")
    sais.convert(source, tmp_path / "labelme", "labelme", images="none")
    document = json.loads((tmp_path / "labelme/train/image 1.json").read_text())
    assert (tmp_path / "labelme/train" / document["imagePath"]).samefile(first)


def test_convert_turns_images_upright(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source / "images/train/image 1.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(source / "images/train/image 1.png", exif=exif)
    before = read_dataset(source, "train").images[0].read()
    assert before.shape[:2] == SIZE
    sais.convert(source, tmp_path / "masks", "masks")
    with Image.open(tmp_path / "masks/images/train/image 1.png") as image:
        assert image.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(image), before)


def test_convert_refuses_to_overwrite(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source")
    out = tmp_path / "out"
    sais.convert(source, out, "yolo")
    label = out / "labels/train/image 1.txt"
    label.write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    with pytest.raises(InputError, match=r"image 1.txt: exists"):
        sais.convert(source, out, "yolo")
    sais.convert(source, out, "yolo", overwrite=True)
    assert label.read_text() != "0 0.1 0.1 0.2 0.1 0.2 0.2\n"
    (tmp_path / "taken/labels/train").mkdir(parents=True)
    shutil.copy(label, tmp_path / "taken/labels/train/image 1.txt")
    for place, message in ((source, "the folder of the data set"), (tmp_path / "taken", "exists")):
        before = sorted(place.rglob("*"))
        with pytest.raises(InputError, match=message):
            sais.convert(source, place, "yolo", overwrite=place == source)
        assert sorted(place.rglob("*")) == before
    with pytest.raises(ConfigError, match="unknown"):
        sais.convert(source, out, "pdf")


def test_convert_resumes_after_an_interruption_and_removes_what_is_left_over(tmp_path: Path) -> None:
    source, out = write_data(tmp_path / "source"), tmp_path / "out"

    def interrupt(total: int) -> Any:
        def advance(count: int) -> None:
            raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        sais.convert(source, out, "labelme", start=interrupt)
    assert (out / "train/image 1.json").exists()
    sais.convert(source, out, "labelme")
    assert len(list(out.rglob("*.json"))) == 6
    sais.convert(source, out, "labelme", splits=["valid"])
    assert {path.parent.name for path in out.rglob("*.json")} == {"valid"}
    sais.convert(source, out, "yolo")
    assert not list(out.rglob("*.json"))


def test_convert_leaves_out_and_counts_images_that_are_missing_or_unreadable(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source")
    (source / "images/train/image 1.png").unlink()
    (source / "images/train/image 2.png").unlink()
    (source / "images/train/image 2.jpg").write_bytes(b"no image")  # which cannot become a PNG file
    path = source / "annotations/train.json"
    path.write_text(path.read_text().replace("image 2.png", "image 2.jpg"))
    (result, _) = sais.convert(source, tmp_path / "png", "cityscapes")
    assert (result.images, result.objects, result.notes[kinds.NO_IMAGE]) == (2, 3, 2)
    assert len(list((tmp_path / "png/gtFine/train").rglob("*instanceIds.png"))) == 2
    assert len(read_dataset(tmp_path / "png", "train").images) == 2
    (result, _) = sais.convert(source, tmp_path / "labels", "yolo", images="none")
    assert result.images == 4


@pytest.mark.parametrize(("format", "limit"), [("masks", 100_000), ("cityscapes", 55), ("voc", 254), ("yolo", 999)])
def test_convert_of_many_classes(format: str, limit: int, tmp_path: Path) -> None:
    source = write_data(tmp_path / "source")
    expected = {}
    for split in ("train", "valid"):
        path = source / f"annotations/{split}.json"
        document = json.loads(path.read_text())
        document["categories"] += [{"id": i, "name": f"class {i}\t{chr(127)}"} for i in range(100, 400)]
        path.write_text(json.dumps(document))
        expected[split] = by_name(read_dataset(source, split))
    if limit < 303:
        with pytest.raises(InputError, match=r"classes.*above the limit of"):
            sais.convert(source, tmp_path / "out", format)
        assert not (tmp_path / "out").exists()
        return
    sais.convert(source, tmp_path / "out", format)
    for split, rows in expected.items():
        assert by_name(read_dataset(tmp_path / "out", split)) == rows


def test_commands_offer_the_formats_of_the_table() -> None:
    for command in (ConvertArguments, PredictArguments):
        kind = typing.get_type_hints(command)["to"]
        choices = [choice for part in typing.get_args(kind) for choice in typing.get_args(part) or [part]]
        assert [choice for choice in choices if choice is not type(None)] == list(WRITERS)


def test_convert_names_images_of_several_folders_uniquely(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "a/y.jpg", "a/y.png", "a_x.jpg")]
    stems = unique_stems([(path, path.name) for path in paths])
    assert len(set(stems)) == 5
    assert not any("/" in stem for stem in stems)
    assert stems[0] == "a_x"


def test_convert_of_names_with_line_breaks_and_bytes_that_are_not_utf8_can_be_repeated(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("such names do not exist on Windows")
    source = write_data(tmp_path / "source")
    path = source / "annotations/train.json"
    for number, name in enumerate(("a\nb.png", "a\rb.png", os.fsdecode(b"\xff.png")), 1):
        (source / f"images/train/image {number}.png").rename(source / "images/train" / name)
        path.write_text(path.read_text().replace(f'"image {number}.png"', json.dumps(name)))
    expected = sorted(len(record.annotations) for record in read_dataset(source, "train").images)
    for format in READABLE:
        for _ in range(2):
            sais.convert(source, tmp_path / format, format)
        found = read_dataset(tmp_path / format, "train")
        assert sorted(len(record.annotations) for record in found.images) == expected


def test_convert_does_not_add_to_the_labels_that_it_reads(tmp_path: Path) -> None:
    sais.convert(write_data(tmp_path / "source"), tmp_path / "labels", "labelme", splits=["train"])
    whole = tmp_path / "labels/train"  # without splits: read with its subfolders
    with pytest.raises(InputError, match="inside of .* whose labels it would add to"):
        sais.convert(whole, whole / "more", "labelme")
    assert not (whole / "more").exists()
    assert len(sais.convert(whole, whole / "yolo", "yolo")) == 2


def test_convert_command_reports_each_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_data(tmp_path / "source")
    add_objects(source, {"bbox": [2, 2, 20, 20]}, {"segmentation": [[30, 30, 50, 30, 50, 50]]})
    assert cli.main(["convert", str(source), str(tmp_path / "out"), "--to", "yolo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train: 4 images, 2 objects" in lines[0]
    assert "left out)" not in lines[0]
    assert f"{kinds.BOX_AS_OUTLINE}: 1" in lines[0]
    assert lines[1].startswith("valid: 2 images, 3 objects")
    assert lines[-1] == f"wrote {tmp_path / 'out'}"
    assert cli.main(["convert", str(source), str(tmp_path / "one"), "--to", "yolo", "--split", "valid"]) == 0
    assert not (tmp_path / "one/labels/train").exists()
    assert cli.main(["convert", str(tmp_path), str(tmp_path / "x"), "--to", "yolo"]) == 2
    file = str(source / "annotations/valid.json")
    assert cli.main(["convert", file, str(tmp_path / "c"), "--to", "voc", "--image-folder", str(source)]) == 2
    images = str(source / "images/valid")
    assert cli.main(["convert", file, str(tmp_path / "c"), "--to", "voc", "--image-folder", images]) == 0
    assert (tmp_path / "c/ImageSets/Segmentation/valid.txt").read_text() == "image_1\nimage_2\n"


def test_convert_prints_how_many_images_and_objects_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_data(tmp_path / "source")
    add_objects(source, {"bbox": [2, 2, 20, 20]}, {"segmentation": [[30, 30, 50, 30, 50, 50]], "iscrowd": 1}, {})
    (source / "images/train/image 2.png").unlink()
    assert cli.main(["convert", str(source), str(tmp_path / "out"), "--to", "masks"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("train: 3 images (1 left out), 1 object (1 left out); ")
    assert f"{kinds.BOX_LEFT_OUT}: 1" in first
    assert f"{kinds.NO_IMAGE}: 1" in first
    assert "annotations with neither a box nor a mask dropped: 1" in first


def test_convert_chooses_merges_and_renames_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_data(tmp_path / "source")
    counts = Counter(
        row[0] for split in ("train", "valid") for rows in by_name(read_dataset(source, split)) for row in rows
    )
    for classes, expected in (
        (["cat"], {"cat": counts["cat"]}),
        (["animal=cat+polar bear"], {"animal": counts["cat"] + counts["polar bear"]}),
        (["animal=cat", "*"], {"animal": counts["cat"]} | {name: counts[name] for name in ("polar bear", "Bär: ü")}),
        (["cat=polar bear", "polar bear=cat"], {"cat": counts["polar bear"], "polar bear": counts["cat"]}),
    ):
        out = tmp_path / classes[0].replace("=", "_")
        assert cli.main(["convert", str(source), str(out), "--to", "coco", "--classes", *classes]) == 0
        lines = capsys.readouterr().out.splitlines()
        found: Counter[str] = Counter()
        for split in ("train", "valid"):
            written = read_dataset(out, split)
            assert sorted(written.class_names) == sorted(expected)
            found += Counter(row[0] for rows in by_name(written) for row in rows)
        assert found == {name: count for name, count in expected.items() if count}
        dropped = sum(counts.values()) - sum(expected.values())
        assert (
            sum(int(part.rpartition(" ")[2]) for line in lines for part in line.split("; ") if NOT_CHOSEN in part)
            == dropped
        )
    assert cli.main(["convert", str(source), str(tmp_path / "no"), "--to", "coco", "--classes", "cow"]) == 2
    assert "no class 'cow'" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_convert_draws_a_subset_with_a_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_data(tmp_path / "source")

    def names(out: Path) -> list[str]:
        return sorted(path.name for path in out.rglob("*.png"))

    for number in range(2):
        arguments = ["convert", str(source), str(tmp_path / str(number)), "--to", "yolo", "--max-images", "2"]
        assert cli.main([*arguments, "--seed", "3"]) == 0
        assert capsys.readouterr().out.startswith("train: 2 images (2 left out), ")
    assert names(tmp_path / "0") == names(tmp_path / "1")
    results = [sais.convert(source, tmp_path / f"seed {i}", "yolo", max_images=2, seed=i) for i in range(6)]
    assert {(result.images, result.images_left_out) for (result, _) in results} == {(2, 2)}
    assert {(result.images, result.images_left_out) for (_, result) in results} == {(2, 0)}
    assert len({tuple(names(tmp_path / f"seed {i}")) for i in range(6)}) > 1


def test_convert_to_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    source = write_data(tmp_path / "source")
    sais.convert(source, tmp_path / "out", "coco")
    theirs = coco.COCO(str(tmp_path / "out/annotations/train.json"))
    masks = [theirs.annToMask(theirs.anns[i]).astype(bool).tobytes() for i in sorted(theirs.anns)]
    ours = [row[2] for rows in pixels(read_dataset(source, "train")).values() for row in rows]
    assert sorted(masks) == sorted(ours)
    assert theirs.getCatIds() == [3, 7, 9]


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_convert_is_read_by_supervision(format: str, tmp_path: Path) -> None:
    reason = 'pip install "supervision>=0.30": older versions read neither RLE of single objects nor all VOC files'
    supervision = pytest.importorskip("supervision", minversion="0.30", reason=reason)
    source, out = write_data(tmp_path / "source"), tmp_path / "out"
    sais.convert(source, out, format)
    images = str(out / "images/train")
    if format == "coco":
        dataset = supervision.DetectionDataset.from_coco(images, str(out / "annotations/train.json"), force_masks=True)
    elif format == "yolo":
        dataset = supervision.DetectionDataset.from_yolo(images, str(out / "labels/train"), str(out / "data.yaml"))
    else:
        dataset = supervision.DetectionDataset.from_pascal_voc(str(out / "JPEGImages"), str(out / "Annotations"))
    counts = [len(detections) for _, _, detections in dataset]
    expected = [len(record.annotations) for record in read_dataset(source, "train").images]
    assert sum(counts) >= sum(expected)


def test_convert_to_labelme_is_read_by_labelme(tmp_path: Path) -> None:
    labelme = pytest.importorskip("labelme", reason="pip install labelme")
    source = write_data(tmp_path / "source")
    sais.convert(source, tmp_path / "out", "labelme")
    expected = pixels(read_dataset(source, "train"))["image 1"]
    shapes = labelme.LabelFile(str(tmp_path / "out/train/image 1.json")).shapes
    masks: dict[Any, np.ndarray] = {}
    for position, shape in enumerate(shapes):
        mask = masks.setdefault(shape["group_id"] or -position, np.zeros(SIZE, bool))
        if shape["mask"] is not None:
            (x1, y1), (x2, y2) = np.array(shape["points"]).astype(int)
            mask[y1 : y2 + 1, x1 : x2 + 1] |= shape["mask"]
    assert {row[0] for row in expected} == {shape["label"] for shape in shapes}
    assert {mask.tobytes() for mask in masks.values() if mask.any()} <= {row[2] for row in expected}
    assert any(mask.any() for mask in masks.values())


def test_convert_to_yolo_is_read_by_ultralytics(tmp_path: Path) -> None:
    reader = pytest.importorskip("ultralytics.data.utils", reason="pip install ultralytics")
    source = write_data(tmp_path / "source")
    sais.convert(source, tmp_path / "out", "yolo")
    config = reader.check_det_dataset(str(tmp_path / "out/data.yaml"), autodownload=False)
    assert Path(config["train"]) == tmp_path / "out/images/train"
    assert list(config["names"].values()) == ["cat", "polar bear", "Bär: ü"]
    for record in read_dataset(source, "train").images:
        image = tmp_path / "out/images/train" / record.path.name
        label = tmp_path / "out/labels/train" / f"{record.path.stem}.txt"
        result = reader.verify_image_label((str(image), str(label), "", False, 3, 0, 0, False))
        assert len(result[1]) == len(record.annotations), result[-1]
        for segment, annotation in zip(result[3], record.annotations, strict=True):
            points = segment * np.array([SIZE[1], SIZE[0]])
            theirs = reader.polygon2mask(SIZE, [points.reshape(-1)]).astype(bool)
            mask = object_mask(annotation, SIZE)
            assert mask is not None
            ours = inside(mask, (0, 0, SIZE[1], SIZE[0]))
            # OpenCV also fills the pixels of the outline, to the right and below, and the bridges.
            assert not (ours & ~theirs).any()
            assert (ours & theirs).sum() / theirs.sum() > 0.5


def test_convert_to_cityscapes_is_read_by_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    source = write_data(tmp_path / "source")
    sais.convert(source, tmp_path / "out", "cityscapes")
    theirs = datasets.Cityscapes(tmp_path / "out", "train", target_type=["instance", "semantic"])
    records = {record.path.stem: record for record in read_dataset(source, "train").images}
    assert len(theirs) == len(records)
    for path, (image, (instances, classes)) in zip(theirs.images, theirs, strict=False):  # it has no __iter__
        record = records[Path(path).stem.removesuffix("_leftImg8bit")]
        np.testing.assert_array_equal(np.asarray(image), record.read())
        ids = np.asarray(instances).astype(int)
        assert len(np.unique(ids[ids >= 1000])) == len(record.annotations)
        np.testing.assert_array_equal(np.asarray(classes), np.where(ids < 1000, ids, ids // 1000))
