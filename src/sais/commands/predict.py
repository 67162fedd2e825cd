"""`sais predict MODEL SOURCE`: the objects in an image, a folder, a glob or a video; drawn, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from sais.commands.arguments import check_writable, make_folder, parse, progress_bar
from sais.commands.open_predictor import Way, check_model, open_model
from sais.commands.slicing import OVERLAP, check_tiles, in_tiles
from sais.errors import SaisError
from sais.io.atomic import write_text

if TYPE_CHECKING:
    from sais.commands.open_predictor import Opened
    from sais.results.detections import DetectFunction, Detections


@dataclass(frozen=True)
class PredictArguments:
    """Find the objects in images or a video.

    Writes the drawn images and predictions.json: a COCO file with `images` (what was looked at), `categories`
    (ids from 1, in the model's order) and `annotations` (image_id, category_id, bbox, score, segmentation as RLE).
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, the folder of a run, or what `sais export` wrote (.onnx and .xml need no torch)."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """An image, a folder, a glob in quotes ("shots/*.jpg") or a video."""
    out: Path = Path("predictions")
    """Folder to write to."""
    score: float = 0.3
    """Least score of an object."""
    batch: int = 8
    """Images, or tiles of one, in one pass."""
    tiles: Annotated[str, tyro.conf.arg(metavar="SIDE|auto")] = ""
    """For small things in big images: cut each into overlapping tiles of so many pixels, and put together what lies
    on their seams. Best is about the size of the training images; auto is twice the model's input."""
    tile_overlap: float = OVERLAP
    """Least share of a tile's side that neighboring tiles have in common, 0 to 0.9."""
    flip: bool = False
    """Look at the mirrored image too, and fuse what both ways find: better, in twice the time."""
    scales: tuple[float, ...] = (1.0,)
    """Look at the image so many times as large as the model's input, and fuse: 0.8 1.0 1.25."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 are faster on GPUs, bf16 on some CPUs (AVX-512 BF16, AMX), and less exact. A graph for OpenVINO
    (.xml) takes fp32 and bf16, an .onnx file is as it was exported."""
    compiled: bool = False
    """Let torch.compile fuse the network: half a minute at the start, faster afterwards on GPUs."""
    draw: bool = True
    """Write the drawn images; --no-draw writes predictions.json only."""
    every: int = 1
    """Videos: look at every so many frames."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and say how many, instead of stopping."""


@dataclass
class Found:
    """What `sais predict` has seen so far, as predictions.json will hold it."""

    class_names: tuple[str, ...]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    broken: int = 0

    def add(self, detections: Detections, **image: Any) -> None:
        """Count the objects of one image; `image` is what to remember of it (file_name, frame ...)."""
        number = len(self.images) + 1
        height, width = detections.image_size
        self.images.append({"id": number, "width": width, "height": height, **image})
        ids = tuple(range(1, len(self.class_names) + 1))
        for entry in detections.to_coco(number, ids):
            self.annotations.append({"id": len(self.annotations) + 1, **entry})
        self.counts.update(self.class_names[label] for label in detections.labels)

    def write(self, path: Path) -> None:
        """Write predictions.json, whole or not at all."""
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.class_names)]
        write_text(path, json.dumps({"images": self.images, "categories": categories, "annotations": self.annotations}))


def run(argv: Sequence[str]) -> int:
    """Run `sais predict`."""
    arguments = parse(PredictArguments, argv, "sais predict MODEL SOURCE")
    if arguments.batch < 1 or arguments.every < 1:
        raise SaisError("sais predict: --batch and --every must be 1 or more")
    check_tiles(arguments.tiles, arguments.tile_overlap)
    check_model(arguments.model)
    from sais.io.sources import find_images
    from sais.io.video import is_video

    video = is_video(arguments.source)
    paths = [] if video else find_images(arguments.source)
    check_writable(arguments.out)
    way = Way(
        arguments.device, arguments.score, arguments.flip, arguments.scales, arguments.precision, arguments.compiled
    )
    predictor = open_model("predict", arguments.model, way)
    found = Found(tuple(predictor.class_names))
    if video:
        _video(arguments, predictor, found)
    else:
        _images(arguments, predictor, found, paths)
    found.write(arguments.out / "predictions.json")
    what = "frames" if video else "images"
    totals = ", ".join(f"{count} {name}" for name, count in found.counts.most_common()) or "nothing"
    print(f"{len(found.images)} {what}: {totals}")
    if found.broken:
        print(f"left out {found.broken} images that cannot be read")
    print(f"wrote {arguments.out}")
    return 0


