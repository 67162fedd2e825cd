"""`python -m peers video`: frames per second of `sais predict` on a 1280x720 video, against the network alone.

    python -m peers video --model demo/run-1
    OMP_NUM_THREADS=1 python -m peers video --recipe sais-lite --input-size 640

A recipe has random weights, so the ten objects of each frame are injected: the network runs, then its detections are
replaced. The rounds alternate between the network, the command and the command with tracks, and each ratio is the
median of those of the rounds. Next to other work, only the processor time is meaningful, best with OMP_NUM_THREADS=1:
its ratio is that of the frames per second if all cores were always busy, which real threads do not reach.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from peers.entry import run_main
from sais.commands.arguments import parse, prepare_torch
from sais.commands.bench_tables import environment
from sais.commands.predict_videos import VideoPredictor
from sais.data.synthetic import SyntheticScene
from sais.data.synthetic_outlines import CLASS_NAMES
from sais.data.synthetic_video import moving_shapes
from sais.inference import predictor
from sais.inference.backends import Backend, open_backend
from sais.inference.options import InferenceOptions
from sais.io.temporary import temporary_folder
from sais.io.video import VideoWriter
from sais.ops.letterbox import letterbox
from sais.paper.comparison import markdown_table
from sais.structures import Instances

SIZE = (720, 1280)
DISTINCT_FRAMES = 30
"""Number of frames of the video, which is shown forwards and backwards."""
MIN_PIXELS = 30
"""Minimum number of visible pixels of an object that is injected."""
SCORE = 0.9
RUNS = {"network alone": None, "sais predict": (), "sais predict --track": ("--track",)}
"""What is measured -> words of `sais predict`; None: `Predictor.stream` on frames in memory."""


Encoded = dict[int, tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Arguments:
    """Measure frames per second of a 1280x720 video with ten objects against the network alone."""

    model: Path | None = None
    """Model to measure, of the classes of `sais make-shapes`."""
    recipe: str = "sais-lite"
    """Recipe with random weights, measured with injected objects without --model."""
    input_size: int | None = None
    """Side of the square network input in pixels. Default: that of the recipe."""
    frames: int = 150
    """Number of frames of the video."""
    rounds: int = 3
    """Number of runs of each kind."""
    batch_size: int = 2
    """Number of frames in a batch."""
    device: str = "cpu"
    """Device of the network; objects are injected on a CPU only."""


@dataclass(frozen=True)
class Cost:
    """Time of a frame."""

    seconds: float
    processor_seconds: float
    """Of all threads of the process."""


class KnownObjects:
    """A backend that runs a network and returns the objects of the frames of a video instead of its detections.

    Args:
        backend: Backend of the network.
        scenes: Scenes of the frames, in the order in which they will be predicted.
        encoded: Encoded scenes by their ids, filled by the first prediction; backends of the same model share it.
    """

    device_route = None

    def __init__(self, backend: Backend, scenes: Sequence[SyntheticScene], encoded: Encoded) -> None:
        self._backend, self._scenes, self._encoded, self._position = backend, scenes, encoded, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, canvases: Any, *words: Any, **options: Any) -> Instances:
        """Run the network on canvases (B, 3, height, width); return the objects of the next B frames."""
        instances = self._backend.run(canvases, *words, **options)
        assert instances.prototypes is not None
        if not self._encoded:
            unique = {id(scene): scene for scene in self._scenes}
            prototypes = int(instances.prototypes.shape[1])
            self._encoded.update({key: self._encode(scene, prototypes) for key, scene in unique.items()})
        first, self._position = self._position, self._position + len(canvases)
        scenes = [self._scenes[i % len(self._scenes)] for i in range(first, self._position)]
        objects = [self._encoded[id(scene)] for scene in scenes]
        return Instances(*(np.stack(arrays) for arrays in zip(*objects, strict=True)))

    def _encode(self, scene: SyntheticScene, num_prototypes: int) -> tuple[np.ndarray, ...]:
        """Return the arrays of `Instances` for a scene of N objects: prototype k is the mask of object k."""
        settings, num_objects = self._backend.experiment.input, len(scene.labels)
        canvas_map = letterbox(SIZE, settings.mode, settings.size)
        height, width = (side // self._backend.mask_stride for side in canvas_map.canvas_size)
        boxes = np.zeros((num_objects, 4), np.float32)
        prototypes = np.zeros((num_prototypes, height, width), np.float32)
        for k, bits in enumerate(scene.visible):
            if bits.sum() >= MIN_PIXELS:
                y, x = np.nonzero(bits)
                boxes[k] = x.min(), y.min(), x.max() + 1, y.max() + 1
                content = canvas_map.image(np.repeat(bits[..., None], 3, 2).astype(np.uint8) * np.uint8(255))[..., 0]
                coverage = np.asarray(Image.fromarray(content).resize((width, height), Image.Resampling.BOX))
                prototypes[k] = coverage / np.float32(32) - 4
        scores = np.where(boxes[:, 2] > 0, np.float32(SCORE), 0)
        order = np.argsort(-scores, kind="stable")
        coefficients = np.eye(num_objects, num_prototypes, dtype=np.float32)
        arrays = canvas_map.boxes(boxes), scores, scene.labels, coefficients
        return *(array[order] for array in arrays), prototypes


def film(frames: int) -> list[SyntheticScene]:
    """Return the scenes of a video of 1280x720 pixels with ten objects."""
    number = min(frames, DISTINCT_FRAMES)
    scenes = list(moving_shapes(0, number, 10, SIZE, 9.0, (150, 240)))
    order = [*range(number), *range(number - 2, 0, -1)]
    return [scenes[order[i % len(order)]] for i in range(frames)]


def measure(arguments: Arguments) -> dict[str, list[Cost]]:
    """Return the costs of the rounds of each of `RUNS`."""
    scenes = film(arguments.frames)
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        with VideoWriter(folder / "film.mp4", 30) as writer:
            for scene in scenes:
                writer.write(scene.image)
        model = arguments.model
        if model is None:
            model = _write_random_weights(arguments, folder / "model.safetensors")
            stack.enter_context(patch.object(predictor, "open_backend", _opener(scenes)))
        words = ["--device", arguments.device, "--batch-size", str(arguments.batch_size)]
        costs: dict[str, list[Cost]] = {name: [] for name in RUNS}
        for _ in range(arguments.rounds):
            for name, more in RUNS.items():
                if more is None:
                    cost = _network_cost(model, arguments, scenes)
                else:
                    cost = _command_cost([str(model), str(folder / "film.mp4"), *words, *more], folder, len(scenes))
                costs[name].append(cost)
    return costs


def _write_random_weights(arguments: Arguments, path: Path) -> Path:
    """Write a model with the random weights of the recipe; return its path."""
    import torch

    from sais.checkpoint import Checkpoint, add_prefix, save_checkpoint
    from sais.modeling.architecture import find_architecture
    from sais.recipes import recipe
    from sais.recipes.adjust import replace_settings

    torch.manual_seed(0)
    experiment = replace_settings(recipe(arguments.recipe), "model", pretrained=False)
    if arguments.input_size is not None:
        side = arguments.input_size
        experiment = replace_settings(experiment, "input", mode="fixed", size=(side, side))
    network = find_architecture(experiment.model.architecture).build(experiment, len(CLASS_NAMES))
    tensors = add_prefix("model", network.state_dict())
    save_checkpoint(path, Checkpoint(experiment, CLASS_NAMES, tuple(range(1, len(CLASS_NAMES) + 1)), tensors))
    return path


def _opener(scenes: Sequence[SyntheticScene]) -> Any:
    """Return a function like `open_backend` whose backends know the objects of scenes."""

    encoded: Encoded = {}

    def open_known(source: Any, options: InferenceOptions) -> Any:
        return source if hasattr(source, "run") else KnownObjects(open_backend(source, options), scenes, encoded)

    return open_known


@contextlib.contextmanager
def _clock(frames: int, costs: list[Cost]) -> Iterator[None]:
    """Append the cost of the block for each of a number of frames."""
    start, processor = time.perf_counter(), time.process_time()
    yield
    costs.append(Cost((time.perf_counter() - start) / frames, (time.process_time() - processor) / frames))


def _network_cost(model: Path, arguments: Arguments, scenes: Sequence[SyntheticScene]) -> Cost:
    """Measure the network on frames in memory, after a warm-up."""
    network = predictor.Predictor(model, device=arguments.device, batch_size=arguments.batch_size)
    images, costs = [scene.image for scene in scenes], list[Cost]()
    list(network.stream(images[: 2 * arguments.batch_size]))
    with _clock(len(images), costs):
        list(network.stream(images))
    return costs[0]


def _command_cost(words: Sequence[str], folder: Path, frames: int) -> Cost:
    """Run `sais predict` and measure it from the opening of the video to the end of its drawing, without the start."""
    from sais.cli import main

    text, costs, run = io.StringIO(), list[Cost](), VideoPredictor.run

    def timed_run(*arguments: Any) -> None:
        with _clock(frames, costs):
            run(*arguments)

    with patch.object(VideoPredictor, "run", timed_run), contextlib.redirect_stdout(text):
        status = main(["predict", *words, "--out", str(folder / "out")])
    if status or not costs:
        raise RuntimeError(f"sais predict failed with status {status}: {text.getvalue()[-500:]}")
    return costs[0]


def table(costs: dict[str, list[Cost]]) -> str:
    """Return frames per second, processor time of a frame and their ratios to the network alone, as Markdown."""
    network, rows = costs["network alone"], []
    for name, runs in costs.items():
        rates = [1 / cost.seconds for cost in runs]
        pairs = list(zip(network, runs, strict=True))
        ratio = median(alone.seconds / cost.seconds for alone, cost in pairs)
        processor_ratio = median(alone.processor_seconds / cost.processor_seconds for alone, cost in pairs)
        milliseconds = 1000 * median(cost.processor_seconds for cost in runs)
        rows.append([name, f"{median(rates):.2f}", f"{ratio:.2f}", f"{milliseconds:.1f}", f"{processor_ratio:.2f}"])
    titles = ("1280x720", "frames/s", "of the network", "processor ms/frame", "ratio of processor time")
    return markdown_table(titles, rows)


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers video`."""
    arguments = parse(Arguments, argv, "python -m peers video")
    prepare_torch("peers")
    costs = measure(arguments)
    name = str(arguments.model) if arguments.model else f"{arguments.recipe}, random weights, objects injected"
    command = shlex.join(["python", "-m", "peers", "video", *argv])
    print(f"`{command}` ({name}): {environment(arguments.device)}.\n\n{table(costs)}")
    return 0


if __name__ == "__main__":
    run_main(main)
