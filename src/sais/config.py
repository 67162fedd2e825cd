"""Settings: frozen dataclasses. The docstring under a field is its help text.

The defaults reproduce the paper. Where its text gives no value, they are those of its family: FCOS in mmdetection, and
YOLACT (`docs/paper.md` separates the two). Only builders and the engine read settings; modules take flat arguments.
Every checkpoint contains the whole `Experiment`. Where a field names a row of a table, ``module:attribute`` names your
own code. The paper's tables are fields: I `input.mode`, `input.size`; II `criterion.assigner` x `model.masks`; III
`model.coefficients_from`; IV `model.backbone`, `input.size`.
"""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sais.errors import ConfigError
from sais.resolve import suggest


@dataclass(frozen=True)
class InputConfig:
    """How an image is resized to the network's canvas."""

    mode: Literal["fixed", "keep_ratio"] = "fixed"
    """fixed: stretched to `size`, aspect ratio not kept (the paper). keep_ratio: scaled until the short side is size[0]
    or the long side size[1], padded right and below to a multiple of 32."""
    size: tuple[int, int] = (768, 768)
    """fixed: (height, width), multiples of 32. keep_ratio: (short side, maximum long side), 800 1333 in the paper."""
    white_level: int | None = None
    """Value of 16-bit images that becomes 255. None: chosen from the training images, if any has more than 8 bits."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation in training; by default only the flip, as in FCOS (the paper reports none). Masks stay exact."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    flip_pairs: tuple[str, ...] = ("auto",)
    """Pairs of classes whose labels a flip exchanges, such as hand_l=hand_r. auto: classes whose names differ only by
    left and right, or l and r. none: no pairs."""
    mosaic: float = 0.0
    """Probability that the image shares its canvas with three others, each in a quarter around a random point."""
    copy_paste: float = 0.0
    """Probability that objects of another image are pasted in; masks of the objects they cover are cut accordingly."""
    mosaic_copy_paste_epochs: int | None = None
    """Number of first epochs with mosaic and copy-paste; None: all epochs."""
    expand: float = 0.0
    """Probability that the image is placed on a larger background, so that its objects become smaller."""
    expand_max: float = 2.0
    """Maximum side of that background, as a multiple of the image's side."""
    expand_fill: Literal["padding", "mean"] = "padding"
    """Color of that background: the padding color of the canvas, or the mean of the image."""
    crop: float = 0.0
    """Probability of a random crop, which keeps at least one object if there is any."""
    crop_min: float = 0.4
    """Minimum side of a crop, as a fraction of the image's side."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Range of the random zoom factor (large-scale jitter); the image is then cropped or padded at a random place to
    the same canvas."""
    photometric: float = 0.0
    """Probability of each of four changes in random order: brightness, contrast, saturation, hue."""
    color_jitter: float = 0.0
    """Maximum relative change of brightness, contrast and saturation, which are all changed, in this order."""
    multi_scale: tuple[float, float] = (1.0, 1.0)
    """Range of a random factor on `input.size`, drawn for each batch; sizes are rounded to multiples of 32."""
    initial_size: float = 1.0
    """Factor on `input.size` in the first epoch. It grows epoch by epoch to 1 over `size_growth_epochs`: early epochs
    take less time. Sizes are rounded to multiples of 32."""
    size_growth_epochs: int = 0
    """Number of first epochs in which the input size grows from `initial_size`."""
    extra: tuple[str, ...] = ()
    """Augmentations of your own, applied last: module:function of (Sample, numpy Generator) that returns a Sample."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    architecture: str = "sais"
    """Architecture: sais, or module:attribute of another `sais.modeling.architecture.Architecture`."""
    backbone: str = "resnet50.tv_in1k"
    """Name of a timm model that supports features_only and has strides 4, 8, 16 and 32."""
    pretrained: bool = True
    """Start from ImageNet weights. A randomly initialized backbone has no frozen layers."""
    frozen_stages: int = 1
    """Frozen stages of the backbone: 0 none, 1 stem and C2, 2 also C3, 3 also C4."""
    frozen_batch_norm: bool = True
    """Keep statistics and affine parameters of the backbone's batch-norm layers."""
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
    """Normalization inside the towers: GroupNorm(32), or batch-norm, computed for each level separately."""
    masks: bool = True
    """Predict masks; without masks the model is FCOS."""
    coefficients_from: Literal["both", "classification"] = "both"
    """Mask coefficients from the sum of both towers (the paper's fusion) or from the classification tower alone."""
    prototypes: int = 32
    """Number of prototype maps K."""
    prototype_channels: int = 256
    """Channels of the ProtoNet's convolutions."""
    prototype_depth: int = 3
    """3x3 convolutions of the ProtoNet before its bilinear x2."""
    prototype_norm: Literal["none", "group"] = "none"
    """Normalization after each 3x3 convolution of the ProtoNet: none (the paper) or GroupNorm(32)."""
    relative_coordinates: bool = False
    """Masks also depend on the coordinates relative to the location that predicts them, as in CondInst: linear and
    quadratic terms in four more coefficients. Separates objects that look alike."""
    distance_unit: Literal["pixel", "stride"] = "pixel"
    """Unit of a distance exp(scale x): pixels (as in FCOS) or strides of its level."""
    distance_activation: Literal["exp", "relu"] = "exp"
    """Distances are exp(scale x), or relu(scale x) as in later FCOS and torchvision."""
    distance_origin: Literal["center", "corner"] = "center"
    """Point of a location's cell from which its distances are predicted: the center, (i + 0.5) stride, or the upper
    left corner, i stride, as in torchvision. The assignment uses the center in both cases."""
    quality_from: Literal["classification", "regression"] = "classification"
    """Tower of the quality branch: classification (FCOS, the paper) or regression (later FCOS and torchvision)."""
    tower_bias: bool = False
    """Biases in the convolutions of the towers, before their normalization (torchvision)."""


