"""Backends: how a model computes. Each turns canvases into `Instances`; the `Predictor` does everything else.

`open_backend` chooses one by the source and imports only that one: an exported file needs no torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sais.config import Experiment, PostprocessConfig
from sais.errors import MissingDependencyError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.structures import Instances

if TYPE_CHECKING:
    from sais.inference.trained_model import TrainedModel


class Backend(Protocol):
    """A model that is ready to run, in torch or in another runtime. Several threads may call `run` at once.

    A backend may also have `thresholds` (`sais.inference.score_thresholds.ScoreThresholds` of the model),
    `device_route`, a `sais.inference.on_device.DeviceRoute` where detections are made on an accelerator, and the
    methods `detect`, see `sais.inference.backends.torch.TorchBackend.detect`, and `check_settings`, which raises
    ConfigError for post-processing settings that the backend cannot apply.
    """

    experiment: Experiment
    """Input mode and size, post-processing settings."""
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    mask_stride: int
    """Canvas pixels for one cell of the prototype grid."""
    fixed_canvas: tuple[int, int] | None
    """The only (height, width) that the model accepts; None: any multiples of 32."""

    def run(
        self,
        canvases: Any,
        content_sizes: Sequence[tuple[float, float]],
        settings: PostprocessConfig | None = None,
        labels: Sequence[int] | None = None,
    ) -> Instances:
        """Detect the objects on canvases.

        Args:
            canvases: (B, 3, height, width) uint8 RGB, numpy or torch.
            content_sizes: B times (height, width) in canvas pixels of the image on its canvas, without the padding.
            settings: post-processing settings; None: those of `experiment`. A backend with NMS inside has its own.
            labels: classes to detect, where the backend can choose; None: all.

        Returns:
            Instances (B, D, .) of numpy arrays or torch tensors; an empty slot has score 0.
        """
        ...


def open_backend(source: str | Path | TrainedModel | Backend, options: InferenceOptions) -> Backend:
    """Return the backend of a model file, a run folder, an exported file, or a model in memory.

    Raises:
        CheckpointError: the file is missing, corrupted or of another kind.
        ConfigError: the backend does not support the options, or the file names code that is not trusted.
        MissingDependencyError: torch or the file's runtime is not installed.
        ResourceError: the machine has no such device.
    """
    if not isinstance(source, (str, Path)):
        if hasattr(source, "run"):
            return cast(Backend, source)
        from sais.inference.backends.torch import TorchBackend

        return TorchBackend(source, options)
    path = Path(source)
    if "hf:" in path.parts:  # hf://owner/name
        from sais.hub import local_model

        path = local_model(source)
    if path.suffix in EXPORTED_SUFFIXES:
        from sais.inference.backends.exported import open_exported

        return open_exported(path, options)
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f'{path}: this model needs PyTorch. Run: pip install "sais-seg[train]"', package="torch", extra="train"
        )
    from sais.inference.backends.torch import TorchBackend
    from sais.inference.trained_model import load_model

    return TorchBackend(load_model(path, options.trust), options)
