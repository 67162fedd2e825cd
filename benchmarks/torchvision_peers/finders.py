"""The peers ready to predict: what `sais.Predictor` is to SAIS. The route of a prediction stands in `detect`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.torchvision_peers.common import Regions, backbone_of
from benchmarks.torchvision_peers.fcos import TorchvisionFcos, build_fcos
from benchmarks.torchvision_peers.mask_rcnn import MaskRcnn, build_mask_rcnn
from benchmarks.torchvision_peers.masks import full_masks, pasted
from sais.checkpoint import fill, load
from sais.config import Experiment
from sais.detections import Detections
from sais.predict import choose_device
from sais.structures import Placement, SaisError


class MaskRcnnFinder:
    """A trained Mask R-CNN, ready to predict.

    Args:
        model: the network; moved to the device and set to evaluation.
        experiment: of its settings `test` it reads score, nms and detections.
        class_names: C names.
        category_ids: C numbers of the data set.
        device: as for `sais.Predictor`.
    """

    def __init__(
        self,
        model: MaskRcnn,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str = "auto",
    ) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.model.set_limits(experiment.test.score, experiment.test.nms, experiment.test.detections)
        self.experiment = experiment
        self.class_names = class_names
        self.category_ids = category_ids

    @torch.inference_mode()
    def detect(self, canvases: Tensor, placements: list[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the pictures lie on them to B detections.

        Masks are box-local and exact, so that accuracy is compared without differences of assembly.
        """
        regions = self.regions(canvases, placements)
        return [_detections(r, p, self.class_names) for r, p in zip(regions, placements, strict=True)]

    @torch.inference_mode()
    def regions(self, canvases: Tensor, placements: list[Placement]) -> list[Regions]:
        """As `detect`, but on the canvas still, on the model's device, masks as maps of 28 x 28."""
        found: list[Regions] = self.model(canvases.to(self.device), [p.content_size for p in placements])
        return found

    @torch.inference_mode()
    def full_masks(self, canvases: Tensor, placements: list[Placement]) -> list[tuple[Regions, Tensor]]:
        """torchvision's whole route, for speed: B times regions, boxes in picture pixels, and their masks (D, H, W)
        bool, all on the model's device."""
        results = []
        for found, placement in zip(self.regions(canvases, placements), placements, strict=True):
            vertical, horizontal = placement.scale
            found.boxes = found.boxes / found.boxes.new_tensor([horizontal, vertical, horizontal, vertical])
            assert found.probabilities is not None
            results.append((found, full_masks(found.probabilities, found.boxes, placement.picture_size)))
        return results


class FcosFinder:
    """A trained FCOS of torchvision, ready to predict boxes.

    Args:
        model: the network; moved to the device and set to evaluation.
        experiment: of its settings `test` it reads score, nms, detections and candidates.
        class_names: C names.
        category_ids: C numbers of the data set.
        device: as for `sais.Predictor`.
    """

    def __init__(
        self,
        model: TorchvisionFcos,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str = "auto",
    ) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        test = experiment.test
        self.model.set_limits(test.score, test.nms, test.detections, test.candidates)
        self.experiment = experiment
        self.class_names = class_names
        self.category_ids = category_ids

    @torch.inference_mode()
    def detect(self, canvases: Tensor, placements: list[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the pictures lie on them to B detections, boxes only."""
        regions = self.model(canvases.to(self.device), [p.content_size for p in placements])
        return [_detections(r, p, self.class_names) for r, p in zip(regions, placements, strict=True)]


def load_finder(path: Path, device: str = "auto") -> MaskRcnnFinder | FcosFinder:
    """The peer in a checkpoint that `train(..., system=MASK_RCNN)` or `train(..., system=FCOS)` wrote.

    Raises:
        SaisError: the file is missing or broken, or holds another system.
    """
    checkpoint = load(path)
    config, classes = checkpoint.experiment.model, len(checkpoint.class_names)
    system = checkpoint.state.get("system")
    rest = (checkpoint.experiment, checkpoint.class_names, checkpoint.category_ids, device)
    if system == "mask-rcnn":
        mask_rcnn = build_mask_rcnn(backbone_of(config), classes, config.channels)
        fill(mask_rcnn, checkpoint.part("model"), path)
        return MaskRcnnFinder(mask_rcnn, *rest)
    if system == "fcos-torchvision":
        fcos = build_fcos(backbone_of(config), classes, config.channels)
        fill(fcos, checkpoint.part("model"), path)
        return FcosFinder(fcos, *rest)
    raise SaisError(f"{path}: a model of {system}; give one of mask-rcnn or fcos-torchvision")


def _detections(regions: Regions, placement: Placement, class_names: tuple[str, ...]) -> Detections:
    """Regions of one image in canvas pixels -> what a user holds, in picture pixels."""
    boxes = placement.to_picture(regions.boxes.cpu().numpy())
    probabilities = regions.probabilities
    patches = [] if probabilities is None else pasted(probabilities.cpu().numpy(), boxes, placement.picture_size)
    return Detections(
        size=placement.picture_size,
        boxes=boxes,
        scores=regions.scores.cpu().numpy(),
        labels=regions.labels.cpu().numpy(),
        class_names=class_names,
        patches=patches,
    )
