"""The route of an accelerator on the device: the values of the host for the same inputs, and nothing waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from sais.config import Experiment
from sais.inference.on_device import DeviceRoute
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel
from sais.modeling.architecture import find_architecture
from sais.modeling.postprocess import postprocess
from sais.modeling.postprocess_fixed import postprocess_fixed
from sais.ops.letterbox import group_by_canvas, letterbox
from sais.ops.maskness import compute_maskness
from sais.ops.masks import box_masks
from sais.ops.masks_on_device import map_tensors, masknesses, pack_masks
from sais.ops.transfers import HostCopy, copy_together
from tests.gpu.exact import exact_arithmetic
from tests.modeling.test_postprocess_fixed import CONTENTS, POINTS, random_outputs

pytestmark = pytest.mark.gpu


def test_post_processing_in_fixed_shapes_equals_that_of_the_host(device: torch.device) -> None:
    for seed, classes, shift, candidates in ((0, 1, -1.0, 1000), (1, 5, -5.0, 1000), (2, 80, -7.0, 1500)):
        outputs = random_outputs(seed, classes, shift)
        expected = postprocess(outputs, POINTS, CONTENTS, pre_nms_topk=300)
        tensors = {name: value.to(device) for name, value in vars(outputs).items() if isinstance(value, torch.Tensor)}
        sizes = torch.tensor(CONTENTS).to(device)
        fixed = postprocess_fixed(
            replace(outputs, **tensors), POINTS.to(device), sizes, pre_nms_topk=300, candidates=candidates
        )
        assert fixed.enough.all()
        assert fixed.converged.all()
        torch.testing.assert_close(fixed.instances.scores.cpu(), expected.scores, rtol=1e-6, atol=0)
        assert torch.equal(fixed.instances.labels.cpu(), expected.labels)
        assert torch.equal(fixed.instances.boxes.cpu(), expected.boxes)


def test_packed_masks_and_maskness_equal_those_of_the_host(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [letterbox((300, 400), "fixed", (256, 320)), letterbox((97, 211), "fixed", (256, 320))]
    corners = (torch.rand(2, 40, 2, 2, generator=generator) * torch.tensor([320, 256])).sort(2).values
    boxes = corners.flatten(2)
    coefficients = torch.randn(2, 40, 32, generator=generator).tanh()
    prototypes = torch.randn(2, 32, 64, 80, generator=generator).relu()
    inputs = [boxes, coefficients, prototypes, torch.ones(2, 40, dtype=torch.bool), *map_tensors(maps, 4)]
    with exact_arithmetic():
        copies = copy_together(inputs, device, overlap=True)
        tensors = type(map_tensors(maps, 4))(*copies[4:])
        result = [*pack_masks(*copies[:4], tensors, 400, 400_000), masknesses(*copies[:3], tensors)]
        windows, packed, length, factors = (tensor.numpy() for tensor in HostCopy(result).tensors())
    first, different = 0, 0
    for image, canvas_map in enumerate(maps):
        mapped = canvas_map.boxes_to_image(boxes[image].numpy())
        arrays = prototypes[image].numpy(), coefficients[image].numpy()
        expected = box_masks(*arrays, mapped, canvas_map.image_size, canvas_map.cells_per_pixel(4))
        for index, (x, y, bits, logits) in enumerate(expected):
            near = ((np.abs(logits) <= 1e-5) & (logits != 0)).any()
            assert near or abs(factors[image, index] - compute_maskness(logits)) <= 1e-5
            assert windows[image, index].tolist() == [x, y, x + bits.shape[1], y + bits.shape[0]]
            size = -(-bits.size // 8)
            unpacked = np.unpackbits(packed[first : first + size], count=bits.size).astype(bool)
            different += int((unpacked != bits.reshape(-1)).sum())
            first += size
    assert first == int(length)
    assert different <= first * 8 // 100_000  # logits within rounding of 0


@contextlib.contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Raise an error where an operation makes the host wait for a CUDA device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("precision", "maskness"), [("fp32", False), ("bf16", False), ("fp32", True)])
def test_nothing_waits_before_the_result_is_taken(
    tiny: Experiment, precision: Any, maskness: bool, device: torch.device
) -> None:
    settings = replace(tiny.postprocess, maskness=maskness)
    experiment = replace(tiny, model=replace(tiny.model, pretrained=False), postprocess=settings)
    torch.manual_seed(0)
    network = find_architecture("sais").build(experiment, 3)
    model = TrainedModel(network, experiment, ("ring", "star", "triangle"), (1, 2, 3))
    predictor = Predictor(model, device=str(device), precision=precision, score=0.001, max_detections=20)
    backend: Any = predictor.backend
    post = backend.architecture.postprocess_fixed
    route = DeviceRoute(backend.network, post, backend.device, backend.class_names, backend.mask_stride)
    images = [np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8) for i in range(8)]
    ((_, canvas_maps, stacked),) = group_by_canvas(images, "fixed", (64, 64))
    settings = predictor.filter.early_settings(predictor.experiment.postprocess)
    for _ in range(3):  # the first calls prepare libraries and sizes
        route.start(stacked.transpose(0, 3, 1, 2), canvas_maps, settings, predictor.filter)()
    with no_waits(device):
        finish = route.start(stacked.transpose(0, 3, 1, 2), canvas_maps, settings, predictor.filter)
    detections = finish()
    assert detections is not None
    assert [len(of_image) for of_image in detections] == [20] * 8
