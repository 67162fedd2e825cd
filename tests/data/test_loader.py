"""The loader: a sample hangs on (seed, epoch, position) alone; what a batch holds, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sais.config import AugmentConfig, Experiment, InputConfig
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.dataset import AugmentedSamples, SampleKey
from sais.data.formats import read_dataset
from sais.data.loader import (
    EpochBatches,
    EvaluationDataset,
    LoadedBatch,
    LoadedSample,
    TrainingDataset,
    collate,
    evaluation_loader,
    rasterize_ground_truth,
    training_loader,
)
from sais.data.packed_records import PackedRecords
from sais.ops.letterbox import PADDING
from sais.ops.rasterize import Polygons
from sais.structures import Sample

SETTINGS = InputConfig(size=(64, 64))
OPTIONS = AugmentConfig(scale_jitter=(0.7, 1.4), color_jitter=0.2, mosaic=0.5, copy_paste=0.5)


def images(index: DatasetSplit, options: AugmentConfig = OPTIONS, seed: int = 0) -> TrainingDataset:
    return TrainingDataset(AugmentedSamples(index, SETTINGS, options, seed))


def same(a: LoadedBatch, b: LoadedBatch) -> None:
    assert a.unreadable_images == b.unreadable_images
    assert a.batch is not None
    assert b.batch is not None
    assert a.batch.image_ids == b.batch.image_ids
    assert a.batch.canvas_maps == b.batch.canvas_maps
    assert torch.equal(a.batch.images, b.batch.images)
    for one, other in zip(a.batch.ground_truths, b.batch.ground_truths, strict=True):
        for name in one.__dataclass_fields__:
            assert torch.equal(getattr(one, name), getattr(other, name))


def epoch_of(index: DatasetSplit, workers: int, epoch: int, first: int = 0, seed: int = 0) -> list[LoadedBatch]:
    loader, batches = training_loader(index, SETTINGS, OPTIONS, 4, seed, workers)
    batches.epoch, batches.first = epoch, first
    return list(loader)


def test_a_sample_depends_on_seed_epoch_and_position_only(shapes: Path) -> None:
    index = read_dataset(shapes, "train")
    reader = images(index)
    before = reader[SampleKey(1, 5)]
    assert before.sample is not None
    for key in [SampleKey(0, 5), SampleKey(1, 4), SampleKey(3, 5)]:  # whatever was read in between
        other = reader[key].sample
        assert other is not None
        assert not np.array_equal(other.image, before.sample.image)
    same(collate([before]), collate([images(index)[SampleKey(1, 5)]]))
    seeded = images(index, seed=1)[SampleKey(1, 5)].sample
    assert seeded is not None
    assert not np.array_equal(seeded.image, before.sample.image)


def test_worker_processes_change_nothing(shapes: Path) -> None:
    index = read_dataset(shapes, "train")
    loader, batches = training_loader(index, SETTINGS, OPTIONS, 4, seed=0, workers=2)
    for epoch in (0, 1):  # the same workers live through both
        batches.epoch = epoch
        loaded, wanted = list(loader), epoch_of(index, 0, epoch)
        assert len(loaded) == len(wanted) == 3
        for a, b in zip(loaded, wanted, strict=True):
            same(a, b)


@pytest.mark.slow
def test_spawned_workers_change_nothing(shapes: Path) -> None:
    """As on macOS and Windows, where a worker shares nothing with its parent."""
    index = read_dataset(shapes, "train")
    batches = EpochBatches(np.zeros(12), 4, 0)
    loader: Any = DataLoader(
        images(index),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context="spawn",
    )
    loaded, wanted = list(loader), epoch_of(index, 0, 0)
    assert len(loaded) == len(wanted) == 3
    for a, b in zip(loaded, wanted, strict=True):
        same(a, b)


def test_an_epoch_goes_on_where_it_was_left(shapes: Path) -> None:
    index = read_dataset(shapes, "train")
    rest, whole = epoch_of(index, 0, 2, first=1), epoch_of(index, 0, 2)
    assert (len(rest), len(whole)) == (2, 3)
    for a, b in zip(rest, whole[1:], strict=True):
        same(a, b)
    seen = [image for loaded in whole if loaded.batch is not None for image in loaded.batch.image_ids]
    assert len(set(seen)) == 12  # every batch is another, so that the right ones were compared


def test_batches_of_an_epoch() -> None:
    batches = EpochBatches(np.zeros(11), 4, seed=3)
    first = list(batches)
    assert len(batches) == len(first) == 2  # the incomplete third is left out
    positions = [position for batch in first for _, position, _ in batch]
    assert len(set(positions)) == 8
    assert set(positions) <= set(range(11))
    assert list(batches) == first
    batches.epoch = 1
    assert [p for batch in batches for _, p, _ in batch] != positions
    assert {epoch for batch in batches for epoch, _, _ in batch} == {1}
    seen = set()
    for batches.epoch in range(20):  # no image is left out for ever
        seen |= {p for batch in batches for _, p, _ in batch}
    assert seen == set(range(11))
    assert list(EpochBatches(np.zeros(8), 4, seed=4)) != list(EpochBatches(np.zeros(8), 4, seed=3))
    assert sorted(p for _, p, _ in next(iter(EpochBatches(np.zeros(3), 4, seed=0)))) == [
        0,
        1,
        2,
    ]  # fewer images than a batch


def test_batches_are_of_one_group_but_for_the_rest() -> None:
    groups = np.array([True] * 7 + [False] * 11)
    batches = EpochBatches(groups, 4, seed=1)
    found = [[position for _, position, _ in batch] for batch in batches]
    assert len(found) == len(batches) == 4
    assert len({p for batch in found for p in batch}) == 16
    assert sum(len({bool(groups[p]) for p in batch}) == 1 for batch in found) >= 3
    batches.first = 2
    assert [[position for _, position, _ in batch] for batch in batches] == found[2:]


def test_evaluation_sees_every_image_in_order_unchanged(shapes: Path, tiny: Experiment) -> None:
    index = read_dataset(shapes, "train")
    ids = []
    for loaded in evaluation_loader(index, tiny.input, 5, 0):
        assert loaded.batch is not None
        ids += loaded.batch.image_ids
        assert all(len(objects.boxes) == 0 for objects in loaded.batch.objects)
        for image, canvas_map in zip(loaded.batch.images, loaded.batch.canvas_maps, strict=True):
            path = index.images[len(ids) - len(loaded.batch.image_ids)].path
            assert image.shape == (3, 64, 64)
            assert canvas_map.image_size == np.asarray(Image.open(path)).shape[:2]
    assert ids == [record.id for record in index.images]


def sample_of(height: int, width: int, boxes: int = 0) -> Sample:
    box = np.tile(np.array([[4, 4, 12, 20]], np.float32), (boxes, 1))
    image = np.full((height, width, 3), 200, np.uint8)
    return Sample(height, image, box, np.zeros(boxes, np.int64), [None] * boxes)


def test_collate_pads_right_and_below_to_the_largest() -> None:
    samples = [sample_of(32, 96), sample_of(64, 32, 2)]
    loaded = collate([LoadedSample(sample, rasterize_ground_truth(sample)) for sample in samples])
    assert loaded.batch is not None
    images = loaded.batch.images
    assert images.shape == (2, 3, 64, 96)
    assert images.dtype == torch.uint8
    assert (images[0, :, :32, :] == 200).all()
    assert (images[1, :, :, :32] == 200).all()
    padding = torch.tensor(PADDING, dtype=torch.uint8).view(3, 1, 1)
    assert (images[0, :, 32:, :] == padding).all()
    assert (images[1, :, :, 32:] == padding).all()
    assert [len(objects.boxes) for objects in loaded.batch.ground_truths] == [0, 2]


def test_broken_images_are_reported_not_raised() -> None:
    sample = sample_of(32, 32)
    loaded = collate(
        [
            LoadedSample(None, None, ["a.jpg: broken"]),
            LoadedSample(sample, rasterize_ground_truth(sample), ["b.jpg: partner"]),
        ]
    )
    assert loaded.unreadable_images == ["a.jpg: broken", "b.jpg: partner"]
    assert loaded.batch is not None
    assert loaded.batch.image_ids == [32]
    assert collate([LoadedSample(None, None, [line]) for line in "aba"]) == LoadedBatch(None, ["a", "b"])


def index_of(folder: Path, *annotations: Annotation, size: tuple[int, int] = (64, 64)) -> DatasetSplit:
    path = folder / "a.png"
    Image.new("RGB", (64, 64), (10, 20, 30)).save(path)
    return DatasetSplit("train", ("thing",), (1,), (ImageRecord(5, path, size, annotations),))


def annotation(number: int, segmentation: Any, crowd: bool = False) -> Annotation:
    return Annotation(number, np.array([8, 8, 40, 40], np.float32), 0, segmentation, crowd, 100.0)


SQUARE = [[8, 8, 40, 8, 40, 40, 8, 40]]


def test_crowds_are_no_targets_and_a_bare_box_has_no_mask(tmp_path: Path) -> None:
    index = index_of(tmp_path, annotation(1, SQUARE), annotation(2, SQUARE, crowd=True), annotation(3, None))
    objects = images(index, AugmentConfig(flip=0.0))[SampleKey(0, 0)].objects
    assert objects is not None
    assert objects.boxes.tolist() == [[8, 8, 40, 40]] * 2
    assert objects.mask_windows.tolist() == [[2, 2, 10, 10], [0, 0, 0, 0]]
    assert objects.mask_values.tolist() == [255] * 64


def test_a_margin_widens_the_mask_window_within_the_image() -> None:
    shape = Polygons((np.array([[0.0, 20], [40, 20], [40, 40], [0, 40]]),))
    boxes = np.array([[0, 20, 40, 40]], np.float32)
    sample = Sample(1, np.zeros((64, 64, 3), np.uint8), boxes, np.zeros(1, np.int64), [shape])
    objects = rasterize_ground_truth(sample, margin=0.2)  # 8 pixels to the sides, 4 up and down
    assert objects.mask_windows.tolist() == [[0, 4, 12, 11]]
    patch = objects.mask_values.numpy().reshape(7, 12)
    wanted = np.zeros((7, 12))
    wanted[1:6, :10] = 255
    np.testing.assert_array_equal(patch, wanted)


def test_a_image_of_another_size_than_annotated_is_broken(tmp_path: Path) -> None:
    (message,) = images(index_of(tmp_path, size=(64, 63)))[SampleKey(0, 0)].broken
    assert str(tmp_path / "a.png") in message
    assert "64 x 64" in message
    assert "63 x 64" in message


def test_a_malformed_mask_is_broken_not_raised(tmp_path: Path) -> None:
    wrong = annotation(9, {"size": [64, 64], "counts": [5, 5]})
    (message,) = images(index_of(tmp_path, wrong))[SampleKey(0, 0)].broken
    assert "annotation 9" in message


def test_a_missing_image_is_broken_not_raised(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    (tmp_path / "a.png").unlink()
    (message,) = EvaluationDataset(index, SETTINGS)[0].broken
    assert str(tmp_path / "a.png") in message


def test_packed_records_are_the_records(shapes: Path, tmp_path: Path) -> None:
    own = index_of(tmp_path, annotation(1, SQUARE), annotation(2, SQUARE, crowd=True), annotation(3, None)).images
    for records in (read_dataset(shapes, "train").images, own, ()):
        packed, bare = PackedRecords(records), PackedRecords(records, with_annotations=False)
        assert len(packed) == len(bare) == len(records)
        for i in reversed(range(len(records))):
            made, wanted = packed[i], records[i]
            assert (made.id, made.path, made.size) == (wanted.id, wanted.path, wanted.size)
            assert bare[i].path == wanted.path
            assert bare[i].annotations == ()
            assert len(made.annotations) == len(wanted.annotations)
            for one, other in zip(made.annotations, wanted.annotations, strict=True):
                np.testing.assert_array_equal(one.box, other.box)
                assert one.box.dtype == np.float32
                for name in ("id", "label", "segmentation", "crowd", "area"):
                    assert getattr(one, name) == getattr(other, name)
    assert packed.size == 0


def test_a_batch_is_pinned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU nothing can be pinned: that every tensor is asked to, and nothing else changes."""
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    loaded = collate(
        [LoadedSample(s, rasterize_ground_truth(s), ["x"]) for s in (sample_of(32, 96), sample_of(64, 32, 2))]
    )
    again = loaded.pin_memory()
    same(loaded, again)
    assert len(pinned) == 1 + 2 * 4
    assert LoadedBatch(None, ["y"]).pin_memory() == LoadedBatch(None, ["y"])
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned.clear()
    assert isinstance(pin_memory(loaded), LoadedBatch)  # what a DataLoader calls
    assert len(pinned) == 9


def private_memory(process: int) -> float:
    """MiB that a process shares with nobody."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of shared memory")
def test_workers_do_not_come_to_own_the_index(tmp_path: Path) -> None:
    """Outlines of 20 MB as Python objects: a worker that looked at them there would have copied most of them."""
    outline = [[float(i % 32) + 0.001 * i for i in range(800)] for _ in range(4)]
    records = []
    path = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(path)
    for i in range(200):
        shape = [[value + i * 1e-6 for value in part] for part in outline]
        note = Annotation(i, np.array([1, 1, 31, 31], np.float32), 0, shape, False, 100.0)
        records.append(ImageRecord(i, path, (32, 32), (note,)))
    index = DatasetSplit("train", ("thing",), (1,), tuple(records))
    loader, batches = training_loader(index, InputConfig(size=(32, 32)), AugmentConfig(), 10, 0, workers=1)
    memory = []
    for batches.epoch in range(2):
        for n, _ in enumerate(loader):
            if n in (4, 19):
                memory.append(private_memory(loader._iterator._workers[0].pid))  # type: ignore[union-attr]
    assert max(memory) - memory[0] < 5
