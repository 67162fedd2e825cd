"""Peers that are installed, not written here: ultralytics' YOLO-seg and Roboflow's RF-DETR-Seg, timed end to end.

Neither is a dependency of the project, neither is imported by `sais`, and nothing of theirs is copied: this file calls
their public functions where a user has installed them (ultralytics is AGPL-3.0, RF-DETR Apache-2.0):

    python -m pip install ultralytics rfdetr

and then, from the root of the checkout,

    from sais.benchmark.timing import Conditions, measure_times
    measure_times(["sais.benchmark.candidates:own_candidates", "peers.installed:candidates"], [], Conditions())

Written against ultralytics 8.4.190 and rfdetr 1.11.2; what is older than 8.4 and 1.11 is left out.

All models are built from the configurations in their packages with random weights, which change no time, so nothing is
downloaded (at patch 12, RF-DETR takes no DINOv2 weights either). What is timed is what `predict` of each package does:

- YOLO: letterbox to the smallest multiple of 32 around 640 (480x640 for a 4:3 image), the package's default; fused,
  channels-last on x86; its own suppression; masks by `ops.process_mask_native` (`retina_masks=True`), which makes them
  at the image's size. The default `retina_masks=False` gives masks of the canvas, not of the image. Which of its
  two heads YOLO26 uses is left to the installed version: 8.4.190 takes the one with suppression.
- RF-DETR: stretched to a square; `inference(compile=False)`, which the package advises, plus channels-last; its own
  `PostProcess` with the threshold of `predict`, 0.5. `predict` copies the masks once more afterwards, which is not in
  the time.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sais.benchmark.candidates import Candidate
from sais.benchmark.workload import Workload
from sais.errors import SaisError

YOLOS = {"YOLO11": "nsm", "YOLO26": "ns"}
"""Family -> sizes, a letter each; ultralytics has one configuration for a family and takes the letter in its name."""
RFDETRS = {
    "RF-DETR-Seg nano, 312": "RFDETRSegNano",
    "RF-DETR-Seg small, 384": "RFDETRSegSmall",
    "RF-DETR-Seg medium, 432": "RFDETRSegMedium",
}
"""Name -> class in rfdetr."""
OLDEST = {"ultralytics": (8, 4), "rfdetr": (1, 11)}
"""Package -> the oldest version whose functions are called rightly here."""
YOLO_SIDE = 640
YOLO_NOTE = "masks of the whole image, process_mask_native (retina_masks=True); letterbox; ultralytics' own predictor"
RFDETR_NOTE = "masks of the whole image, PostProcess; stretched; optimized by its inference(compile=False)"
DECOYS = 8
"""Fainter boxes around each object, for suppression to remove; as many as SAIS is given."""
SHIFT = 0.03
"""How far a decoy lies off, in sides of the object: an IoU of 0.89, over YOLO's threshold of 0.7."""
FOUND, FAINT, NOWHERE = 0.9, 0.5, 0.05
"""Scores of objects, of decoys, and the greatest of all other places; the packages' thresholds are 0.25 and 0.5."""
RFDETR_THRESHOLD = 0.5


def candidates() -> list[Candidate]:
    """Those of the packages that are installed; which are not is said on stderr. Imports none of them."""
    found = []
    if usable("ultralytics"):
        bundled = {file.name for file in _folder("ultralytics").glob("cfg/models/**/*-seg.yaml")}
        for family, sizes in YOLOS.items():
            if f"{family.lower()}-seg.yaml" not in bundled:
                print(f"the installed ultralytics has no {family}-seg, left out", file=sys.stderr)
                continue
            for size in sizes:
                model = f"{family}{size}-seg"
                found.append(Candidate(model, partial(PreparedYolo, f"{model.lower()}.yaml"), note=YOLO_NOTE))
    if usable("rfdetr"):
        found += [
            Candidate(name, partial(PreparedRfDetr, variant), note=RFDETR_NOTE) for name, variant in RFDETRS.items()
        ]
    return found


