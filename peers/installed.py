"""Peers from installed packages: ultralytics' YOLO-seg and Roboflow's RF-DETR-Seg, timed end to end.

Neither package is a dependency of the project or imported by `sais`, and none of their code is copied: this file calls
their public functions if a user has installed them (ultralytics is AGPL-3.0, RF-DETR Apache-2.0):

    python -m pip install ultralytics rfdetr

and then, from the root of the checkout,

    from sais.benchmark.timing import Conditions, measure_times
    measure_times(["sais.benchmark.recipe_candidates:own_candidates", "peers.installed:candidates"], [], Conditions())

Written for ultralytics 8.4.190 and rfdetr 1.11.2; versions before 8.4 and 1.11 are skipped.

All models are built from the configurations in their packages with random weights, which do not change latency; nothing
is downloaded (at patch size 12, RF-DETR uses no DINOv2 weights either). The timed code is that of each package's
`predict`:

- YOLO: letterbox to the smallest multiple of 32 around 640 (480x640 for a 4:3 image), the package's default; fused,
  channels-last on x86; its own NMS; masks by `ops.process_mask_native` (`retina_masks=True`), at the size of the image.
  The default `retina_masks=False` returns masks of the canvas instead. The installed version decides which of its two
  heads YOLO26 uses: 8.4.190 uses the one with NMS.
- RF-DETR: resized to a square; `inference(compile=False)`, which the package recommends, and channels-last; its own
  `PostProcess` with the threshold of `predict`, 0.5. The final copy of the masks in `predict` is not timed.
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
from sais.errors import InputError

YOLOS = {"YOLO11": "nsm", "YOLO26": "ns"}
"""Family -> letters of its sizes; ultralytics has one configuration per family and reads the size from the name."""
RFDETRS = {
    "RF-DETR-Seg nano, 312": "RFDETRSegNano",
    "RF-DETR-Seg small, 384": "RFDETRSegSmall",
    "RF-DETR-Seg medium, 432": "RFDETRSegMedium",
}
"""Name -> class of rfdetr."""
MIN_VERSIONS = {"ultralytics": (8, 4), "rfdetr": (1, 11)}
"""Package -> minimum supported version."""
YOLO_SIDE = 640
YOLO_NOTE = "full-frame masks by process_mask_native (retina_masks=True); letterboxed; ultralytics' own predictor"
RFDETR_NOTE = "full-frame masks by PostProcess; resized to a square; optimized by its inference(compile=False)"
DUPLICATES = 8
"""Lower-scoring boxes around each object, which NMS removes; as many as SAIS gets."""
SHIFT = 0.03
"""Offset of a duplicate relative to the object's sides: an IoU of 0.89, above YOLO's threshold of 0.7."""
OBJECT_SCORE, DUPLICATE_SCORE, BACKGROUND_SCORE = 0.9, 0.5, 0.05
"""Scores of objects and duplicates, and the maximum of all others; the packages' thresholds are 0.25 and 0.5."""
RFDETR_THRESHOLD = 0.5


def candidates() -> list[Candidate]:
    """Return the models of the installed packages; missing packages are reported on stderr. Imports none of them."""
    candidates = []
    if usable("ultralytics"):
        bundled = {file.name for file in _folder("ultralytics").glob("cfg/models/**/*-seg.yaml")}
        for family, sizes in YOLOS.items():
            if f"{family.lower()}-seg.yaml" not in bundled:
                print(f"the installed ultralytics has no {family}-seg, which is skipped", file=sys.stderr)
                continue
            for size in sizes:
                model = f"{family}{size}-seg"
                candidates.append(Candidate(model, partial(PreparedYolo, f"{model.lower()}.yaml"), note=YOLO_NOTE))
    if usable("rfdetr"):
        candidates += [
            Candidate(name, partial(PreparedRfDetr, variant), note=RFDETR_NOTE) for name, variant in RFDETRS.items()
        ]
    return candidates


