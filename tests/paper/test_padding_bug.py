"""The padding bug of Table I: its geometry, and that it shifts masks inside correct boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from sais.config import PostprocessConfig
from sais.inference.assemble import assemble
from sais.modeling.criterion import build_criterion
from sais.modeling.sais import build_model
from sais.ops.letterbox import CanvasMap
from sais.paper import padding_bug
from sais.paper.padding_bug import (
    PADDING_BUG,
    PADDING_BUG_ARCHITECTURE,
    MisalignedCriterion,
    detect_misaligned,
    misaligned_ground_truth,
    padding_ratio,
)
from sais.structures import Batch, GroundTruth, Instances

PADDED = CanvasMap(image_size=(100, 80), canvas_size=(160, 160), scale=(1.0, 1.6))
"""100 x 80 pixels become 100 x 128 on a canvas of 160 x 160."""


def objects_of(windows: list[list[int]], boxes: list[list[float]], seed: int = 0) -> GroundTruth:
    """Create objects with random mask values in their windows."""
    random = np.random.default_rng(seed)
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in windows]
    values = random.integers(0, 256, sum(sizes), dtype=np.uint8)
    return GroundTruth(
        torch.tensor(boxes).float(),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(windows),
        torch.from_numpy(values),
    )


def full(objects: GroundTruth, which: int, grid: tuple[int, int]) -> np.ndarray:
    """Draw the mask values of one object on the whole grid."""
    first = 0
    for i, (x1, y1, x2, y2) in enumerate(objects.mask_windows.tolist()):
        size = (x2 - x1) * (y2 - y1)
        if i == which:
            canvas = np.zeros(grid, np.uint8)
            canvas[y1:y2, x1:x2] = objects.mask_values[first : first + size].numpy().reshape(y2 - y1, x2 - x1)
            return canvas
        first += size
    raise AssertionError(which)


def test_padding_ratio_divides_padded_by_unpadded_size() -> None:
    assert padding_ratio(PADDED, (160, 160)) == (1.6, 1.25)
    assert padding_ratio(PADDED, (320, 160)) == (3.2, 1.25)  # a larger neighbor in the batch pads more


def test_misaligned_ground_truth_enlarges_windows_and_keeps_masks_in_place() -> None:
    grid = (40, 40)
    objects = objects_of(
        [[2, 3, 10, 9], [20, 10, 30, 22], [0, 0, 0, 0]], [[9, 13, 38, 35], [80, 41, 119, 86], [1, 1, 5, 5]]
    )
    ratio = (1.6, 1.25)
    misaligned = misaligned_ground_truth(objects, ratio, grid)
    factors = torch.tensor([1.25, 1.6, 1.25, 1.6])
    assert torch.allclose(misaligned.boxes, objects.boxes * factors)
    assert misaligned.mask_windows.tolist()[0] == [2, 5, 12, 14]  # floor and ceil of 11.25 20.8 47.5 56.0 in cells of 4
    assert misaligned.mask_windows.tolist()[1] == [25, 16, 38, 35]
    assert misaligned.mask_windows.tolist()[2] == [0, 0, 0, 0]  # an object without a mask stays without
    for which in (0, 1):
        x1, y1, x2, y2 = misaligned.mask_windows[which].tolist()
        seen = np.zeros(grid, np.uint8)
        seen[y1:y2, x1:x2] = full(objects, which, grid)[y1:y2, x1:x2]
        assert (full(misaligned, which, grid) == seen).all()
    assert len(misaligned.mask_values) == 10 * 9 + 13 * 19


def test_misaligned_ground_truth_clips_windows_to_the_grid() -> None:
    misaligned = misaligned_ground_truth(objects_of([[30, 30, 40, 40]], [[120, 120, 160, 160]]), (2.0, 2.0), (40, 40))
    assert misaligned.mask_windows.tolist() == [[39, 39, 40, 40]]
    assert len(misaligned.mask_values) == 1


def test_misaligned_ground_truth_changes_nothing_without_padding() -> None:
    objects = objects_of([[2, 3, 10, 9]], [[8.0, 12.0, 40.0, 36.0]])
    same = misaligned_ground_truth(objects, (1.0, 1.0), (40, 40))
    assert same.mask_windows.tolist() == objects.mask_windows.tolist()
    assert torch.equal(same.mask_values, objects.mask_values)


def test_misaligned_criterion_changes_the_mask_loss_only(tiny: object) -> None:
    torch.manual_seed(0)
    model = build_model(replace(tiny.model, pretrained=False), 3).eval()  # type: ignore[attr-defined]
    objects = objects_of([[2, 3, 10, 9]], [[8.0, 12.0, 40.0, 36.0]])
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    padded = Batch(images, [objects], [1], [CanvasMap((40, 64), (64, 64), (1.0, 1.0))])
    whole = Batch(images, [objects], [1], [CanvasMap((64, 64), (64, 64), (1.0, 1.0))])
    criterion = build_criterion(tiny)  # type: ignore[arg-type]
    misaligned = MisalignedCriterion(criterion)
    outputs = model(images)
    correct, shifted, unpadded = (
        c.losses(outputs, batch, c.assign(batch, None, 0))
        for c, batch in ((criterion, padded), (misaligned, padded), (misaligned, whole))
    )
    for name in ("classification", "box", "centerness"):
        assert torch.equal(correct[name], shifted[name])
    assert correct["mask"] != shifted["mask"]
    assert torch.equal(unpadded["mask"], correct["mask"])


def test_detect_misaligned_shifts_masks_inside_correct_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disc around canvas (96, 60) is at (60, 60) of the image. The bug takes the padded mask for that of the image:
    the disc is drawn at (96 / 160 * 80, 60 / 160 * 100) = (48, 37.5), cropped at the correct box."""
    y, x = np.mgrid[:40, :40] * 4 + 2.0
    disc = (24.0 - np.hypot(x - 96, y - 60)).astype(np.float32) / 4
    instances = Instances(
        torch.tensor([[[72.0, 36.0, 120.0, 84.0]]]),
        torch.tensor([[0.9]]),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.tensor([[[1.0, -1.0]]]),
        torch.from_numpy(np.stack([disc.clip(0), (-disc).clip(0)]))[None],
    )
    canvases = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    fixed = replace(instances, boxes=instances.boxes.clone())
    monkeypatch.setattr(
        padding_bug, "SAIS_ARCHITECTURE", replace(padding_bug.SAIS_ARCHITECTURE, postprocess=lambda *_: fixed)
    )
    (shifted_detections,) = detect_misaligned(torch.nn.Identity(), canvases, [PADDED], ("disc",), PostprocessConfig())
    assert np.allclose(shifted_detections.boxes, [[45, 36, 75, 84]], atol=1e-4)
    rows, columns = np.mgrid[:100, :80] + 0.5
    shifted = np.hypot((columns - 48) / 80 * 160, (rows - 37.5) / 100 * 160) < 24
    inside = (columns > 45) & (columns < 75) & (rows > 36) & (rows < 84)
    expected = shifted & inside
    assert (
        shifted_detections.masks()[0] ^ expected
    ).sum() < 0.06 * expected.sum()  # the grid's corners at the disc's border
    truth = np.hypot(columns * 1.6 - 96, rows - 60) < 24
    overlap = (shifted_detections.masks()[0] & truth).sum() / (shifted_detections.masks()[0] | truth).sum()
    assert overlap < 0.3
    (correct,) = assemble(instances, [PADDED], ("disc",))
    assert (correct.masks()[0] & truth).sum() / (correct.masks()[0] | truth).sum() > 0.93


