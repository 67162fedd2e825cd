"""The settings: frozen dataclasses whose defaults are the paper's values. The docstring under a field is its --help.

Only builders and the engine read them; modules take flat arguments. `Experiment` is the whole, written into every
checkpoint. The paper's tables are fields: I `input.mode`, `input.size`; II `criterion.assigner` x `model.masks`;
III `model.coefficients_from`; IV `model.backbone`, `input.size`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sais.errors import SaisError
from sais.resolve import suggest


@dataclass(frozen=True)
class InputConfig:
    """How an image is fitted to the network's canvas."""

    mode: Literal["fixed", "keep_ratio"] = "fixed"
    """fixed: stretched to `size`, ratio not kept (the paper). keep_ratio: scaled until the short side is size[0] or
    the long side size[1], padded right and below to a multiple of 32."""
    size: tuple[int, int] = (768, 768)
    """fixed: (height, width), multiples of 32. keep_ratio: (short side, greatest long side), 800 1333 in the paper."""


@dataclass(frozen=True)
class AugmentConfig:
    """What training does to an image beyond fitting it; all but the flip is off in the paper. Masks stay exact."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    mosaic: float = 0.0
    """Probability that the image shares its canvas with three others, each in a quarter around a random point."""
    copy_paste: float = 0.0
    """Probability that objects of another image are pasted in; what they hide is hidden in the masks too."""
    mosaic_copy_paste_epochs: int | None = None
    """Mosaic and copy-paste in so many first epochs only, the rest without, as images really are; none: in all."""
    expand: float = 0.0
    """Probability that the image is put on a larger ground, so that its objects become smaller."""
    expand_max: float = 2.0
    """Greatest side of that ground, in sides of the image."""
    expand_fill: Literal["padding", "mean"] = "padding"
    """Color of that ground: that of the canvas beside an image, or the image's own mean."""
    crop: float = 0.0
    """Probability of a random crop, which keeps at least one object where there is one."""
    crop_min: float = 0.4
    """Least share of the image's sides that a crop keeps."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Large-scale jitter: the image is zoomed by a factor drawn from this range, then cropped or padded at a random
    place to the same canvas."""
    photometric: float = 0.0
    """Probability of each of four changes, made in random order: brightness, contrast, saturation, hue."""
    color_jitter: float = 0.0
    """Greatest relative change of brightness, contrast and saturation, which are all changed, in this order."""
    multi_scale: tuple[float, float] = (1.0, 1.0)
    """Each batch has an input size of its own: `input.size` by a factor from this range, in multiples of 32."""
    extra: tuple[str, ...] = ()
    """Augmentations of your own, applied last: module:function of (Sample, numpy Generator) that returns a Sample."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    architecture: str = "sais"
    """Architecture: sais, or module:attribute of another `sais.modeling.architecture.Architecture`."""
    backbone: str = "resnet50.tv_in1k"
    """Any timm model that supports features_only and reaches strides 8, 16 and 32."""
    pretrained: bool = True
    """Start from ImageNet weights. Random initialization freezes nothing, and says so."""
    frozen_stages: int = 1
    """How much of the backbone is not trained: 0 nothing, 1 stem and C2 (the paper), 2 also C3, and so on."""
    frozen_batch_norm: bool = True
    """Keep the backbone's batch-norm statistics and affine parameters as they came."""
    channels: int = 256
    """Channels of the FPN and of the head's towers."""
    head: str = "sais"
    """Head on the feature pyramid: sais, or module:attribute of a class with the arguments of
    `sais.modeling.head.Head`."""
    quality: str = "centerness"
    """Quality branch, whose probability multiplies the class score: centerness (the paper), iou, none, or
    module:attribute of its target."""
    tower_depth: int = 4
    """3x3 convolutions in each of the two towers."""
    tower_kind: Literal["plain", "depthwise"] = "plain"
    """Plain 3x3 convolutions (the paper) or depthwise 3x3 followed by 1x1."""
    norm: Literal["group", "batch"] = "group"
    """Normalization inside the towers: GroupNorm(32) (the paper) or batch-norm per level batch."""
    masks: bool = True
    """Predict masks. Without: plain FCOS."""
    coefficients_from: Literal["both", "classification"] = "both"
    """Mask coefficients from the sum of both towers (the paper's fusion) or from the classification tower alone."""
    prototypes: int = 32
    """K, the number of prototype maps."""
    prototype_channels: int = 256
    """Channels inside the ProtoNet."""
    prototype_depth: int = 3
    """3x3 convolutions of the ProtoNet before its bilinear x2."""
    distance_unit: Literal["pixel", "stride"] = "pixel"
    """A distance is exp(scale x) pixels (the paper) or exp(scale x) strides of its level."""


