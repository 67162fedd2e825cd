"""Inference options, declared once: the `Predictor`, every command and the service read this dataclass.

To add an option, add a field with a docstring (it becomes the `--help` text), its range to
`sais.inference.option_ranges`, and use it where it takes effect.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sais.resolve import suggest

EXPORTED_SUFFIXES = (".onnx", ".xml")
"""Suffixes of exported files, which run without torch."""


@dataclass(frozen=True)
class InferenceOptions:
    """How a model predicts.

    bf16 computes fast on CPUs with AVX-512 BF16 or AMX. OpenVINO has fp32 and bf16 and opens .onnx files too; ONNX
    Runtime computes in the precision that the file was exported with.

    Raises:
        ConfigError: a value out of range, or options that do not go together.
    """

    score: float | Literal["auto", "per-class"] | None = "auto"
    """Minimum score of a detection, 0 to 1. auto: the threshold stored in the model, else 0.3; per-class: its threshold
    of each class. None, and auto in evaluations: all above the model's class threshold, as COCO AP expects."""
    class_scores: tuple[str, ...] = ()
    """Minimum scores of single classes, as name=score (in Python also {name: score}); `score` is that of the others."""
    classes: tuple[str, ...] = ()
    """Names of the classes to detect; by default all."""
    nms_iou: float | None = None
    """IoU above which the lower-scoring of two boxes of one class is dropped, 0 to 1. None: the model's setting."""
    class_agnostic: bool = False
    """Also drop the lower-scoring of two boxes of different classes that overlap by more than that IoU."""
    max_detections: int | None = None
    """Maximum number of detections per image or tile. None: the model's setting (100 unless trained with another)."""
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
    """Compile the network with torch.compile (on NVIDIA GPUs into a CUDA graph): slow for the first batch of each
    shape, then faster on GPUs."""
    runtime: Literal["auto", "onnxruntime", "openvino"] = "auto"
    """Runtime of an exported model. auto: onnxruntime for .onnx, openvino for .xml."""
    threads: int = 0
    """CPU threads of an exported model's runtime. 0: all cores."""
    trust: bool = False
    """Import and run code outside of sais that the model file names, such as a head of your own, and open an exported
    graph that another program has changed. The environment variable SAIS_TRUST lists modules that are trusted."""

    def __post_init__(self) -> None:
        from sais.inference.option_ranges import check_options, parse_class_scores

        object.__setattr__(self, "class_scores", parse_class_scores(self.class_scores))
        check_options(self)
        object.__setattr__(self, "classes", tuple(self.classes))

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
