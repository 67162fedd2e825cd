"""The synthetic shapes data set: difficulty, exact masks and determinism."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.data.annotations import object_mask
from sais.data.formats import list_splits, read_dataset
from sais.data.synthetic import SyntheticScene, make_scene, write_shapes
from sais.data.synthetic_outlines import CLASS_NAMES
from sais.errors import ConfigError, InputError
from sais.ops.rasterize import inside

SCENES = 40


@pytest.fixture(scope="module")
def scenes() -> list[SyntheticScene]:
    return [make_scene(0, "valid", i) for i in range(SCENES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shapes")
    write_shapes(path, train=2, valid=SCENES)
    return path


def test_scenes_have_all_classes_occlusion_and_different_sizes(scenes: list[SyntheticScene]) -> None:
    assert len(CLASS_NAMES) >= 4
    assert set(np.concatenate([s.labels for s in scenes])) == set(range(len(CLASS_NAMES)))
    counts = [len(s.labels) for s in scenes]
    assert np.median(counts) >= 6
    assert 0 in counts  # an image without objects
    visible_fractions = np.array(
        [v.sum() / w.sum() for s in scenes for v, w in zip(s.visible, s.unoccluded, strict=True)]
    )
    assert (visible_fractions < 1).mean() >= 0.3  # partly hidden by another object
    assert visible_fractions.min() >= 0.5
    sides = np.sqrt([w.sum() for s in scenes for w in s.unoccluded])
    assert sides.max() / sides.min() > 3


def test_visible_masks_are_disjoint_and_cut_by_upper_objects_only(scenes: list[SyntheticScene]) -> None:
    for s in scenes:
        assert s.visible.sum(0, dtype=int).max(initial=0) <= 1
        above = np.zeros(s.image.shape[:2], bool)
        for visible, unoccluded in zip(s.visible[::-1], s.unoccluded[::-1], strict=True):
            np.testing.assert_array_equal(visible, unoccluded & ~above)
            above |= unoccluded


def has_hole(bits: np.ndarray) -> bool:
    """Return whether an empty pixel cannot be reached from the border, by growing the outside region."""
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    free = ~np.pad(bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 2)
    outside, reached = np.zeros_like(free), 1
    outside[0] = True
    while reached != (reached := int(outside.sum())):
        outside[1:] |= outside[:-1]
        outside[:-1] |= outside[1:]
        outside[:, 1:] |= outside[:, :-1]
        outside[:, :-1] |= outside[:, 1:]
        outside &= free
    return bool((free & ~outside).any())


def test_only_rings_have_holes(scenes: list[SyntheticScene]) -> None:
    selected = scenes[:10]
    holes = [has_hole(mask) for s in selected for mask in s.unoccluded]
    rings = np.concatenate([s.labels for s in selected]) == CLASS_NAMES.index("ring")
    assert not np.any(holes & ~rings)
    assert (holes & rings).sum() >= 0.8 * rings.sum() > 5


def test_color_is_independent_of_the_class(scenes: list[SyntheticScene]) -> None:
    """Compare the mean colors of objects within and between classes."""
    means = {label: [] for label in range(len(CLASS_NAMES))}  # type: dict[int, list[np.ndarray]]
    for s in scenes:
        for label, visible in zip(s.labels, s.visible, strict=True):
            means[int(label)].append(s.image[visible].mean(0))
    for colors in means.values():
        assert np.std(colors, axis=0).min() > 35
        assert np.abs(np.mean(colors, axis=0) - 127).max() < 35


def test_write_shapes_writes_the_scenes(folder: Path, scenes: list[SyntheticScene]) -> None:
    assert list_splits(folder) == ["train", "valid"]
    split = read_dataset(folder, "valid")
    assert split.notes == {}
    assert split.class_names == CLASS_NAMES
    for record, s in zip(split.images, scenes, strict=True):
        assert record.size == (256, 256)
        assert Image.open(record.path).size == (256, 256)
        assert [a.label for a in record.annotations] == s.labels.tolist()
        for annotation, visible in zip(record.annotations, s.visible, strict=True):
            mask = object_mask(annotation, record.size)
            assert mask is not None
            np.testing.assert_array_equal(inside(mask, (0, 0, 256, 256)), visible)
            assert annotation.area == visible.sum()
            rows, columns = np.nonzero(visible)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(annotation.box, tight)


def test_boxes_filled_as_masks_have_low_ap(folder: Path) -> None:
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    from pycocotools import mask as mask_util
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations" / "valid.json"))
        detections = []
        for annotation in truth.dataset["annotations"]:
            x, y, width, height = annotation["bbox"]
            bits = np.zeros((256, 256), np.uint8, order="F")
            bits[y : y + height, x : x + width] = 1
            keys = {key: annotation[key] for key in ("image_id", "category_id")}
            detections.append({**keys, "score": 1.0, "segmentation": mask_util.encode(bits)})
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(detections), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0 <= evaluation.stats[0] < 0.35


def test_make_scene_depends_on_its_arguments_only(scenes: list[SyntheticScene], tmp_path: Path) -> None:
    repeated = make_scene(0, "valid", 3)
    np.testing.assert_array_equal(repeated.image, scenes[3].image)
    np.testing.assert_array_equal(repeated.visible, scenes[3].visible)
    for other in (make_scene(1, "valid", 3), make_scene(0, "train", 3), make_scene(0, "valid", 4)):
        assert (other.image != repeated.image).mean() > 0.5
    calls: list[tuple[int, int]] = []
    write_shapes(tmp_path / "a", 2, 1, progress=lambda done, total: calls.append((done, total)))
    write_shapes(tmp_path / "b", 3, 1)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for name in ("train_00000.jpg", "train_00001.jpg"):
        path = Path("images") / "train" / name
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert len(json.loads((tmp_path / "b" / "annotations" / "train.json").read_text())["images"]) == 3


def test_make_scene_of_other_sizes_and_write_shapes_with_invalid_arguments(tmp_path: Path) -> None:
    wide = make_scene(0, "train", 1, (128, 320))
    assert wide.image.shape == (128, 320, 3)
    assert wide.visible.shape == (len(wide.labels), 128, 320)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file is not a folder"):
        write_shapes(tmp_path / "file", 1, 1)
    with pytest.raises(ConfigError, match="at least 1"):
        write_shapes(tmp_path / "none", 0, 1)
    with pytest.raises(ConfigError, match="at least 64"):
        write_shapes(tmp_path / "none", 1, 1, (32, 256))
