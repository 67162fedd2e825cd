"""Ranges of the numbers in the settings, checked before a run starts and when a resumed run changes a setting.

Choices by name are checked as well: a misspelled one in a recipe would otherwise mean another choice.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any, Literal

from sais.config import Experiment
from sais.errors import ConfigError

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        (
            *("augment.flip", "augment.mosaic", "augment.copy_paste", "augment.expand", "augment.crop"),
            *("augment.photometric", "augment.color_jitter", "criterion.focal_alpha"),
            *("postprocess.score_threshold", "postprocess.nms_iou", "optim.momentum", "optim.layer_decay"),
            *("schedule.warmup_factor", "run.ema"),
        ),
        (0, 1),
    ),
    **dict.fromkeys(
        (
            *("augment.mosaic_copy_paste_epochs", "model.frozen_stages", "model.tower_depth"),
            *("model.prototype_depth", "criterion.level_ranges", "criterion.focal_gamma", "criterion.class_weight"),
            *("criterion.box_weight", "criterion.quality_weight", "criterion.mask_weight"),
            *("criterion.mask_positives", "criterion.mask_margin", "postprocess.mask_margin", "optim.lr"),
            *("optim.weight_decay", "optim.bias_lr_factor", "optim.backbone_lr_factor", "optim.grad_clip_norm"),
            *("schedule.milestones", "schedule.gamma", "schedule.warmup", "schedule.patience", "run.workers"),
            *("run.evaluate_every", "run.checkpoint_every", "run.checkpoint_minutes"),
        ),
        (0, math.inf),
    ),
    **dict.fromkeys(
        (
            *("model.prototypes", "model.prototype_channels", "postprocess.pre_nms_topk"),
            *("postprocess.max_detections", "optim.batch_size", "optim.micro_batch", "schedule.epochs"),
        ),
        (1, math.inf),
    ),
    "input.white_level": (1, 2**31),
    "augment.expand_max": (1, 10),
    "augment.crop_min": (0.05, 1),
    "augment.scale_jitter": (0.01, 100),
    "augment.multi_scale": (0.1, 4),
    "model.channels": (2, math.inf),
    "run.seed": (0, 2**32 - 1),
}
"""Name -> minimum and maximum of a number, or of each number of a tuple. No number may be infinite."""


def check_ranges(experiment: Experiment) -> None:
    """Raise ConfigError with the name of the setting if a number is out of range or a choice is unknown."""
    for group_field in dataclasses.fields(experiment):
        _check_choices(group_field.name, getattr(experiment, group_field.name))
    for name, (minimum, maximum) in RANGES.items():
        group, _, field_name = name.partition(".")
        value = getattr(getattr(experiment, group), field_name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(minimum <= number <= maximum and number < math.inf for number in values):  # False for NaN
            limits = (
                f"between {minimum:g} and {maximum:g}" if maximum < math.inf else f"{minimum:g} or more, and finite"
            )
            raise ConfigError(f"{name} {' '.join(map(str, values))}: must be {limits}.")
    for name in ("scale_jitter", "multi_scale"):
        low, high = getattr(experiment.augment, name)
        if low > high:
            raise ConfigError(f"augment.{name} {low:g} {high:g}: the range is empty. Give the smaller factor first.")


def _check_choices(group: str, settings: Any) -> None:
    """Raise ConfigError if a field of a group whose type is `Literal` has another value."""
    hints = typing.get_type_hints(type(settings)) if dataclasses.is_dataclass(settings) else {}
    for name, hint in hints.items():
        value, choices = getattr(settings, name), typing.get_args(hint)
        if typing.get_origin(hint) is Literal and value not in choices:
            raise ConfigError(f"{group}.{name} {value!r}: unknown. Choose one of {', '.join(map(str, choices))}.")