def _finder(arguments: PredictArguments, predictor: Opened) -> DetectFunction:
    """What finds the objects of images: all of them in one pass, or each in tiles, with a bar for the tiles."""
    if not arguments.tiles:
        return predictor.batch
    bar = partial(progress_bar, "tiles")
    return in_tiles(predictor, arguments.tiles, arguments.tile_overlap, arguments.batch, bar)


def _images(arguments: PredictArguments, predictor: Opened, found: Found, paths: list[Path]) -> None:
    from PIL import Image

    from sais.results.draw import draw

    names, find = drawn_names(paths, Path(arguments.source)), _finder(arguments, predictor)
    for chunk in _read(paths, arguments, found):
        for (path, image), detections in zip(chunk, find([p for _, p in chunk]), strict=True):
            print(f"{path}: {detections.summary()}")
            found.add(detections, file_name=str(path))
            if arguments.draw:
                target = arguments.out / names[path]
                make_folder(target.parent)
                Image.fromarray(draw(image, detections, arguments.score)).save(target, quality=92)


def _read(paths: list[Path], arguments: PredictArguments, found: Found) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """The images in batches; the next batch is read while the network works on this one. With tiles they are big, and
    come one by one, the next only when this one is done."""
    from sais.io.images import read_image

    def load(chunk: list[Path]) -> list[tuple[Path, np.ndarray | SaisError]]:
        loaded: list[tuple[Path, np.ndarray | SaisError]] = []
        for path in chunk:
            try:
                loaded.append((path, read_image(path)))
            except SaisError as error:
                loaded.append((path, error))
        return loaded

    size = 1 if arguments.tiles else arguments.batch
    chunks = [paths[i : i + size] for i in range(0, len(paths), size)]
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for number, chunk in enumerate(chunks):
            loaded = load(chunk) if ahead is None else ahead.result()
            if number + 1 < len(chunks) and not arguments.tiles:
                ahead = pool.submit(load, chunks[number + 1])
            good = []
            for path, image in loaded:
                if isinstance(image, np.ndarray):
                    good.append((path, image))
                    continue
                if not arguments.skip_broken:
                    raise SaisError(f"{image} (--skip-broken leaves such images out)")
                found.broken += 1
                print(f"{path}: left out, cannot be read")
            if good:
                yield good


def _video(arguments: PredictArguments, predictor: Opened, found: Found) -> None:
    from contextlib import ExitStack

    from sais.io.video import VideoWriter, read_video, video_info
    from sais.results.draw import draw

    source = Path(arguments.source)
    frames, find = read_video(source, every=arguments.every), _finder(arguments, predictor)
    with ExitStack() as stack:
        writer = None
        if arguments.draw:
            make_folder(arguments.out)
            target = arguments.out / f"{source.stem}.mp4"
            writer = stack.enter_context(VideoWriter(target, rate=video_info(source).rate / arguments.every))
        while chunk := list(islice(frames, arguments.batch)):
            images = [image for _, _, image in chunk]
            for (frame, seconds, image), detections in zip(chunk, find(images), strict=True):
                print(f"{source} {seconds:.2f} s: {detections.summary()}")
                found.add(detections, file_name=str(source), frame=frame, seconds=round(seconds, 3))
                if writer is not None:
                    writer.write(draw(image, detections, arguments.score))


def drawn_names(paths: list[Path], source: Path) -> dict[Path, Path]:
    """Where each image's drawing goes inside --out: its place below `source`, as .jpg, numbered where two would
    collide (a.jpg and a.png)."""
    taken: set[Path] = set()
    names: dict[Path, Path] = {}
    for path in paths:
        place = path.relative_to(source) if source.is_dir() and path.is_relative_to(source) else Path(path.name)
        name, number = place.with_suffix(".jpg"), 2
        while name in taken:
            name, number = place.with_name(f"{place.stem}-{number}.jpg"), number + 1
        taken.add(name)
        names[path] = name
    return names
