"""Architectures: a network, its criterion and its post-processing, named in every checkpoint.

The engine, the predictor and the exporters use nothing else of a model, so that they train, evaluate, predict with and
export any row of `ARCHITECTURES` and any `module:attribute` of another package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sais.config import Experiment, PostprocessConfig
from sais.errors import ConfigError
from sais.resolve import resolve
from sais.structures import Instances

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sais.modeling.criterion import Criterion
    from sais.modeling.postprocess_fixed import FixedInstances
    from sais.ops.letterbox import CanvasMap
    from sais.results.detections import Detections

Postprocess = Callable[[Any, list[tuple[float, float]], PostprocessConfig], Instances]
"""(outputs of the network, B content sizes (height, width) in canvas pixels, settings) -> instances (B, D, .)."""
PostprocessFixed = Callable[[Any, "Tensor", PostprocessConfig, int, int], "FixedInstances"]
"""(outputs, content sizes (B, 2) float32, settings, candidates, repetitions of NMS) -> instances (B, D, .), see
`sais.modeling.postprocess_fixed.postprocess_fixed`."""
Detect = Callable[
    [Any, "Tensor", "list[CanvasMap]", tuple[str, ...], PostprocessConfig],
    "list[Detections]",
]
"""(network, canvases (B, 3, H, W) uint8 on its device, B canvas maps, class names, settings) -> B detections."""


@dataclass(frozen=True)
class Architecture:
    """A model family."""

    name: str
    """Name in reports and messages."""
    build: Callable[[Experiment, int], nn.Module]
    """(experiment, number of classes) -> the network, randomly initialized, with `requires_grad` off in frozen parts.

    It maps canvases (B, 3, H, W) to its outputs. Its attribute `backbone` is a `sais.modeling.backbones.Backbone`, into
    which the engine loads ImageNet weights; `strides` and `mask_stride` are the canvas pixels for one location of each
    level and for one cell of the prototypes."""
    build_criterion: Callable[[Experiment], Criterion]
    """(experiment) -> the training objective."""
    postprocess: Postprocess | None
    """From outputs to instances whose masks are weighted sums of prototypes. None with `detect`."""
    detect: Detect | None = None
    """From canvases to detections, for networks whose masks are made in another way (Mask R-CNN)."""
    postprocess_fixed: PostprocessFixed | None = None
    """The same in fixed shapes, for accelerators: nothing then waits for the host. With a `postprocess` of your own,
    give your own here too, or None to use `postprocess` on accelerators as well."""
    class_layers: tuple[str, ...] = ()
    """Modules whose first dimension is the classes. They are re-initialized for other classes when fine-tuning."""
    for_inference: str = "sais.converters.fuse:for_inference"
    """``module:function`` from a network to a copy of it that is prepared for inference."""


ARCHITECTURES = {"sais": "sais.modeling.sais_architecture:SAIS_ARCHITECTURE"}
"""Name -> ``module:attribute``. An architecture is imported when it is used, not when it is named."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture that `model.architecture` names.

    Args:
        name: a row of `ARCHITECTURES` or ``module:attribute``.

    Raises:
        ConfigError: no such row or attribute, or the attribute is not an `Architecture`.
    """
    architecture = resolve(name, ARCHITECTURES, "architecture")
    if isinstance(architecture, str):
        architecture = resolve(architecture, {}, "architecture")
    if not isinstance(architecture, Architecture):
        raise ConfigError(f"architecture {name!r}: {type(architecture).__name__}, not an Architecture. Check the name.")
    if architecture.postprocess is None and architecture.detect is None:
        raise ConfigError(f"architecture {name!r}: neither postprocess nor detect. Set one of them.")
    return architecture