def usable(package: str) -> bool:
    """Check whether a package of `MIN_VERSIONS` is installed and recent enough; otherwise report it on stderr."""
    minimum = MIN_VERSIONS[package]
    command = f"python -m pip install --upgrade {package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        print(f"{package} is not installed; its models are skipped. Run {command}.", file=sys.stderr)
        return False
    if tuple(int(part) for part in version.split(".")[:2]) < minimum:
        print(
            f"{package} {version} is older than {minimum[0]}.{minimum[1]}; its models are skipped. Run {command}.",
            file=sys.stderr,
        )
        return False
    return True


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@contextmanager
def restored_process_settings() -> Iterator[None]:
    """Restore the settings that importing and setting up the packages changes for the pixels process on exit.

    ultralytics sets OMP_NUM_THREADS (inherited by child processes) and torch's number of threads; rfdetr reduces the
    precision of matrix products below fp32. In this context, ultralytics neither reports its use over the network nor
    installs packages.
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
        yaml: the configuration with the letter of the size, such as yolo11n-seg.yaml.
        workload: the image and its objects, of at most 80 classes.
        device: the device of the network: cpu, cuda, ...
        settings: settings of the predictor that replace the defaults.
    """

    def __init__(self, yaml: str, workload: Workload, device: str, **settings: Any) -> None:
        torch.manual_seed(0)
        self.workload = workload
        with restored_process_settings():
            from ultralytics import YOLO
            from ultralytics.models.yolo.segment import SegmentationPredictor

            overrides = {"mode": "predict", "conf": 0.25, "batch": 1, "rect": True, "save": False, "verbose": False}
            overrides |= {"imgsz": YOLO_SIDE, "retina_masks": True, "max_det": max(300, len(workload.boxes))}
            self.predictor = SegmentationPredictor(overrides=overrides | {"device": device} | settings)
            self.predictor.setup_model(YOLO(yaml, task="segment").model, verbose=False)
            self.predictor.setup_source([workload.image])
        self.predictor.batch = (
            ["image"],
            [workload.image],
            [""],
        )  # paths, images and messages, as its loader returns them
        self.num_classes = len(self.predictor.model.names)
        if workload.num_classes > self.num_classes:
            raise InputError(
                f"{yaml}: {self.num_classes} classes, but the workload has {workload.num_classes}. Use fewer."
            )

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Letterbox the image (H, W, 3) uint8, read as BGR, to (1, 3, height, width) float32 in [0, 1]."""
        self.canvas = self.predictor.preprocess([image])
        return self.canvas

    def network(self, canvases: Tensor) -> Any:
        """Run the forward pass, including box decoding.

        Returns:
            ((predictions, prototypes (1, 32, h, w)), raw outputs of the heads). Predictions are (1, 4 + C + 32, L): cx
            cy w h, scores and coefficients; of a head without NMS (1, 300, 6 + 32): x1 y1 x2 y2, score, class and
            coefficients, scores descending.
        """
        return self.predictor.model(canvases)

    def inject(self, outputs: Any) -> Any:
        """Replace predictions by the workload's objects with duplicates, at random locations.

        Prototypes and coefficients are noise: the package drops objects with empty masks, and the masks of an untrained
        network are often empty.
        """
        (predictions, prototypes), *others = outputs
        noise = torch.Generator().manual_seed(0)
        injected = torch.randn(predictions.shape, generator=noise)
        if getattr(self.predictor.model, "end2end", False):
            self._inject_best(injected[0])
        else:
            self._inject_dense(injected[0], noise)
        prototypes = torch.randn(prototypes.shape, generator=noise).to(prototypes)
        return ((injected.to(predictions), prototypes), *others)

    def _inject_dense(self, injected: Tensor, noise: torch.Generator) -> None:
        """Write objects and duplicates into the predictions (4 + C + 32, L), in place."""
        boxes, labels = self._canvas_boxes(), torch.from_numpy(self.workload.labels)
        count = len(boxes)
        injected[4 : 4 + self.num_classes] = BACKGROUND_SCORE * torch.rand(
            self.num_classes, injected.shape[1], generator=noise
        )
        sides = boxes[:, 2:] - boxes[:, :2]
        shifts = SHIFT * (2 * torch.randint(0, 2, (count, DUPLICATES, 2), generator=noise) - 1) * sides[:, None]
        centers = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None] + torch.cat([torch.zeros(count, 1, 2), shifts], dim=1)
        columns = torch.randperm(injected.shape[1], generator=noise)[: count * (1 + DUPLICATES)]
        columns = columns.view(count, 1 + DUPLICATES)
        injected[0:2, columns] = centers.permute(2, 0, 1)
        injected[2:4, columns] = sides.T[:, :, None].expand(-1, -1, 1 + DUPLICATES)
        injected[4 + labels[:, None], columns] = torch.tensor([OBJECT_SCORE] + [DUPLICATE_SCORE] * DUPLICATES)

    def _inject_best(self, injected: Tensor) -> None:
        """Write objects into the predictions (300, 6 + 32), in place; no duplicates, since this head has no NMS."""
        count = len(self.workload.boxes)
        injected[:, 4] = BACKGROUND_SCORE
        injected[:count, :4] = self._canvas_boxes()
        injected[:count, 4] = OBJECT_SCORE
        injected[:count, 5] = torch.from_numpy(self.workload.labels)

    def _canvas_boxes(self) -> Tensor:
        """Return the boxes (D, 4) of the workload in canvas pixels; the letterbox pads both sides equally."""
        (height, width), image = self.canvas.shape[2:], self.workload.size
        scale = min(height / image[0], width / image[1])
        padding = [(width - round(image[1] * scale)) // 2, (height - round(image[0] * scale)) // 2]
        return torch.from_numpy(self.workload.boxes) * scale + torch.tensor(padding * 2)

    def postprocess(self, outputs: Any) -> Any:
        """Return the package's `Results` of the image."""
        return self.predictor.postprocess(outputs, self.canvas, [self.workload.image])[0]

    def dense_masks(self, results: Any) -> Tensor:
        """Return the masks (D, H, W) uint8 of 0 and 1."""
        return results.masks.data