def usable(package: str) -> bool:
    """Whether a package of `OLDEST` is installed and new enough; otherwise a line on stderr says what is missing."""
    least = OLDEST[package]
    remedy = f"python -m pip install --upgrade {package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        print(f"{package} is not installed, its models are left out; {remedy}", file=sys.stderr)
        return False
    if tuple(int(part) for part in version.split(".")[:2]) < least:
        print(f"{package} {version} is older than {least[0]}.{least[1]}, left out; {remedy}", file=sys.stderr)
        return False
    return True


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@contextmanager
def process_kept() -> Iterator[None]:
    """Puts back what importing and setting up the packages changes for the whole process, and so for all contestants.

    ultralytics sets OMP_NUM_THREADS (which processes started later inherit) and torch's number of threads; rfdetr lets
    matrix products be less than fp32. Inside, ultralytics neither reports its use over the network nor installs
    packages by itself.
    """
    environment, threads, precision = dict(os.environ), torch.get_num_threads(), torch.get_float32_matmul_precision()
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


class PreparedYolo:
    """A YOLO-seg model of ultralytics, by the package's own predictor with the settings of `YOLO.predict`.

    Args:
        yaml: its configuration, with the size's letter: yolo11n-seg.yaml.
        scene: what it is to find; at most 80 classes.
        device: cpu, cuda, ...
        settings: settings of the predictor that are to differ.
    """

    def __init__(self, yaml: str, scene: Workload, device: str, **settings: Any) -> None:
        torch.manual_seed(0)
        self.scene = scene
        with process_kept():
            from ultralytics import YOLO
            from ultralytics.models.yolo.segment import SegmentationPredictor

            overrides = {"mode": "predict", "conf": 0.25, "batch": 1, "rect": True, "save": False, "verbose": False}
            overrides |= {"imgsz": YOLO_SIDE, "retina_masks": True, "max_det": max(300, len(scene.boxes))}
            self.predictor = SegmentationPredictor(overrides=overrides | {"device": device} | settings)
            self.predictor.setup_model(YOLO(yaml, task="segment").model, verbose=False)
            self.predictor.setup_source([scene.image])
        self.predictor.batch = (["scene"], [scene.image], [""])  # paths, images, words, as its loader has them
        self.classes = len(self.predictor.model.names)
        if scene.classes > self.classes:
            raise SaisError(f"{yaml} knows {self.classes} classes, the scene has {scene.classes}; make one with fewer")

    def fit(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8, taken as BGR, as ultralytics reads files -> (1, 3, height, width) float32 of 0 .. 1."""
        self.canvas = self.predictor.preprocess([image])
        return self.canvas

    def network(self, canvas: Tensor) -> Any:
        """The forward pass, boxes decoded: ((predictions, prototypes (1, 32, h, w)), raw outputs of the heads).

        Predictions are (1, 4 + classes + 32, L) of cx cy w h, scores and coefficients; of a head without suppression
        (1, 300, 6 + 32) of x1 y1 x2 y2, score, class and coefficients, the best first.
        """
        return self.predictor.model(canvas)

    def plant(self, raw: Any) -> Any:
        """The objects at any places, each with its decoys. Prototypes and coefficients are noise: an object whose mask
        is empty is dropped by the package, and those of an untrained network often are."""
        (predictions, prototypes), *others = raw
        noise = torch.Generator().manual_seed(0)
        planted = torch.randn(predictions.shape, generator=noise)
        if getattr(self.predictor.model, "end2end", False):
            self._plant_best(planted[0])
        else:
            self._plant_dense(planted[0], noise)
        prototypes = torch.randn(prototypes.shape, generator=noise).to(prototypes)
        return ((planted.to(predictions), prototypes), *others)

    def _plant_dense(self, planted: Tensor, noise: torch.Generator) -> None:
        """(4 + classes + 32, L), in place."""
        boxes, labels = self._on_canvas(), torch.from_numpy(self.scene.labels)
        number = len(boxes)
        planted[4 : 4 + self.classes] = NOWHERE * torch.rand(self.classes, planted.shape[1], generator=noise)
        sides = boxes[:, 2:] - boxes[:, :2]
        shifts = SHIFT * (2 * torch.randint(0, 2, (number, DECOYS, 2), generator=noise) - 1) * sides[:, None]
        centers = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None] + torch.cat([torch.zeros(number, 1, 2), shifts], dim=1)
        places = torch.randperm(planted.shape[1], generator=noise)[: number * (1 + DECOYS)].view(number, 1 + DECOYS)
        planted[0:2, places] = centers.permute(2, 0, 1)
        planted[2:4, places] = sides.T[:, :, None].expand(-1, -1, 1 + DECOYS)
        planted[4 + labels[:, None], places] = torch.tensor([FOUND] + [FAINT] * DECOYS)

    def _plant_best(self, planted: Tensor) -> None:
        """(300, 6 + 32), in place; there are no decoys, since this head suppresses nothing."""
        number = len(self.scene.boxes)
        planted[:, 4] = NOWHERE
        planted[:number, :4] = self._on_canvas()
        planted[:number, 4] = FOUND
        planted[:number, 5] = torch.from_numpy(self.scene.labels)

    def _on_canvas(self) -> Tensor:
        """(D, 4) the scene's boxes under the letterbox, which scales evenly and pads both sides alike."""
        (height, width), image = self.canvas.shape[2:], self.scene.size
        scale = min(height / image[0], width / image[1])
        away = [(width - round(image[1] * scale)) // 2, (height - round(image[0] * scale)) // 2]
        return torch.from_numpy(self.scene.boxes) * scale + torch.tensor(away * 2)

    def finish(self, raw: Any) -> Any:
        """The package's `Results` of the image."""
        return self.predictor.postprocess(raw, self.canvas, [self.scene.image])[0]

    def dense(self, found: Any) -> Tensor:
        """(D, H, W) uint8 of 0 and 1, as the package makes them."""
        return found.masks.data


class PreparedRfDetr:
    """An RF-DETR-Seg model. The steps are those of its `predict`, which does them all in one function.

    Args:
        variant: its class in rfdetr: RFDETRSegNano.
        scene: what it is to find; at most 90 classes, and as many objects as the model has queries: 100, medium 200.
        device: cpu, cuda, ...
    """

    def __init__(self, variant: str, scene: Workload, device: str) -> None:
        torch.manual_seed(0)
        self.scene = scene
        self.device = torch.device(device)
        with process_kept():
            import rfdetr

            self.system = getattr(rfdetr, variant)(pretrain_weights=None, device=device)
            self.system.inference(compile=False, inplace=True)
        self.model = self.system.model.inference_model.to(self.device, memory_format=torch.channels_last)
        settings = self.system.model_config
        if len(scene.boxes) > settings.num_queries or scene.classes > settings.num_classes:
            raise SaisError(
                f"{variant} finds at most {settings.num_queries} objects of {settings.num_classes} classes, the scene "
                f"has {len(scene.boxes)} of {scene.classes}; make one with fewer"
            )

    def fit(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, 3, side, side) float32, stretched and normalized."""
        from torchvision.transforms import functional

        whole = torch.from_numpy(image).permute(2, 0, 1).to(self.device)
        whole = whole.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        side = self.system.model.resolution
        canvas = functional.resize(whole, [side, side], antialias=False)[None]
        canvas = functional.normalize(canvas, self.system.means, self.system.stds)
        return canvas.contiguous(memory_format=torch.channels_last)

    def network(self, canvas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The forward pass: boxes (1, Q, 4) of cx cy w h in 0 .. 1, class logits (1, Q, 91), masks (1, Q, h, w)."""
        return self.model(canvas)

    def plant(self, raw: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """One query for each object; the others, of which medium has some, are unsure. There is nothing to suppress."""
        boxes, logits, masks = raw
        noise = torch.Generator().manual_seed(0)
        number, size = len(self.scene.boxes), self.scene.size
        queries = torch.randperm(boxes.shape[1], generator=noise)[:number]
        corners = torch.from_numpy(self.scene.boxes / np.array([size[1], size[0]] * 2, np.float32))
        planted = torch.rand(boxes.shape, generator=noise)
        planted[0, queries] = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
        scores = NOWHERE * torch.rand(logits.shape, generator=noise)
        scores[0, queries, torch.from_numpy(self.scene.labels)] = FOUND
        return planted.to(boxes), scores.logit().to(logits), masks

    def finish(self, raw: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """scores (D,), labels (D,), boxes (D, 4) in image pixels, masks (D, 1, H, W) bool."""
        outputs = dict(zip(("pred_boxes", "pred_logits", "pred_masks"), raw, strict=True))
        size = torch.tensor([self.scene.size], device=self.device)
        return self.system.model.postprocess(outputs, target_sizes=size, score_threshold=RFDETR_THRESHOLD)[0]

    def dense(self, found: dict[str, Tensor]) -> Tensor:
        """(D, H, W) bool, the same memory."""
        return found["masks"][:, 0]
