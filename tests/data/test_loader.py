"""Data loading: determinism of samples and batches, collation, unreadable images, packed records and own images."""

from __future__ import annotations

import functools
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sais.config import AugmentConfig, Experiment, InputConfig
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, make_annotation
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


def training_dataset(split: DatasetSplit, options: AugmentConfig = OPTIONS, seed: int = 0) -> TrainingDataset:
    return TrainingDataset(AugmentedSamples(split, SETTINGS, options, seed))


def assert_same(a: LoadedBatch, b: LoadedBatch) -> None:
    assert a.unreadable_images == b.unreadable_images
    assert a.batch is not None
    assert b.batch is not None
    assert a.batch.image_ids == b.batch.image_ids
    assert a.batch.canvas_maps == b.batch.canvas_maps
    assert torch.equal(a.batch.images, b.batch.images)
    for first, second in zip(a.batch.ground_truths, b.batch.ground_truths, strict=True):
        for one, other in zip(first.tensors(), second.tensors(), strict=True):
            assert torch.equal(one, other)


def load_epoch(split: DatasetSplit, workers: int, epoch: int, first: int = 0, seed: int = 0) -> list[LoadedBatch]:
    loader, batches = training_loader(split, SETTINGS, OPTIONS, 4, seed, workers)
    batches.epoch, batches.first = epoch, first
    return list(loader)


def test_sample_depends_on_seed_epoch_and_position_only(shapes: Path) -> None:
    split = read_dataset(shapes, "train")
    reader = training_dataset(split)
    before = reader[SampleKey(1, 5)]
    assert before.sample is not None
    for key in [SampleKey(0, 5), SampleKey(1, 4), SampleKey(3, 5)]:  # samples read in between
        other = reader[key].sample
        assert other is not None
        assert not np.array_equal(other.image, before.sample.image)
    assert_same(collate([before]), collate([training_dataset(split)[SampleKey(1, 5)]]))
    seeded = training_dataset(split, seed=1)[SampleKey(1, 5)].sample
    assert seeded is not None
    assert not np.array_equal(seeded.image, before.sample.image)


def test_worker_processes_load_the_same_batches(shapes: Path) -> None:
    split = read_dataset(shapes, "train")
    loader, batches = training_loader(split, SETTINGS, OPTIONS, 4, seed=0, workers=2)
    for epoch in (0, 1):  # the same workers load both epochs
        batches.epoch = epoch
        loaded, expected = list(loader), load_epoch(split, 0, epoch)
        assert len(loaded) == len(expected) == 3
        for a, b in zip(loaded, expected, strict=True):
            assert_same(a, b)


@pytest.mark.slow
def test_spawned_workers_load_the_same_batches(shapes: Path) -> None:
    """Start workers as on macOS and Windows, where they share no memory with their parent."""
    split = read_dataset(shapes, "train")
    batches = EpochBatches(np.zeros(12), 4, 0)
    loader: Any = DataLoader(
        training_dataset(split),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context="spawn",
    )
    loaded, expected = list(loader), load_epoch(split, 0, 0)
    assert len(loaded) == len(expected) == 3
    for a, b in zip(loaded, expected, strict=True):
        assert_same(a, b)


def test_epoch_resumes_at_its_first_remaining_batch(shapes: Path) -> None:
    split = read_dataset(shapes, "train")
    remaining, full = load_epoch(split, 0, 2, first=1), load_epoch(split, 0, 2)
    assert (len(remaining), len(full)) == (2, 3)
    for a, b in zip(remaining, full[1:], strict=True):
        assert_same(a, b)
    image_ids = [image for loaded in full if loaded.batch is not None for image in loaded.batch.image_ids]
    assert len(set(image_ids)) == 12  # all batches differ, so that the comparison above is meaningful