@dataclass(frozen=True)
class CriterionConfig:
    """Target assignment and training losses."""

    assigner: str = "center"
    """Assignment of locations to objects: center (the most central object, Eqs. 2-4), area (the smallest object,
    FCOS), or module:attribute."""
    assign_all_objects: bool = False
    """Give objects without a location, such as tiny ones, the location nearest to their center. Not in the paper."""
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
    """Box loss: iou (-log IoU, as in FCOS), giou (1 - GIoU), or module:attribute."""
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
    dice_weight: float = 0.0
    """Weight of the Dice loss in the mask loss, relative to its cross-entropy; 0: cross-entropy alone (the paper)."""


@dataclass(frozen=True)
class PostprocessConfig:
    """Post-processing: from dense outputs to detections."""

    score_threshold: float = 0.05
    """Class probability that a candidate must exceed."""
    pre_nms_topk: int = 1000
    """Maximum number of locations per level before NMS, those with the highest score."""
    nms_iou: float = 0.5
    """IoU above which the lower-scoring of two boxes of one class is dropped."""
    max_detections: int = 100
    """Maximum number of detections per image."""
    mask_margin: float = 0.0
    """Margin by which a mask may extend beyond its box, as a fraction of the box's sides."""
    maskness: bool = False
    """Multiply the score of a detection by the mean foreground probability inside its mask (maskness, as in SOLO)."""
    boxes_from_masks: bool = False
    """Return the bounding box of each mask that is not empty instead of the predicted box, which is less exact."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer."""

    name: str = "sgd"
    """Optimizer: sgd with momentum (the paper), adamw (learns faster from few images), muon (faster still: Muon for the
    convolutions of FPN, towers and ProtoNet, AdamW for everything else), or module:function."""
    lr: float = 0.01
    """Learning rate for `batch_size` images."""
    batch_size: int = 16
    """Images in one optimizer step, over all devices."""
    micro_batch: int | None = None
    """Images in one forward pass on a device; gradients accumulate up to `batch_size`, with the result of one pass.
    None: a device's whole share of the batch."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay; not applied to convolution biases, nor to norm layers with adamw and muon, nor to convolutions that
    Muon updates."""
    bias_lr_factor: float = 2.0
    """Factor on the learning rate of convolution biases, which have no weight decay."""
    backbone_lr_factor: float = 1.0
    """Factor on the learning rate of the backbone."""
    muon_lr_factor: float = 10.0
    """Factor on the learning rate of the convolutions that Muon updates."""
    layer_decay: float = 1.0
    """Factor on the learning rate of each backbone stage relative to the next stage, and of the last relative to the
    backbone. 1: all equal; 0.7 to 0.9 preserve more of the pretrained weights when fine-tuning on few images."""
    grad_clip_norm: float | None = None
    """Maximum norm of the whole gradient; None: no clipping. Later versions of FCOS use 35."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate schedule."""

    epochs: int = 12
    """Number of passes over the training images."""
    kind: str = "steps"
    """Schedule: steps (lr drops at `milestones`, the paper), cosine (lr falls smoothly to zero), or module:function."""
    milestones: tuple[int, ...] = (8, 11)
    """Epochs after which the learning rate is multiplied by `gamma`."""
    gamma: float = 0.1
    """Factor on the learning rate at each of `milestones`."""
    warmup: int = 500
    """Number of warm-up iterations; at most a tenth of the run."""
    warmup_factor: float = 1 / 3
    """Factor on the learning rate at the start of the warm-up."""
    warmup_kind: Literal["constant", "linear"] = "constant"
    """Warm-up: constant (lr * warmup_factor throughout) or linear (rising to lr)."""
    patience: int = 0
    """Number of evaluations without a better AP after which training stops early; 0: never."""


