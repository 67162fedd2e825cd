"""The padding slip of Table I: its geometry, and that it shows what is elsewhere in the right box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from sais.engine.architecture import SAIS_ARCHITECTURE, sais_losses
from sais.inference.predictor import Predictor
from sais.modeling.postprocess import assemble
from sais.modeling.sais import build_model
from sais.paper.padding_bug import (
    PADDING_BUG_ARCHITECTURE,
    MisalignedDetector,
    misaligned_ground_truth,
    misaligned_losses,
    padded_by_unpadded,
)
from sais.structures import Batch, CanvasMap, GroundTruth, Instances

PADDED = CanvasMap(image_size=(100, 80), canvas_size=(160, 160), scale=(1.0, 1.6))
"""100 x 80 pixels become 100 x 128 on a canvas of 160 x 160."""


def objects_of(windows: list[list[int]], boxes: list[list[float]], seed: int = 0) -> GroundTruth:
    """Objects with random patches in their windows."""
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
    """The patch of one object on the whole grid, the slow way."""
    first = 0
    for i, (x1, y1, x2, y2) in enumerate(objects.mask_windows.tolist()):
        size = (x2 - x1) * (y2 - y1)
        if i == which:
            canvas = np.zeros(grid, np.uint8)
            canvas[y1:y2, x1:x2] = objects.mask_values[first : first + size].numpy().reshape(y2 - y1, x2 - x1)
            return canvas
        first += size
    raise AssertionError(which)


def test_the_ratio_is_padded_by_unpadded() -> None:
    assert padded_by_unpadded(PADDED, (160, 160)) == (1.6, 1.25)
    assert padded_by_unpadded(PADDED, (320, 160)) == (3.2, 1.25)  # a larger neighbor in the batch pads more


def test_windows_grow_from_the_top_left_and_outlines_stay() -> None:
    grid = (40, 40)
    objects = objects_of(
        [[2, 3, 10, 9], [20, 10, 30, 22], [0, 0, 0, 0]], [[9, 13, 38, 35], [80, 41, 119, 86], [1, 1, 5, 5]]
    )
    ratio = (1.6, 1.25)
    slipped = misaligned_ground_truth(objects, ratio, grid)
    factors = torch.tensor([1.25, 1.6, 1.25, 1.6])
    assert torch.allclose(slipped.boxes, objects.boxes * factors)
    assert slipped.mask_windows.tolist()[0] == [2, 5, 12, 14]  # floor and ceil of 11.25 20.8 47.5 56.0 in cells of 4
    assert slipped.mask_windows.tolist()[1] == [25, 16, 38, 35]
    assert slipped.mask_windows.tolist()[2] == [0, 0, 0, 0]  # a box without outline stays without
    for which in (0, 1):
        x1, y1, x2, y2 = slipped.mask_windows[which].tolist()
        seen = np.zeros(grid, np.uint8)
        seen[y1:y2, x1:x2] = full(objects, which, grid)[y1:y2, x1:x2]
        assert (full(slipped, which, grid) == seen).all()
    assert len(slipped.mask_values) == 10 * 9 + 13 * 19


def test_no_window_leaves_the_grid() -> None:
    slipped = misaligned_ground_truth(objects_of([[30, 30, 40, 40]], [[120, 120, 160, 160]]), (2.0, 2.0), (40, 40))
    assert slipped.mask_windows.tolist() == [[39, 39, 40, 40]]
    assert len(slipped.mask_values) == 1


def test_without_padding_nothing_slips() -> None:
    objects = objects_of([[2, 3, 10, 9]], [[8.0, 12.0, 40.0, 36.0]])
    same = misaligned_ground_truth(objects, (1.0, 1.0), (40, 40))
    assert same.mask_windows.tolist() == objects.mask_windows.tolist()
    assert torch.equal(same.mask_values, objects.mask_values)


def test_only_the_mask_loss_differs(tiny: object) -> None:
    torch.manual_seed(0)
    model = build_model(replace(tiny.model, pretrained=False), 3).eval()  # type: ignore[attr-defined]
    objects = objects_of([[2, 3, 10, 9]], [[8.0, 12.0, 40.0, 36.0]])
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    padded = Batch(images, [objects], [1], [CanvasMap((40, 64), (64, 64), (1.0, 1.0))])
    whole = Batch(images, [objects], [1], [CanvasMap((64, 64), (64, 64), (1.0, 1.0))])
    right, slipped = (f(model, padded, tiny, 0) for f in (sais_losses, misaligned_losses))  # type: ignore[arg-type]
    for name in ("classification", "box", "centerness"):
        assert torch.equal(right[name], slipped[name])
    assert right["mask"] != slipped["mask"]
    unpadded = misaligned_losses(model, whole, tiny, 0)  # type: ignore[arg-type]
    assert torch.equal(unpadded["mask"], right["mask"])


class Planted(Predictor):
    """Predicts one object, a disc of the prototype grid."""

    def __init__(self, instances: Instances, experiment: object) -> None:
        self.planted, self.experiment, self.class_names = instances, experiment, ("disc",)  # type: ignore[assignment]

    def instances(self, canvases: torch.Tensor, canvas_maps: list[CanvasMap]) -> Instances:
        """What was planted, in tensors of its own."""
        return Instances(
            self.planted.boxes.clone(),
            *(getattr(self.planted, n) for n in ("scores", "labels", "coefficients", "prototypes")),
        )


def test_the_slip_moves_what_is_inside_the_right_box(tiny: object) -> None:
    """A disc around canvas (96, 60) is at (60, 60) of the image. The slip takes the padded map for the image:
    the disc shows at (96 / 160 * 80, 60 / 160 * 100) = (48, 37.5), cut at the box where it really is."""
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
    (found,) = MisalignedDetector(Planted(instances, tiny)).detect(canvases, [PADDED])
    assert np.allclose(found.boxes, [[45, 36, 75, 84]], atol=1e-4)  # the box is right
    rows, columns = np.mgrid[:100, :80] + 0.5
    shown = np.hypot((columns - 48) / 80 * 160, (rows - 37.5) / 100 * 160) < 24
    inside = (columns > 45) & (columns < 75) & (rows > 36) & (rows < 84)
    expected = shown & inside
    assert (found.masks()[0] ^ expected).sum() < 0.06 * expected.sum()  # the grid's corners at the disc's border
    truth = np.hypot(columns * 1.6 - 96, rows - 60) < 24
    overlap = (found.masks()[0] & truth).sum() / (found.masks()[0] | truth).sum()
    assert overlap < 0.3
    (right,) = assemble(instances, [PADDED], ("disc",))
    assert (right.masks()[0] & truth).sum() / (right.masks()[0] | truth).sum() > 0.93


def test_a_run_of_one_system_is_not_resumed_as_another(shapes, tiny, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from sais.data.paths import DataPaths
    from sais.engine.trainer import train
    from sais.errors import SaisError

    train(tiny, DataPaths(shapes), tmp_path / "run", steps=1, system=PADDING_BUG_ARCHITECTURE)
    with pytest.raises(SaisError, match="a run of sais with the padding slip, not of sais"):
        train(tiny, DataPaths(shapes), tmp_path / "run", resume=True, system=SAIS_ARCHITECTURE)


def test_perfect_masks_with_the_slip(shapes) -> None:  # type: ignore[no-untyped-def]
    """Without padding nothing is lost but pixels at the border; with much of it, most of every mask is elsewhere."""
    from sais.data.formats import read_dataset
    from sais.paper.padding_bug_upper_bound import padding_bug_upper_bound, upper_bound_rows

    index = read_dataset(shapes, "valid")  # 96 x 128 pixels
    whole = padding_bug_upper_bound(index, (96, 128))  # a canvas of 96 x 128: no padding
    assert whole.mask is not None
    assert whole.mask.AP > 0.97
    padded = padding_bug_upper_bound(index, (72, 96))  # 72 x 96 on 96 x 96: a third of padding below
    right = padding_bug_upper_bound(index, (72, 96), slip=False)
    assert padded.mask is not None
    assert right.mask is not None
    assert padded.mask.AP < 0.6 * right.mask.AP
    assert padded.box == right.box
    rows = upper_bound_rows(index, [(72, 96), (96, 128), (72, 96)])
    assert [row[:2] for row in rows] == [["96x72", "no"], ["96x72", "yes"], ["128x96", "no"], ["128x96", "yes"]]


def test_the_same_weights_tested_both_ways(shapes, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Boxes are the same both ways; what was measured once is not measured again, even without the weights."""
    import shutil

    from sais.data.formats import read_dataset
    from sais.data.paths import DataPaths
    from sais.paper.padding_bug_ablation import ablation_rows
    from sais.paper.runs import make_runs
    from sais.paper.sweep import plans_for
    from tests.paper.test_reproduce import TINY

    rows = ["keep-ratio", "keep-ratio-slip", "sais-area"]
    results = make_runs(plans_for(rows, [0], TINY), DataPaths(shapes), tmp_path)
    # Runs stopped early have no model.safetensors: nothing to test otherwise.
    assert ablation_rows(results, read_dataset(shapes, "valid"), tmp_path, "cpu") == []
    for folder in (tmp_path / "runs").iterdir():
        shutil.copy(folder / "last.safetensors", folder / "model.safetensors")
    table = ablation_rows(results, read_dataset(shapes, "valid"), tmp_path, "cpu")
    wanted = [("right", "right"), ("right", "with the slip"), ("with the slip", "right"), ("with the slip",) * 2]
    assert [tuple(row[:2]) for row in table] == wanted
    assert table[0][3] == table[1][3]
    assert table[2][3] == table[3][3]
    shutil.rmtree(tmp_path / "runs")
    assert ablation_rows(results, read_dataset(shapes, "valid"), tmp_path, "cpu") == table