def test_epoch_batches_are_shuffled_and_complete() -> None:
    batches = EpochBatches(np.zeros(11), 4, seed=3)
    first = list(batches)
    assert len(batches) == len(first) == 2  # the incomplete third batch is dropped
    positions = [position for batch in first for _, position, _ in batch]
    assert len(set(positions)) == 8
    assert set(positions) <= set(range(11))
    assert list(batches) == first
    batches.epoch = 1
    assert [p for batch in batches for _, p, _ in batch] != positions
    assert {epoch for batch in batches for epoch, _, _ in batch} == {1}
    seen = set()
    for batches.epoch in range(20):  # every image occurs in some epoch
        seen |= {p for batch in batches for _, p, _ in batch}
    assert seen == set(range(11))
    assert list(EpochBatches(np.zeros(8), 4, seed=4)) != list(EpochBatches(np.zeros(8), 4, seed=3))
    assert sorted(p for _, p, _ in next(iter(EpochBatches(np.zeros(3), 4, seed=0)))) == [
        0,
        1,
        2,
    ]  # fewer images than a batch


def test_epoch_batches_have_one_group_except_the_last() -> None:
    groups = np.array([True] * 7 + [False] * 11)
    batches = EpochBatches(groups, 4, seed=1)
    drawn = [[position for _, position, _ in batch] for batch in batches]
    assert len(drawn) == len(batches) == 4
    assert len({p for batch in drawn for p in batch}) == 16
    assert sum(len({bool(groups[p]) for p in batch}) == 1 for batch in drawn) >= 3
    batches.first = 2
    assert [[position for _, position, _ in batch] for batch in batches] == drawn[2:]


def test_evaluation_loader_returns_all_images_in_order(shapes: Path, tiny: Experiment) -> None:
    split = read_dataset(shapes, "train")
    ids = []
    for loaded in evaluation_loader(split, tiny.input, 5, 0):
        assert loaded.batch is not None
        ids += loaded.batch.image_ids
        assert all(len(ground_truth.boxes) == 0 for ground_truth in loaded.batch.ground_truths)
        for image, canvas_map in zip(loaded.batch.images, loaded.batch.canvas_maps, strict=True):
            path = split.images[len(ids) - len(loaded.batch.image_ids)].path
            assert image.shape == (3, 64, 64)
            assert canvas_map.image_size == np.asarray(Image.open(path)).shape[:2]
    assert ids == [record.id for record in split.images]


def make_sample(height: int, width: int, boxes: int = 0) -> Sample:
    box = np.tile(np.array([[4, 4, 12, 20]], np.float32), (boxes, 1))
    image = np.full((height, width, 3), 200, np.uint8)
    return Sample(height, image, box, np.zeros(boxes, np.int64), [None] * boxes)


def test_collate_pads_to_the_largest_canvas() -> None:
    samples = [make_sample(32, 96), make_sample(64, 32, 2)]
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
    assert [len(ground_truth.boxes) for ground_truth in loaded.batch.ground_truths] == [0, 2]


def test_collate_reports_unreadable_images() -> None:
    sample = make_sample(32, 32)
    loaded = collate(
        [
            LoadedSample(None, None, ["a.jpg: corrupt"]),
            LoadedSample(sample, rasterize_ground_truth(sample), ["b.jpg: partner"]),
        ]
    )
    assert loaded.unreadable_images == ["a.jpg: corrupt", "b.jpg: partner"]
    assert loaded.batch is not None
    assert loaded.batch.image_ids == [32]
    assert collate([LoadedSample(None, None, [line]) for line in "aba"]) == LoadedBatch(None, ["a", "b"])


def single_image_split(folder: Path, *annotations: Annotation, size: tuple[int, int] = (64, 64)) -> DatasetSplit:
    path = folder / "a.png"
    Image.new("RGB", (64, 64), (10, 20, 30)).save(path)
    return DatasetSplit("train", ("thing",), (1,), (ImageRecord(5, path, size, annotations),))