def test_padding_bug_runs_are_trained_and_opened_by_name(shapes, tiny, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from sais.data.paths import DataPaths
    from sais.engine.trainer import train
    from sais.inference.predictor import Predictor

    settings = replace(tiny, model=replace(tiny.model, architecture=PADDING_BUG))
    train(settings, DataPaths(shapes), tmp_path / "run", max_iterations=1)
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert predictor.backend.architecture is PADDING_BUG_ARCHITECTURE  # type: ignore[attr-defined]


def test_padding_bug_upper_bound_falls_with_padding(shapes) -> None:  # type: ignore[no-untyped-def]
    """Without padding only pixels at the border differ; with a third of padding most of each mask is shifted away."""
    from sais.data.formats import read_dataset
    from sais.paper.padding_bug_upper_bound import padding_bug_upper_bound, upper_bound_rows

    index = read_dataset(shapes, "valid")  # 96 x 128 pixels
    whole = padding_bug_upper_bound(index, (96, 128))  # a canvas of 96 x 128: no padding
    assert whole.mask is not None
    assert whole.mask.AP > 0.97
    padded = padding_bug_upper_bound(index, (72, 96))  # 72 x 96 on 96 x 96: a third of padding below
    right = padding_bug_upper_bound(index, (72, 96), bug=False)
    assert padded.mask is not None
    assert right.mask is not None
    assert padded.mask.AP < 0.6 * right.mask.AP
    assert padded.box == right.box
    rows = upper_bound_rows(index, [(72, 96), (96, 128), (72, 96)])
    assert [row[:2] for row in rows] == [["96x72", "no"], ["96x72", "yes"], ["128x96", "no"], ["128x96", "yes"]]


def test_ablation_rows_evaluate_the_same_weights_with_both_architectures(shapes, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Boxes do not change; a kept result is not computed again, even without the weights."""
    import shutil

    from sais.data.formats import read_dataset
    from sais.data.paths import DataPaths
    from sais.paper.padding_bug_ablation import ablation_rows
    from sais.paper.runs import run_plans
    from sais.paper.sweep import plan_runs
    from tests.paper.test_reproduce import TINY

    rows = ["keep-ratio", "keep-ratio-padding-bug", "sais-area"]
    results = run_plans(plan_runs(rows, [0], TINY), DataPaths(shapes), tmp_path)
    # Runs stopped early have no model.safetensors.
    assert ablation_rows(results, read_dataset(shapes, "valid"), tmp_path, "cpu") == []
    for folder in (tmp_path / "runs").iterdir():
        shutil.copy(folder / "last.safetensors", folder / "model.safetensors")
    table = ablation_rows(results, read_dataset(shapes, "valid"), tmp_path, "cpu")
    bug = "with the bug"
    wanted = [("without", "without"), ("without", bug), (bug, "without"), (bug, bug)]
    assert [tuple(row[:2]) for row in table] == wanted
    assert table[0][3] == table[1][3]
    assert table[2][3] == table[3][3]
    shutil.rmtree(tmp_path / "runs")
    assert ablation_rows(results, read_dataset(shapes, "valid"), tmp_path, "cpu") == table
