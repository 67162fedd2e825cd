"""Ranges of the numbers in the settings, checked before a run starts, and before a stored model is built.

Choices by name are checked as well: a misspelled one in a recipe would otherwise mean another choice. The upper limits
are far beyond any use; they keep a damaged or malicious file from allocating the memory of the machine.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any, Literal

from sais import input_limits
from sais.config import Experiment
from sais.errors import CheckpointError, ConfigError

MAX_COUNT = 10**9
"""Maximum of iterations, epochs and other counts that allocate nothing."""
MAX_FACTOR = 1e9
"""Maximum of rates, weights and factors; the product of two and a gradient is a float32 then."""
MAX_SIDE = 16_384
MAX_CANVAS_PIXELS = 2**25
"""Maximum of each number of `input.size`, and of their product."""
MAX_CHANNELS = 8192
MAX_DEPTH = 128
MAX_CANDIDATES = 100_000

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        (
            *("augment.flip", "augment.mosaic", "augment.copy_paste", "augment.expand", "augment.crop"),
            *("augment.photometric", "augment.color_jitter", "criterion.focal_alpha"),
            *("postprocess.score_threshold", "postprocess.nms_iou", "optim.momentum", "optim.layer_decay"),
            *("schedule.warmup_factor", "schedule.gamma", "run.ema"),
        ),
        (0, 1),
    ),
    **dict.fromkeys(
        (
            *("criterion.level_ranges", "criterion.focal_gamma", "criterion.class_weight"),
            *("criterion.box_weight", "criterion.quality_weight", "criterion.mask_weight"),
            *("criterion.mask_margin", "criterion.dice_weight", "postprocess.mask_margin", "optim.lr"),
            *("optim.weight_decay", "optim.bias_lr_factor", "optim.backbone_lr_factor"),
            *("optim.muon_lr_factor", "optim.grad_clip_norm"),
            "run.checkpoint_minutes",
        ),
        (0, MAX_FACTOR),
    ),
    **dict.fromkeys(
        (
            *("augment.mosaic_copy_paste_epochs", "augment.size_growth_epochs", "schedule.milestones"),
            *("schedule.warmup", "schedule.patience", "run.evaluate_every", "run.checkpoint_every"),
        ),
        (0, MAX_COUNT),
    ),
    "input.size": (1, MAX_SIDE),
    "input.white_level": (1, 2**31),
    "augment.expand_max": (1, 10),
    "augment.crop_min": (0.05, 1),
    "augment.scale_jitter": (0.01, 100),
    "augment.multi_scale": (0.1, 4),
    "augment.initial_size": (0.1, 1),
    "model.frozen_stages": (0, 4),
    "model.channels": (2, MAX_CHANNELS),
    "model.tower_depth": (0, MAX_DEPTH),
    "model.prototypes": (1, MAX_CHANNELS),
    "model.prototype_channels": (1, MAX_CHANNELS),
    "model.prototype_depth": (0, MAX_DEPTH),
    "criterion.mask_positives": (0, MAX_CANDIDATES),
    "postprocess.pre_nms_topk": (1, MAX_CANDIDATES),
    "postprocess.max_detections": (1, MAX_CANDIDATES),
    "optim.batch_size": (1, 1_000_000),
    "optim.micro_batch": (1, 1_000_000),
    "schedule.epochs": (1, MAX_COUNT),
    "run.seed": (0, 2**32 - 1),
    "run.workers": (0, 4096),
}
"""Name -> minimum and maximum of a number, or of each number of a tuple."""

BACKBONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
"""Plain names of timm. Others, such as hf-hub:NAME and local-dir:PATH, make timm read elsewhere."""
MAX_LIST_LENGTH = 1000
"""Maximum number of values of a setting."""


def check_ranges(experiment: Experiment, where: str = "") -> None:
    """Check the settings before anything is built with them.

    Args:
        experiment: settings of the right types.
        where: file that contains the settings, for error messages.

    Raises:
        ConfigError: a number is out of range, or a choice or backbone is unknown; with the name of the setting.
    """
    start = f"{where}: " if where else ""
    for group_field in dataclasses.fields(experiment):
        _check_choices(group_field.name, getattr(experiment, group_field.name), start)
    for name, (minimum, maximum) in RANGES.items():
        group, _, field_name = name.partition(".")
        value = getattr(getattr(experiment, group), field_name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(minimum <= number <= maximum for number in values):  # False for NaN
            text = " ".join(map(str, values))[:200]
            raise ConfigError(f"{start}{name} {text}: must be between {minimum:.10g} and {maximum:.10g}.")
    for name in ("scale_jitter", "multi_scale"):
        low, high = getattr(experiment.augment, name)
        if low > high:
            raise ConfigError(
                f"{start}augment.{name} {low:g} {high:g}: the range is empty. Give the smaller factor first."
            )
    height, width = experiment.input.size
    if height * width > MAX_CANVAS_PIXELS:
        raise ConfigError(
            f"{start}input.size {height} {width}: more than {MAX_CANVAS_PIXELS} pixels. Give a smaller size, and use "
            "tiles for large images."
        )
    check_backbone(experiment.model.backbone, start)


def check_backbone(name: str, start: str = "") -> None:
    """Raise ConfigError, with `start` before its message, unless a backbone has a plain name."""
    if BACKBONE.fullmatch(name) is None:
        raise ConfigError(
            f"{start}model.backbone {name[:200]!r}: not a plain name. Give the name of a timm model, such as "
            "resnet50.tv_in1k."
        )


def _check_choices(group: str, settings: Any, start: str) -> None:
    """Raise ConfigError for a field of type `Literal` with another value, and for a tuple that is too long."""
    hints = typing.get_type_hints(type(settings)) if dataclasses.is_dataclass(settings) else {}
    for name, hint in hints.items():
        value, choices = getattr(settings, name), typing.get_args(hint)
        if typing.get_origin(hint) is Literal and value not in choices:
            raise ConfigError(
                f"{start}{group}.{name} {value!r}: unknown. Choose one of {', '.join(map(str, choices))}."
            )
        if isinstance(value, tuple) and len(value) > MAX_LIST_LENGTH:
            raise ConfigError(f"{start}{group}.{name}: {len(value)} values. Give at most {MAX_LIST_LENGTH}.")


def check_stored_settings(experiment: Experiment, where: str) -> None:
    """Check the settings of a stored model: their ranges, and the size of a fixed input.

    Args:
        experiment: settings of the right types.
        where: the file.

    Raises:
        ConfigError: see `check_ranges`; or a fixed input is not a multiple of 32.
    """
    check_ranges(experiment, where)
    height, width = experiment.input.size
    if experiment.input.mode == "fixed" and (height % 32 or width % 32):
        raise ConfigError(f"{where}: input.size {height} {width}: a fixed input needs multiples of 32. Train it again.")


def read_classes(names: Any, ids: Any, where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the class names and category ids of a stored model.

    Args:
        names: C class names, as parsed from JSON.
        ids: the data set's own ids of the classes, as parsed from JSON.
        where: the file.

    Raises:
        CheckpointError: they are not lists of texts and numbers, or their lengths differ.
    """
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{where}: class_names is not a list of texts. Use a file that sais has written.")
    if len(names) > input_limits.MAX_CATEGORIES or max(map(len, names)) > input_limits.MAX_NAME_LETTERS:
        raise CheckpointError(
            f"{where}: {len(names)} class names of up to {max(map(len, names))} letters. Models have at most "
            f"{input_limits.MAX_CATEGORIES} classes with names of at most {input_limits.MAX_NAME_LETTERS} letters."
        )
    if not isinstance(ids, list) or len(ids) != len(names):
        raise CheckpointError(
            f"{where}: category_ids is not a list of {len(names)} ids, one for each class. Use a file that sais has "
            "written."
        )
    if not all(isinstance(number, (int, str)) and not isinstance(number, bool) for number in ids):
        raise CheckpointError(f"{where}: category_ids is not a list of numbers. Use a file that sais has written.")
    return tuple(names), tuple(ids)