@dataclass(frozen=True)
class RunConfig:
    """Execution of a run: seed, workers, device, checkpoints, logs."""

    seed: int = 0
    """Random seed. On a CPU, the same seed, data and machine give the same weights."""
    workers: int | None = None
    """Number of processes that read images; 0: the main process reads them. None: 2 on a CPU, up to 8 for a GPU."""
    device: str = "auto"
    """Device: auto (CUDA if available, else Apple's MPS, else the CPU), cpu, cuda or mps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass in training. Losses are computed in fp32; with fp16 they are scaled, so that small
    gradients do not underflow."""
    tf32: bool = True
    """Let NVIDIA GPUs round the factors of fp32 convolutions and matrix products in training to 10 bits (TF32), several
    times as fast; off: exact fp32. Without effect elsewhere."""
    deterministic: bool = False
    """Use deterministic algorithms only, at some cost in speed on a GPU: two runs then give the same weights there too.
    Operations without a deterministic algorithm end the run. A run on a CPU is deterministic in any case."""
    compile: bool = False
    """Compile the network with torch.compile: a minute or more at the start, then faster steps on GPUs."""
    activation_checkpointing: Literal["none", "norms", "all"] = "norms"
    """Activations that backward recomputes to save memory, with equal results. norms: all except convolutions, at
    little cost. all: nearly everything, minimum memory for about a quarter more time."""
    cpu_convolutions: Literal["auto", "direct", "winograd"] = "auto"
    """3x3 convolutions in training on a CPU in fp32: direct, or winograd with a quarter of the multiplications and
    equal results up to rounding. auto: winograd where it was measured to be faster, CPUs with AVX2 but not AVX-512."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is evaluated and saved; None: no average."""
    evaluate_every: int = 1
    """Number of epochs between evaluations on the validation split; 0: only after the last epoch."""
    checkpoint_every: int = 0
    """Number of iterations between checkpoints, in addition to those after each epoch; 0 disables them."""
    checkpoint_minutes: float = 15.0
    """Number of minutes between checkpoints, in addition to those after each epoch; 0 disables them."""
    on_nonfinite_loss: Literal["stop", "skip"] = "stop"
    """Reaction to a loss or gradient that is not finite, or 100 times the maximum of the last 100 iterations: stop,
    with the last checkpoint intact, or skip and log the batch (ten in a row stop the run)."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Loggers of curves and predicted images, in addition to the run's own logs: tensorboard, wandb, mlflow or
    module:function; several or none."""


@dataclass(frozen=True)
class Experiment:
    """All settings that determine the result of a training run, except its data."""

    name: str = "sais"
    """Name of the recipe, for reports; a run is named by its folder."""
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)


def to_dict(settings: Any) -> dict[str, Any]:
    """Return a settings object as nested dicts and lists, ready for JSON."""
    plain: dict[str, Any] = {}
    for field_ in dataclasses.fields(settings):
        value = getattr(settings, field_.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[field_.name] = list(value) if isinstance(value, tuple) else value
    return plain


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
    """Build a settings object from nested dicts.

    Args:
        kind: dataclass of the result.
        values: nested dicts as `to_dict` returns them; missing settings have their defaults.
        where: file or group that contains the settings, for error messages.

    Raises:
        ConfigError: an unknown setting (with the closest names), or a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a group of settings, got {_shorten(values)}.")
    separator = "." if ": " in where else ": "  # "experiment.json: optim.lr"
    for key in values:
        if key not in hints:
            raise ConfigError(f"{where}: unknown setting {_shorten(key)}{suggest(str(key)[:100], hints)}")
    return kind(**{key: _value(hints[key], value, f"{where}{separator}{key}") for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return a value from JSON as the type that `hint` describes."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {_shorten(value)} is not one of {', '.join(map(repr, args))}.")
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(args[0], value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (args[-1] is not Ellipsis and len(value) != len(args)):
            length = "a list" if args[-1] is Ellipsis else f"{len(args)} values"
            raise ConfigError(f"{where}: expected {length}, got {_shorten(value)}.")
        return tuple(_value(args[0], item, where) for item in value)
    if isinstance(value, int) and abs(value) >= 2**63:  # neither a float nor a text of any length can hold it
        raise ConfigError(f"{where}: a number of {value.bit_length()} bits. Give one that fits 64 bits.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {_shorten(value)}.")
    return value


def _shorten(value: Any) -> str:
    """Return a value of any size, such as one from a damaged file, as a short text."""
    writer = reprlib.Repr()
    writer.maxstring = 100  # by default 30, less than some names of settings and modules
    try:
        return writer.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