def annotation(annotation_id: int, segmentation: Any, crowd: bool = False) -> Annotation:
    return Annotation(annotation_id, np.array([8, 8, 40, 40], np.float32), 0, segmentation, crowd, 100.0)


SQUARE = [[8, 8, 40, 8, 40, 40, 8, 40]]


def test_ground_truth_excludes_crowds_and_has_no_mask_for_a_box(tmp_path: Path) -> None:
    split = single_image_split(tmp_path, annotation(1, SQUARE), annotation(2, SQUARE, crowd=True), annotation(3, None))
    ground_truth = training_dataset(split, AugmentConfig(flip=0.0))[SampleKey(0, 0)].ground_truth
    assert ground_truth is not None
    assert ground_truth.boxes.tolist() == [[8, 8, 40, 40]] * 2
    assert ground_truth.mask_windows.tolist() == [[2, 2, 10, 10], [0, 0, 0, 0]]
    assert ground_truth.mask_values.tolist() == [255] * 64


def test_mask_margin_enlarges_the_window_inside_the_image() -> None:
    shape = Polygons((np.array([[0.0, 20], [40, 20], [40, 40], [0, 40]]),))
    boxes = np.array([[0, 20, 40, 40]], np.float32)
    sample = Sample(1, np.zeros((64, 64, 3), np.uint8), boxes, np.zeros(1, np.int64), [shape])
    ground_truth = rasterize_ground_truth(sample, margin=0.2)  # 8 pixels to the sides, 4 up and down
    assert ground_truth.mask_windows.tolist() == [[0, 4, 12, 11]]
    expected = np.zeros((7, 12))
    expected[1:6, :10] = 255
    np.testing.assert_array_equal(ground_truth.mask_values.numpy().reshape(7, 12), expected)


def test_image_of_another_size_than_annotated_is_unreadable(tmp_path: Path) -> None:
    (message,) = training_dataset(single_image_split(tmp_path, size=(64, 63)))[SampleKey(0, 0)].unreadable_images
    assert str(tmp_path / "a.png") in message
    assert "64 x 64" in message
    assert "63 x 64" in message


def test_malformed_mask_is_reported(tmp_path: Path) -> None:
    malformed = annotation(9, {"size": [64, 64], "counts": [5, 5]})
    (message,) = training_dataset(single_image_split(tmp_path, malformed))[SampleKey(0, 0)].unreadable_images
    assert "annotation 9" in message


def test_missing_image_is_reported(tmp_path: Path) -> None:
    split = single_image_split(tmp_path)
    (tmp_path / "a.png").unlink()
    (message,) = EvaluationDataset(split, SETTINGS)[0].unreadable_images
    assert str(tmp_path / "a.png") in message


def test_packed_records_equal_the_records(shapes: Path, tmp_path: Path) -> None:
    own = single_image_split(
        tmp_path, annotation(1, SQUARE), annotation(2, SQUARE, crowd=True), annotation(3, None)
    ).images
    for records in (read_dataset(shapes, "train").images, own, ()):
        packed, bare = PackedRecords(records), PackedRecords(records, with_annotations=False)
        assert len(packed) == len(bare) == len(records)
        for i in reversed(range(len(records))):
            unpacked, record = packed[i], records[i]
            assert (unpacked.id, unpacked.path, unpacked.size) == (record.id, record.path, record.size)
            assert bare[i].path == record.path
            assert bare[i].annotations == ()
            assert len(unpacked.annotations) == len(record.annotations)
            for first, second in zip(unpacked.annotations, record.annotations, strict=True):
                np.testing.assert_array_equal(first.box, second.box)
                assert first.box.dtype == np.float32
                for name in ("id", "label", "segmentation", "crowd", "area"):
                    assert getattr(first, name) == getattr(second, name)
    assert packed.size == 0


