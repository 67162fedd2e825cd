"""`sais predict MODEL SOURCE`: detect the objects in an image, a folder, a glob or a video; drawings and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from sais.commands.arguments import FLAT, Count, check_writable, make_folder, parse, progress_bar
from sais.commands.open_predictor import check_model, open_predictor
from sais.errors import InputError, SaisError
from sais.inference.options import InferenceOptions
from sais.io.atomic import write_text

if TYPE_CHECKING:
    from sais.inference.predictor import Predictor
    from sais.results.detections import Detections


@dataclass(frozen=True)
class PredictArguments:
    """Detect the objects in images or a video.

    Writes drawings and predictions.json: a COCO file with `images`, `categories` (ids from 1, in the model's order) and
    `annotations` (image_id, category_id, bbox, score, segmentation as RLE).
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, folder of a training run, or exported file (.onnx and .xml need no PyTorch)."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Image, folder, glob in quotes ("shots/*.jpg") or video."""
    out: Path = Path("predictions")
    """Folder to write to."""
    inference: Annotated[InferenceOptions, FLAT] = field(default_factory=lambda: InferenceOptions(score=0.3))
    draw: bool = True
    """Write drawings; --no-draw writes predictions.json only."""
    frame_stride: Count = 1
    """Video: process every N-th frame."""
    skip_broken: bool = False
    """Skip and count unreadable images instead of stopping at the first."""


@dataclass
class PredictionFile:
    """The content of predictions.json."""

    class_names: tuple[str, ...]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    """Number of skipped images; not written."""

    def add(self, detections: Detections, **image: Any) -> None:
        """Add the detections of one image; `image` are further entries of it (file_name, frame, ...)."""
        image_id = len(self.images) + 1
        height, width = detections.image_size
        self.images.append({"id": image_id, "width": width, "height": height, **image})
        category_ids = tuple(range(1, len(self.class_names) + 1))
        for entry in detections.to_coco(image_id, category_ids):
            self.annotations.append({"id": len(self.annotations) + 1, **entry})
        self.counts.update(self.class_names[label] for label in detections.labels)

    def write(self, path: Path) -> None:
        """Write predictions.json atomically."""
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.class_names)]
        write_text(path, json.dumps({"images": self.images, "categories": categories, "annotations": self.annotations}))


def run(argv: Sequence[str]) -> int:
    """Run `sais predict`."""
    arguments = parse(PredictArguments, argv, "sais predict MODEL SOURCE")
    check_model(arguments.model)
    from sais.io.sources import find_images
    from sais.io.video import is_video

    video = is_video(arguments.source)
    paths = [] if video else find_images(arguments.source)
    check_writable(arguments.out)
    predictor = open_predictor("predict", arguments.model, arguments.inference)
    predictions = PredictionFile(tuple(predictor.class_names))
    if video:
        _predict_video(arguments, predictor, predictions)
    else:
        _predict_images(arguments, predictor, predictions, paths)
    predictions.write(arguments.out / "predictions.json")
    unit = "frames" if video else "images"
    totals = ", ".join(f"{count} {name}" for name, count in predictions.counts.most_common()) or "no objects"
    print(f"{len(predictions.images)} {unit}: {totals}")
    if predictions.unreadable:
        print(f"skipped {predictions.unreadable} unreadable images")
    print(f"wrote {arguments.out}")
    return 0


def _predict(predictor: Predictor, images: list[np.ndarray]) -> list[Detections]:
    """Predict on images (H, W, 3); with a progress bar for the tiles of large images."""
    if predictor.options.tiles is None:
        return predictor.batch(images)
    total = sum(predictor.num_tiles((image.shape[0], image.shape[1])) for image in images)
    with progress_bar("tiles", total) as progress:
        return predictor.batch(images, progress)


def _predict_images(
    arguments: PredictArguments, predictor: Predictor, predictions: PredictionFile, paths: list[Path]
) -> None:
    from PIL import Image

    from sais.results.draw import draw

    names = drawing_names(paths, Path(arguments.source))
    for chunk in _read_chunks(paths, arguments, predictions):
        for (path, image), detections in zip(chunk, _predict(predictor, [i for _, i in chunk]), strict=True):
            print(f"{path}: {detections.summary()}")
            predictions.add(detections, file_name=str(path))
            if arguments.draw:
                target = arguments.out / names[path]
                make_folder(target.parent)
                Image.fromarray(draw(image, detections, arguments.inference.score or 0)).save(target, quality=92)


def _read_chunks(
    paths: list[Path], arguments: PredictArguments, predictions: PredictionFile
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Yield the images in batches; the next batch is read while the network runs.

    With tiles the images are large: they are read one at a time, each after the previous one is done.
    """
    from sais.io.images import LARGE_IMAGE_PIXELS, read_image

    tiles = arguments.inference.tiles is not None
    max_pixels = LARGE_IMAGE_PIXELS if tiles else None

    def load(chunk: list[Path]) -> list[tuple[Path, np.ndarray | SaisError]]:
        loaded: list[tuple[Path, np.ndarray | SaisError]] = []
        for path in chunk:
            try:
                loaded.append((path, read_image(path, max_pixels)))
            except SaisError as error:
                loaded.append((path, error))
        return loaded

    size = arguments.inference.read_batch_size
    chunks = [paths[i : i + size] for i in range(0, len(paths), size)]
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for number, chunk in enumerate(chunks):
            loaded = load(chunk) if ahead is None else ahead.result()
            if number + 1 < len(chunks) and not tiles:
                ahead = pool.submit(load, chunks[number + 1])
            readable = []
            for path, image in loaded:
                if isinstance(image, np.ndarray):
                    readable.append((path, image))
                    continue
                if not arguments.skip_broken:
                    raise InputError(f"{image} Or skip such images with --skip-broken.")
                predictions.unreadable += 1
                print(f"{path}: skipped, unreadable")
            if readable:
                yield readable


def _predict_video(arguments: PredictArguments, predictor: Predictor, predictions: PredictionFile) -> None:
    from sais.io.video import VideoWriter, read_video, video_info
    from sais.results.draw import draw

    source, options = Path(arguments.source), arguments.inference
    frames = read_video(source, arguments.frame_stride)
    with ExitStack() as stack:
        writer = None
        if arguments.draw:
            make_folder(arguments.out)
            rate = video_info(source).rate / arguments.frame_stride
            writer = stack.enter_context(VideoWriter(arguments.out / f"{source.stem}.mp4", rate=rate))
        while chunk := list(islice(frames, options.batch_size)):
            images = [image for _, _, image in chunk]
            for (frame, seconds, image), detections in zip(chunk, _predict(predictor, images), strict=True):
                print(f"{source} {seconds:.2f} s: {detections.summary()}")
                predictions.add(detections, file_name=str(source), frame=frame, seconds=round(seconds, 3))
                if writer is not None:
                    writer.write(draw(image, detections, options.score or 0))


def drawing_names(paths: list[Path], source: Path) -> dict[Path, Path]:
    """Return the path of each image's drawing below the output folder.

    It is the image's path below `source` as .jpg, numbered where two would collide (a.jpg and a.png).
    """
    taken: set[Path] = set()
    names: dict[Path, Path] = {}
    for path in paths:
        relative = path.relative_to(source) if source.is_dir() and path.is_relative_to(source) else Path(path.name)
        name, number = relative.with_suffix(".jpg"), 2
        while name in taken:
            name, number = relative.with_name(f"{relative.stem}-{number}.jpg"), number + 1
        taken.add(name)
        names[path] = name
    return names
