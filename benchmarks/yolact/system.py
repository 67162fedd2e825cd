"""YOLACT as a `System` of our engine: how it is built, what it loses on a batch, how it predicts; and its recipes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.yolact.anchors import anchor_boxes
from benchmarks.yolact.losses import compute_losses
from benchmarks.yolact.model import Yolact, build_yolact
from benchmarks.yolact.postprocess import detect, full_masks
from benchmarks.yolact.targets import build_targets, choose_mask_positives
from sais.checkpoint import fill, load
from sais.config import Experiment, InputConfig, ModelConfig, OptimConfig, ScheduleConfig
from sais.detections import Detections
from sais.engine.system import System
from sais.postprocess import assemble
from sais.predict import choose_device
from sais.structures import Batch, Instances, Placement


def yolact_losses(model: Yolact, batch: Batch, experiment: Experiment, epoch: int) -> dict[str, Tensor]:
    """Network, targets, losses. Of `experiment.losses` it reads `mask_positives` and `mask_margin`; the weights are
    the paper's own."""
    device = batch.pictures.device
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.run.precision == "bf16"):
        outputs = model(batch.pictures)
    anchors = anchor_boxes(outputs.level_sizes, outputs.canvas_size, device)
    targets = build_targets(batch.objects, anchors)
    limit, seed = experiment.losses.mask_positives, experiment.run.seed
    chosen = choose_mask_positives(targets, batch.objects, batch.image_ids, limit, seed, epoch)
    return compute_losses(outputs, targets, batch.objects, chosen, experiment.losses.mask_margin)


class YolactFinder:
    """A trained YOLACT, ready to predict.

    Args:
        model: the network; moved to the device and set to evaluation.
        experiment: of its settings `test` it reads score, nms, detections and mask_margin.
        class_names: C names.
        category_ids: C numbers of the data set.
        device: as for `sais.Predictor`.
    """

    def __init__(
        self,
        model: Yolact,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str = "auto",
    ) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.experiment = experiment
        self.class_names = class_names
        self.category_ids = category_ids
        self._anchors: dict[tuple[int, int], Tensor] = {}

    @torch.inference_mode()
    def detect(self, canvases: Tensor, placements: list[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the pictures lie on them to B detections.

        Masks are SAIS' own, box-local and exact, so that accuracy is compared without differences of assembly.
        """
        instances = self.instances(canvases, [p.content_size for p in placements])
        return assemble(instances, placements, self.class_names, self.experiment.test.mask_margin)

    @torch.inference_mode()
    def full_masks(self, canvases: Tensor, sizes: list[tuple[int, int]]) -> list[tuple[Instances, Tensor]]:
        """The paper's whole route, for speed: canvases (B, 3, height, width), each filled by its picture of (H, W).

        Returns:
            For each picture its instances (1, D, .), D as many as were found, boxes in picture pixels, and their masks
            (D, H, W) bool, all on the model's device.
        """
        height, width = canvases.shape[2:]
        found = self.instances(canvases, [(float(height), float(width))] * len(canvases))
        assert found.coefficients is not None
        assert found.prototypes is not None
        results = []
        for image, size in enumerate(sizes):
            n = int((found.scores[image] > 0).sum())
            factors = found.boxes.new_tensor([size[1] / width, size[0] / height]).repeat(2)
            boxes, coefficients = found.boxes[image, :n] * factors, found.coefficients[image, :n]
            prototypes = found.prototypes[image]
            masks = full_masks(prototypes, coefficients, boxes, size)
            scores, labels = found.scores[image, :n], found.labels[image, :n]
            one = Instances(boxes[None], scores[None], labels[None], coefficients[None], prototypes[None])
            results.append((one, masks))
        return results

    def instances(self, canvases: Tensor, contents: list[tuple[float, float]]) -> Instances:
        """Network and Fast NMS: canvases (B, 3, height, width), `contents` as `postprocess.detect` takes them."""
        outputs = self.model(canvases.to(self.device, non_blocking=True))
        if outputs.canvas_size not in self._anchors:
            self._anchors[outputs.canvas_size] = anchor_boxes(outputs.level_sizes, outputs.canvas_size, self.device)
        settings = self.experiment.test
        anchors = self._anchors[outputs.canvas_size]
        return detect(outputs, anchors, contents, settings.score, settings.nms, settings.detections)


def load_finder(path: Path, device: str = "auto") -> YolactFinder:
    """The YOLACT in a checkpoint that `train(..., system=YOLACT)` wrote.

    Raises:
        SaisError: the file is missing or broken, or holds another network.
    """
    checkpoint = load(path)
    model = build_yolact(checkpoint.experiment.model, len(checkpoint.class_names))
    fill(model, checkpoint.part("model"), path)
    return YolactFinder(model, checkpoint.experiment, checkpoint.class_names, checkpoint.category_ids, device)


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    return build_yolact(experiment.model, num_classes)


YOLACT = System("yolact", _build, yolact_losses, YolactFinder)


def yolact_550_r50() -> Experiment:
    """YOLACT-550, ResNet-50, as Section 6 trains it on COCO: SGD, lr 1e-3 for 8 images, weight decay 5e-4, divided by
    10 after 280k, 600k, 700k and 750k of 800k iterations (14,786 of them make an epoch), batch-norm trained.

    What our settings cannot say:

    - inputs are multiples of 32: 544 instead of 550 (the network itself takes 550);
    - SSD's augmentation (crops chosen by their IoU with an object, expansion with the mean colour, photometric
      distortion, flips): zoom, colour and flips of ours stand in for it, in a strength that nobody measured;
    - decay of convolution biases: our optimiser spares them.

    Expected: mask AP 28.2 on COCO test-dev (paper, Table 1); not measured by us.
    """
    return _paper("yolact-550-r50", "resnet50.tv_in1k", 544)


def yolact_700_r101() -> Experiment:
    """YOLACT-700, ResNet-101: `yolact_550_r50` with another backbone and 704 instead of 700 pixels.

    Expected: mask AP 31.2 on COCO test-dev (paper, Table 1); not measured by us.
    """
    return _paper("yolact-700-r101", "resnet101.tv_in1k", 704)


def _paper(name: str, backbone: str, side: int) -> Experiment:
    return Experiment(
        name=name,
        input=InputConfig(mode="fixed", size=(side, side), scale_jitter=(0.5, 2.0), colour_jitter=0.3),
        model=ModelConfig(backbone=backbone, frozen_stages=0, frozen_batch_norm=False),
        optim=OptimConfig(name="sgd", lr=1e-3, batch=8, momentum=0.9, weight_decay=5e-4, bias_lr_factor=1.0),
        schedule=ScheduleConfig(
            epochs=54, steps=(19, 41, 47, 51), factor=0.1, warmup=500, warmup_factor=0.1, warmup_kind="linear"
        ),
    )
