"""Valid files to start from: a data set, a run of a tiny network, exported graphs, predictions, saved detections."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sais.config import (
    CriterionConfig,
    Experiment,
    InputConfig,
    ModelConfig,
    OptimConfig,
    PostprocessConfig,
    RunConfig,
    ScheduleConfig,
)

EXPERIMENT = Experiment(
    name="fuzz",
    input=InputConfig(size=(64, 64)),
    model=ModelConfig(backbone="test_efficientnet", channels=32, tower_depth=1, prototype_channels=16),
    criterion=CriterionConfig(box_loss="giou"),
    postprocess=PostprocessConfig(score_threshold=0.001, max_detections=20),
    optim=OptimConfig(name="adamw", lr=1e-3, batch_size=4),
    schedule=ScheduleConfig(epochs=2, warmup=2),
    run=RunConfig(workers=0, device="cpu", loggers=()),
)
"""The smallest network, with 0.1 million weights: a case takes milliseconds."""


@dataclass(frozen=True)
class Samples:
    """Valid files; no case may change them.

    Args:
        folder: folder of all of them.
    """

    folder: Path

    @property
    def data(self) -> Path:
        """A data set of 4 training and 2 validation images of 64 x 80 pixels."""
        return self.folder / "data"

    @property
    def annotations(self) -> Path:
        """The annotations of its training split."""
        return self.data / "annotations" / "train.json"

    @property
    def images(self) -> Path:
        """The images of its training split."""
        return self.data / "images" / "train"

    @property
    def run(self) -> Path:
        """A stopped run, with one of its two epochs done."""
        return self.folder / "run"

    @property
    def settings(self) -> Path:
        """The settings of the run."""
        return self.run / "experiment.json"

    @property
    def graphs(self) -> tuple[Path, ...]:
        """Exported graphs: ONNX with raw outputs and with masks, and OpenVINO."""
        return tuple(self.folder / name for name in ("raw.onnx", "masks.onnx", "detections.xml"))

    @property
    def predictions(self) -> Path:
        """The output of `sais predict`."""
        return self.folder / "predictions"

    @property
    def detections(self) -> Path:
        """A file of `Detections.save`."""
        return self.folder / "detections.json"


def build_samples(folder: Path, graphs: Sequence[Path] = ()) -> Samples:
    """Write the samples into a folder, which is emptied first.

    Args:
        folder: the folder.
        graphs: files to copy as `Samples.graphs`; by default the run is exported, which takes half a minute.
    """
    import sais
    from sais import cli
    from sais.data.paths import DataPaths
    from sais.data.synthetic import write_shapes
    from sais.engine.trainer import train
    from sais.export import ExportOptions
    from sais.export.options import written_files
    from sais.io.images import read_image
    from sais.io.video import VideoWriter

    shutil.rmtree(folder, ignore_errors=True)
    samples = Samples(folder)
    write_shapes(samples.data, train=4, valid=2, size=(64, 80), seed=3)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train(EXPERIMENT, DataPaths(samples.data), samples.run, random_init=True, max_iterations=1, verbose=False)
        for source, path in zip(graphs, samples.graphs, strict=bool(graphs)):
            for file in written_files(source, "openvino" if source.suffix == ".xml" else "onnx"):
                shutil.copy(file, path.with_suffix(file.suffix))
        for path in () if graphs else samples.graphs:
            sais.export(samples.run, path, ExportOptions(graph=path.stem))  # type: ignore[arg-type]
        cli.main(["predict", str(samples.run), str(samples.images), "--out", str(samples.predictions), "--score", "0"])
    with VideoWriter(folder / "video.mp4", rate=10) as video:
        for path in sorted(samples.images.iterdir()):
            video.write(read_image(path))
    image = next(samples.images.iterdir())
    sais.Predictor(samples.run, score=0.0, device="cpu")(image).save(samples.detections)
    assert json.loads(samples.detections.read_text(encoding="utf-8"))["detections"], "the network detects nothing"
    return samples