@dataclass(frozen=True)
class CriterionConfig:
    """Target assignment and training losses."""

    assigner: str = "center"
    """Assignment of locations to objects: center (the most central object, Eqs. 2-4), area (the smallest object,
    FCOS), or module:attribute."""
    level_ranges: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    """Upper bound of a location's largest distance to a side of its object, in canvas pixels, for each level but the
    last, which has none."""
    classification_loss: str = "focal"
    """Classification loss: focal, or module:attribute."""
    focal_alpha: float = 0.25
    """Weight of positives in the focal loss; negatives have 1 - alpha."""
    focal_gamma: float = 2.0
    """Exponent of the modulating factor of the focal loss."""
    box_loss: str = "iou"
    """Box loss: iou (-log IoU, the paper), giou (1 - GIoU), or module:attribute."""
    extra_losses: tuple[str, ...] = ()
    """Additional loss terms: module:attribute of functions of outputs, batch and assignment."""
    class_weight: float = 1.0
    """Weight of the classification loss."""
    box_weight: float = 1.0
    """Weight of the box loss."""
    quality_weight: float = 1.0
    """Weight of the loss of the quality branch."""
    mask_weight: float = 1.0
    """Weight of the mask loss (6.1 in YOLACT, 1 in the authors' later code)."""
    mask_positives: int = 100
    """Maximum number of locations per image that train masks, sampled before any mask is assembled."""
    mask_margin: float = 0.0
    """Margin around the box that the mask loss includes, as a fraction of the box's sides."""


@dataclass(frozen=True)
class PostprocessConfig:
    """From dense outputs to detections."""

    score_threshold: float = 0.05
    """Least class probability of a candidate."""
    pre_nms_topk: int = 1000
    """Locations kept per level before NMS."""
    nms_iou: float = 0.5
    """IoU above which the lower of two boxes of one class goes."""
    max_detections: int = 100
    """Kept per image."""
    mask_margin: float = 0.0
    """How far a mask may reach beyond its box, as a share of the box's sides."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer."""

    name: str = "sgd"
    """Optimizer: sgd with momentum (the paper), adamw (learns faster from few images), or module:function."""
    lr: float = 0.01
    """Learning rate for `batch` images."""
    batch_size: int = 16
    """Images in one optimizer step, over all devices together."""
    micro_batch: int | None = None
    """Images at once on a device; gradients add up until `batch` is reached, with the result of all at once. None: a
    device's whole share of the batch."""
    momentum: float = 0.9
    """SGD only."""
    weight_decay: float = 1e-4
    """Pull of the weights towards zero; none on convolution biases, nor on norm layers with adamw."""
    bias_lr_factor: float = 2.0
    """Convolution biases learn at this multiple of lr, without decay."""
    backbone_lr_factor: float = 1.0
    """The backbone learns at this multiple of lr."""
    layer_decay: float = 1.0
    """Each stage of the backbone learns at this multiple of the lr of the stage above it, its last one at this multiple
    of the backbone's lr; 1 in the paper. 0.7 to 0.9 keep more of what few images would overwrite."""
    grad_clip_norm: float | None = None
    """Greatest norm of the whole gradient; none in the paper, 35 in the detector's later version."""


@dataclass(frozen=True)
class ScheduleConfig:
    """The course of the learning rate."""

    epochs: int = 12
    """Passes over the training images."""
    kind: str = "steps"
    """Schedule: steps (lr drops at `milestones`, the paper), cosine (lr falls smoothly to zero), or module:function."""
    milestones: tuple[int, ...] = (8, 11)
    """Epochs after which lr is multiplied by `factor`."""
    gamma: float = 0.1
    """What lr is multiplied by at each of `steps`."""
    warmup: int = 500
    """Iterations of warm-up; at most a tenth of the run."""
    warmup_factor: float = 1 / 3
    """Share of lr the warm-up starts at."""
    warmup_kind: Literal["constant", "linear"] = "constant"
    """constant: lr * warmup_factor all along (the paper's detector). linear: rising to lr."""
    patience: int = 0
    """Stop after so many evaluations without a better AP; 0 trains all epochs."""


@dataclass(frozen=True)
class RunConfig:
    """What does not belong to the model: seeds, workers, how often to look."""

    seed: int = 0
    """Same seed, data and machine: same weights."""
    workers: int = 2
    """Processes that read images; 0 reads in the main one."""
    device: str = "auto"
    """auto takes CUDA, then Apple's MPS, then the CPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass in training; losses are always fp32, and fp16 scales them so that small gradients
    survive."""
    activation_checkpointing: Literal["none", "norms", "all"] = "norms"
    """What backward computes again instead of keeping it; results stay the same. norms: all but convolutions, at little
    cost. all: nearly everything; least memory for about a quarter more time."""
    cpu_convolutions: Literal["auto", "direct", "winograd"] = "auto"
    """How 3x3 convolutions train on a CPU in fp32. winograd: with a quarter of the multiplications, rounding apart the
    same. auto: so where that was measured to be faster, CPUs with AVX2 and without AVX-512."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is then evaluated and kept; none in the paper."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation split; 0: only after the last."""
    checkpoint_every: int = 0
    """Also save every so many iterations, besides after each epoch."""
    checkpoint_minutes: float = 15.0
    """Also save when so many minutes have passed since the last time; 0: never for the time's sake."""
    on_nonfinite_loss: Literal["stop", "skip"] = "stop"
    """Where the loss or its gradient is no number, or a hundred times the greatest of the last 100 iterations: stop,
    with the last checkpoint as it was, or skip the batch and say so (ten in a row stop the run)."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Where curves and predicted images go besides the run's own logs: tensorboard, wandb, mlflow, module:function,
    several of them or none."""


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a training run computes, except its data."""

    name: str = "sais"
    """The recipe this started from, for reports. A run's own name is that of its folder, --out."""
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)