class PreparedRfDetr:
    """An RF-DETR-Seg model; the stages are the steps of its `predict`, which is one function.

    Args:
        variant: the name of its class in rfdetr, such as RFDETRSegNano.
        workload: the image and its objects: at most 90 classes, and as many objects as queries (100; medium 200).
        device: the device of the network: cpu, cuda, ...
    """

    def __init__(self, variant: str, workload: Workload, device: str) -> None:
        torch.manual_seed(0)
        self.workload = workload
        self.device = torch.device(device)
        with restored_process_settings():
            import rfdetr

            self.detector = getattr(rfdetr, variant)(pretrain_weights=None, device=device)
            self.detector.inference(compile=False, inplace=True)
        self.model = self.detector.model.inference_model.to(self.device, memory_format=torch.channels_last)
        settings = self.detector.model_config
        if len(workload.boxes) > settings.num_queries or workload.num_classes > settings.num_classes:
            raise InputError(
                f"{variant}: at most {settings.num_queries} objects of {settings.num_classes} classes, but the "
                f"workload has {len(workload.boxes)} of {workload.num_classes}. Use fewer."
            )

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize the image (H, W, 3) uint8 RGB to a square (1, 3, side, side) float32 and normalize it."""
        from torchvision.transforms import functional

        pixels = torch.from_numpy(image).permute(2, 0, 1).to(self.device)
        pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        side = self.detector.model.resolution
        canvas = functional.resize(pixels, [side, side], antialias=False)[None]
        canvas = functional.normalize(canvas, self.detector.means, self.detector.stds)
        return canvas.contiguous(memory_format=torch.channels_last)

    def network(self, canvases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the forward pass: boxes (1, Q, 4) cx cy w h in [0, 1], class logits (1, Q, 91), masks (1, Q, h, w)."""
        return self.model(canvases)

    def inject(self, outputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Replace boxes and logits: one query for each object, low scores for the others. The model has no NMS."""
        boxes, logits, masks = outputs
        noise = torch.Generator().manual_seed(0)
        count, size = len(self.workload.boxes), self.workload.size
        queries = torch.randperm(boxes.shape[1], generator=noise)[:count]
        corners = torch.from_numpy(self.workload.boxes / np.array([size[1], size[0]] * 2, np.float32))
        injected = torch.rand(boxes.shape, generator=noise)
        injected[0, queries] = torch.cat(
            [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1
        )
        scores = BACKGROUND_SCORE * torch.rand(logits.shape, generator=noise)
        scores[0, queries, torch.from_numpy(self.workload.labels)] = OBJECT_SCORE
        return injected.to(boxes), scores.logit().to(logits), masks

    def postprocess(self, outputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Return scores (D,), labels (D,), boxes (D, 4) in image pixels and masks (D, 1, H, W) bool."""
        named = dict(zip(("pred_boxes", "pred_logits", "pred_masks"), outputs, strict=True))
        size = torch.tensor([self.workload.size], device=self.device)
        return self.detector.model.postprocess(named, target_sizes=size, score_threshold=RFDETR_THRESHOLD)[0]

    def dense_masks(self, results: dict[str, Tensor]) -> Tensor:
        """Return the masks (D, H, W) bool without a copy."""
        return results["masks"][:, 0]