def test_pin_memory_pins_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the calls only, because pinning needs a GPU. Objects are pinned when all of them are copied together."""
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    loaded = collate(
        [LoadedSample(s, rasterize_ground_truth(s), ["x"]) for s in (make_sample(32, 96), make_sample(64, 32, 2))]
    )
    assert_same(loaded, loaded.pin_memory())
    assert len(pinned) == 1
    assert LoadedBatch(None, ["y"]).pin_memory() == LoadedBatch(None, ["y"])
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned.clear()
    assert isinstance(pin_memory(loaded), LoadedBatch)  # the function that a DataLoader calls
    assert len(pinned) == 1


def private_memory(process: int) -> float:
    """Return the private memory of a process in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc/PID/smaps_rollup of Linux")
def test_workers_do_not_copy_the_annotations(tmp_path: Path) -> None:
    """Load polygons of 20 MB of Python objects: a worker that read them as objects would copy most of them.

    In a process of its own: what the process of the other tests writes to its memory, a worker no longer shares.
    """
    context = multiprocessing.get_context("spawn")
    ours, other = context.Pipe(duplex=False)
    process = context.Process(target=send_memory_of_worker, args=(other, tmp_path / "a.png"))
    process.start()
    other.close()
    memory = ours.recv()
    process.join()
    assert max(memory) - memory[0] < 5


def send_memory_of_worker(connection: Any, path: Path) -> None:
    """Send the private memory of a worker in MiB, twice in each of two epochs; `path` is the image to write."""
    outline = [[float(i % 32) + 0.001 * i for i in range(800)] for _ in range(4)]
    records = []
    Image.new("RGB", (32, 32)).save(path)
    for i in range(200):
        shape = [[value + i * 1e-6 for value in part] for part in outline]
        polygon_annotation = Annotation(i, np.array([1, 1, 31, 31], np.float32), 0, shape, False, 100.0)
        records.append(ImageRecord(i, path, (32, 32), (polygon_annotation,)))
    split = DatasetSplit("train", ("thing",), (1,), tuple(records))
    loader, batches = training_loader(split, InputConfig(size=(32, 32)), AugmentConfig(), 10, 0, workers=1)
    memory = []
    for batches.epoch in range(2):
        for n, _ in enumerate(loader):
            if n in (4, 19):
                memory.append(private_memory(loader._iterator._workers[0].pid))  # type: ignore[union-attr]
    connection.send(memory)


def gray_image(level: int) -> np.ndarray:
    """Return an image of the size that `own_split` states; of the module, so that it can be pickled."""
    return np.full((64, 64, 3), level, np.uint8)


def own_split() -> DatasetSplit:
    """Return images from a file-free source: an array, and a function called on each read."""
    mask = np.zeros((64, 64), bool)
    mask[8:40, 8:40] = True
    records = [
        ImageRecord(i, source, (64, 64), (make_annotation(i, 0, segmentation=mask),))
        for i, source in enumerate([gray_image(10), *(functools.partial(gray_image, 20 * i) for i in range(1, 4))])
    ]
    return DatasetSplit("own", ("thing",), images=tuple(records))


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_images_from_arrays_and_functions_load_in_workers(context: str) -> None:
    split = own_split()
    batches = EpochBatches(np.zeros(4), 2, 0)
    dataset = training_dataset(split, AugmentConfig())
    loader: Any = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context=context,
    )
    loaded = list(loader)
    assert [batch.unreadable_images for batch in loaded] == [[], []]
    levels = {int(image[0, 0, 0]) for batch in loaded for image in batch.batch.images}
    assert levels == {10, 20, 40, 60}
    for batch in loaded:
        assert all(ground_truth.boxes.shape == (1, 4) for ground_truth in batch.batch.ground_truths)


def test_error_in_an_image_function_is_reported_as_unreadable() -> None:
    def fail() -> np.ndarray:
        raise KeyError("row 7")

    split = DatasetSplit("own", ("thing",), images=(ImageRecord(7, fail, (64, 64)),))
    (message,) = training_dataset(split)[SampleKey(0, 0)].unreadable_images
    assert "image 7" in message
    assert "row 7" in message
