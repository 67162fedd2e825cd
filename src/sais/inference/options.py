"""Inference options, declared once: the `Predictor`, every command and the service read this dataclass.

To add an option, add a field with a docstring (it becomes the `--help` text) and use it where it takes effect.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sais.errors import ConfigError
from sais.resolve import suggest

EXPORTED_SUFFIXES = (".onnx", ".xml")
"""Suffixes of exported files, which run without torch."""
MIN_TILE_SIZE = 32
"""Image pixels; a smaller tile is less than one cell of the network's coarser levels."""
MAX_TILE_OVERLAP = 0.9


@dataclass(frozen=True)
class InferenceOptions:
    """How a model predicts.

    bf16 computes fast on CPUs with AVX-512 BF16 or AMX. OpenVINO has fp32 and bf16 and opens .onnx files too; ONNX
    Runtime computes in the precision that the file was exported with.

    Raises:
        ConfigError: a value out of range, or options that do not go together.
    """

    score: float | None = None
    """Minimum score of a detection, 0 to 1. None: all above the model's class threshold, as COCO AP expects."""
    batch_size: int = 8
    """Images, or tiles of one image, in one forward pass."""
    tiles: int | Literal["auto"] | None = None
    """Side in pixels of overlapping tiles, for small objects in large images; best about the size of the training
    images. auto: twice the model's input size. None: no tiles."""
    tile_overlap: float = 0.2
    """Minimum overlap of neighboring tiles, as a fraction of their side, 0 to below 0.9."""
    tta_flip: bool = False
    """Test-time augmentation: also predict on the mirrored image and merge. More accurate, in twice the time."""
    tta_scales: tuple[float, ...] = (1.0,)
    """Test-time augmentation: predict at these multiples of the model's input size and merge, such as 0.8 1.0 1.25."""
    device: str = "auto"
    """auto, cpu, cuda or mps. auto: cuda, else mps, else cpu; cpu for an exported model."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network. bf16 and fp16 are faster on GPUs, bf16 on some CPUs, and less exact."""
    compile: bool = False
    """Compile the network with torch.compile: slow for the first image of each size, then faster on GPUs."""
    runtime: Literal["auto", "onnxruntime", "openvino"] = "auto"
    """Runtime of an exported model. auto: onnxruntime for .onnx, openvino for .xml."""
    threads: int = 0
    """CPU threads of an exported model's runtime. 0: all cores."""

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise ConfigError(f"score: {self.score:g} is not between 0 and 1. Give 0.3, for instance.")
        if self.batch_size < 1:
            raise ConfigError(
                f"batch_size: {self.batch_size} is less than 1. Give the number of images in one forward pass."
            )
        if self.runtime not in ("auto", "onnxruntime", "openvino"):
            raise ConfigError(f"runtime: {self.runtime!r} is unknown. Choose auto, onnxruntime or openvino.")
        if self.threads < 0:
            raise ConfigError(f"threads: {self.threads} is negative. Give 0 for all cores.")
        if isinstance(self.tiles, str) and self.tiles != "auto":
            raise ConfigError(f"tiles: {self.tiles!r} is neither a side in pixels nor 'auto'. Give one of them.")
        if isinstance(self.tiles, int) and self.tiles < MIN_TILE_SIZE:
            raise ConfigError(
                f"tiles: a side of {self.tiles} pixels is too small to show an object. Give at least {MIN_TILE_SIZE}, "
                "best about the size of the training images."
            )
        if not 0 <= self.tile_overlap < MAX_TILE_OVERLAP:
            raise ConfigError(
                f"tile_overlap: {self.tile_overlap:g} is not a fraction from 0 to below {MAX_TILE_OVERLAP}. "
                "0.2 is usual."
            )
        if self.tiles is None and self.tile_overlap != _default("tile_overlap"):
            raise ConfigError(
                f"tile_overlap: {self.tile_overlap:g} without tiles. Set tiles to a side in pixels, or auto."
            )

    @property
    def uses_tta(self) -> bool:
        """Whether an image is predicted more than once, or at another size than the model's."""
        return self.tta_flip or self.tta_scales != (1.0,)

    @property
    def read_batch_size(self) -> int:
        """Number of images to read at once: 1 with tiles, since images are large then and tiles form the batches."""
        return self.batch_size if self.tiles is None else 1

    @property
    def single_pass(self) -> bool:
        """Whether one forward pass over the image's canvas is the whole prediction: no tiles, no augmentation."""
        return self.tiles is None and not self.uses_tta


def merge_options(options: InferenceOptions | None, changes: dict[str, Any]) -> InferenceOptions:
    """Return `options` (or the defaults) with `changes` by field name.

    Raises:
        TypeError: no such option.
        ConfigError: see `InferenceOptions`.
    """
    names = [field.name for field in dataclasses.fields(InferenceOptions)]
    for name in changes:
        if name not in names:
            raise TypeError(f"unknown inference option {name!r}{suggest(name, names)}")
    return dataclasses.replace(options or InferenceOptions(), **changes)


def _default(name: str) -> Any:
    return next(field.default for field in dataclasses.fields(InferenceOptions) if field.name == name)