RANGES: dict[str, tuple[float, float]] = {
    "augment.flip": (0, 1),
    "augment.mosaic": (0, 1),
    "augment.copy_paste": (0, 1),
    "augment.mosaic_copy_paste_epochs": (0, math.inf),
    "augment.expand": (0, 1),
    "augment.expand_max": (1, 10),
    "augment.crop": (0, 1),
    "augment.crop_min": (0.05, 1),
    "augment.scale_jitter": (0.01, 100),
    "augment.photometric": (0, 1),
    "augment.color_jitter": (0, 1),
    "augment.multi_scale": (0.1, 4),
    "model.frozen_stages": (0, math.inf),
    "model.channels": (2, math.inf),
    "model.tower_depth": (0, math.inf),
    "model.prototypes": (1, math.inf),
    "model.prototype_channels": (1, math.inf),
    "model.prototype_depth": (0, math.inf),
    "criterion.level_ranges": (0, math.inf),
    "criterion.focal_alpha": (0, 1),
    "criterion.focal_gamma": (0, math.inf),
    "criterion.class_weight": (0, math.inf),
    "criterion.box_weight": (0, math.inf),
    "criterion.quality_weight": (0, math.inf),
    "criterion.mask_weight": (0, math.inf),
    "criterion.mask_positives": (0, math.inf),
    "criterion.mask_margin": (0, math.inf),
    "postprocess.score_threshold": (0, 1),
    "postprocess.pre_nms_topk": (1, math.inf),
    "postprocess.nms_iou": (0, 1),
    "postprocess.max_detections": (1, math.inf),
    "postprocess.mask_margin": (0, math.inf),
    "optim.lr": (0, math.inf),
    "optim.batch_size": (1, math.inf),
    "optim.micro_batch": (1, math.inf),
    "optim.momentum": (0, 1),
    "optim.weight_decay": (0, math.inf),
    "optim.bias_lr_factor": (0, math.inf),
    "optim.backbone_lr_factor": (0, math.inf),
    "optim.layer_decay": (0, 1),
    "optim.grad_clip_norm": (0, math.inf),
    "schedule.epochs": (1, math.inf),
    "schedule.milestones": (0, math.inf),
    "schedule.gamma": (0, math.inf),
    "schedule.warmup": (0, math.inf),
    "schedule.warmup_factor": (0, 1),
    "schedule.patience": (0, math.inf),
    "run.seed": (0, 2**32 - 1),
    "run.workers": (0, math.inf),
    "run.ema": (0, 1),
    "run.evaluate_every": (0, math.inf),
    "run.checkpoint_every": (0, math.inf),
    "run.checkpoint_minutes": (0, math.inf),
}
"""Least and greatest value of each number; of several (scale_jitter), of each of them. None of them may be infinite."""


def check_ranges(experiment: Experiment) -> None:
    """Raise SaisError where a number of the settings is not one that training can work with, naming its option."""
    for name, (least, most) in RANGES.items():
        group, _, field_name = name.partition(".")
        value = getattr(getattr(experiment, group), field_name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(least <= one <= most and one < math.inf for one in values):  # NaN is in no range
            option = "--" + name.replace("_", "-")
            said = f"between {least:g} and {most:g}" if most < math.inf else f"{least:g} or more, and finite"
            raise SaisError(f"{option} {' '.join(map(str, values))}: must be {said}")
    for name in ("scale_jitter", "multi_scale"):
        low, high = getattr(experiment.augment, name)
        if low > high:
            raise SaisError(f"--augment.{name.replace('_', '-')} {low:g} {high:g}: the smaller factor comes first")


def to_dict(settings: Any) -> dict[str, Any]:
    """A settings object as plain dicts and lists, ready for JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in _items(settings)}


def _items(settings: Any) -> typing.Iterator[tuple[str, Any]]:
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        yield f.name, to_dict(value) if dataclasses.is_dataclass(value) else value


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings: {"optim": {"lr": 0.1}} becomes {"optim.lr": 0.1}. Lists stay values.

    Args:
        settings: nested settings as `to_dict` returns them.
        prefix: text before each name, with its dot.
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def from_dict(kind: type, values: dict[str, Any], where: str = "settings") -> Any:
    """The settings object of dataclass `kind` that `values` (as made by `to_dict`) describes.

    Raises:
        SaisError: an unknown key (with the nearest names) or a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise SaisError(f"{where}: unknown setting '{key}'{suggest(key, hints)}")
    return kind(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise SaisError(f"{where}: expected a group of settings, got {value!r}")
        return from_dict(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value not in args:
            raise SaisError(f"{where}: {value!r} is none of {', '.join(map(repr, args))}")
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(args[0], value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise SaisError(f"{where}: expected {len(args)} values, got {value!r}")
        return tuple(_value(args[0], v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise SaisError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
