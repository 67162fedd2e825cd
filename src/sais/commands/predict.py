"""`sais predict MODEL SOURCE ...`: detect the objects in images, folders, globs and videos; drawings and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import numpy as np
import tyro

from sais.commands.arguments import FLAT, parse
from sais.commands.input_files import model_files
from sais.commands.object_table import FILE_NAME as TABLE_NAME
from sais.commands.object_table import ObjectTable
from sais.commands.open_predictor import BOXES_ONLY, check_model, open_predictor
from sais.commands.options import Maximum, Minimum
from sais.commands.predict_videos import VideoPredictor, VideoSource, video_sources
from sais.commands.predicted_labels import PredictedLabels
from sais.commands.prediction_file import (
    WRITER,
    LabelIds,
    PredictionFile,
    check_drawings,
    check_results,
    read_drawings,
    remove_drawings,
)
from sais.commands.track_files import TRACKS_CSV, TrackFiles
from sais.commands.video_options import VideoOptions
from sais.inference.options import InferenceOptions
from sais.text import print_json, print_text, short_name

if TYPE_CHECKING:
    from sais.inference.predictor import Predictor
    from sais.io.progress import Progress
    from sais.io.sources import SourceImage, Sources
    from sais.results.detections import Detections

Key = TypeVar("Key")
Results = tuple[PredictionFile, PredictedLabels, ObjectTable]


@dataclass(frozen=True)
class PredictArguments:
    """Detect the objects in images, videos, webcams and streams, and follow them.

    Writes drawings and predictions.json: a COCO file with the category ids of the training data, whose annotations also
    have a score. A second prediction into the same folder replaces the files of the first.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, folder of a training run, or exported file (.onnx and .xml need no PyTorch)."""
    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE")]
    """Images, folders, globs ("shots/*.jpg"), videos, http(s) and rtsp addresses, numbers of webcams (0); - reads paths
    from standard input."""
    out: Path = Path("predictions")
    """Folder to write to."""
    inference: Annotated[InferenceOptions, FLAT] = field(default_factory=InferenceOptions)
    draw: bool = True
    """Write drawings; --no-draw writes predictions.json only."""
    color_by: Literal["class", "instance"] = "class"
    """Colors of drawings: the same for all objects of a class, or the next one for each object or track."""
    palette: Literal["default", "color-blind"] = "default"
    """Colors of drawings: 16 colors, or eight that color-blind people can distinguish."""
    overwrite: bool = False
    """Replace files in --out that an earlier prediction did not write; never those that are read."""
    like: Path | None = None
    """COCO file of the same images, such as valid.json: predictions.json takes over its image and category ids."""
    polygons: bool = False
    """Write masks in predictions.json as polygons (without holes) instead of RLE."""
    to: Literal["coco", "yolo", "labelme", "voc", "masks", "geojson", "cityscapes"] | None = None
    """Format of labels for correction and training, written with the images to a folder of this name in --out."""
    tolerance: Annotated[float, Minimum(0)] = 1.0
    """Pixels by which polygons of --to may deviate from the masks, to have fewer points; 0 for exact ones."""
    csv: bool = False
    """Write objects.csv: a row for each object with its class, score, box, area, perimeter, length, width, ..."""
    pixel_size: Annotated[float, Minimum(1e-9), Maximum(1e9)] = 1.0
    """Side of a pixel in --unit, for the lengths and areas of --csv."""
    unit: str = "px"
    """Name of the unit of lengths in --csv, such as mm."""
    video: Annotated[VideoOptions, FLAT] = field(default_factory=VideoOptions)
    pages: Literal["first", "all"] = "first"
    """Files with several pages or frames (TIFF, GIF, WebP, PNG): read the first, or all as images of their own."""
    skip_broken: bool = True
    """Skip and count unreadable images; --no-skip-broken stops at the first."""
    json: bool = False
    """Print a summary as JSON on the standard output, and all other lines on stderr; the objects are in
    predictions.json."""


def run(argv: Sequence[str]) -> int:
    """Run `sais predict`."""
    arguments = parse(PredictArguments, argv, "sais predict MODEL SOURCE")
    check_model(arguments.model)
    from sais.commands.source_images import open_sources

    has_places = any(arguments.video.places())
    sources = open_sources(arguments.sources, arguments.pages)
    videos = video_sources(sources, arguments.video.track)
    images = [] if arguments.video.track else sources.images
    inputs = [*model_files(arguments.model), *([] if arguments.like is None else [arguments.like])]
    check_results(arguments.out, [*inputs, *_source_files(sources)], arguments.overwrite)
    names = _drawing_names(images, videos) if arguments.draw else []
    if arguments.draw:
        check_drawings(arguments.out, names, _source_files(sources), arguments.overwrite)
    label_files = PredictedLabels(arguments.out, arguments.to, arguments.tolerance, arguments.overwrite)
    label_files.check(sources.images, [*inputs, *_source_files(sources)])
    table = ObjectTable(arguments.out, arguments.csv, arguments.pixel_size, arguments.unit)
    table.check([*inputs, *_source_files(sources)], arguments.overwrite)
    track_files = TrackFiles(arguments.out, has_places) if arguments.video.track else None
    _check_videos(sources, track_files, inputs, arguments.overwrite)
    labels = None if arguments.like is None else LabelIds(arguments.like)
    predictor = open_predictor("predict", arguments.model, arguments.inference)
    label_files.open(predictor)
    category_ids = (
        predictor.category_ids
        if labels is None
        else labels.category_ids(predictor.class_names, arguments.inference.classes)
    )
    info = {"model": str(arguments.model), "score": str(predictor.filter)}
    names_of_classes = tuple(predictor.class_names)
    predictions = PredictionFile(names_of_classes, category_ids, labels, arguments.polygons, info, arguments.out)
    earlier = read_drawings(arguments.out)
    planned = predictions.drawings = earlier | dict.fromkeys(_planned_names(arguments, names))
    predictions.write(arguments.out, complete=False)  # a killed prediction leaves no drawing without its entry
    predictions.drawings = {}
    print_text(predictor.filter)
    video_predictor = VideoPredictor(arguments, predictor, predictions, label_files, table, track_files)
    try:
        summary = _predict_images(arguments, predictor, (predictions, label_files, table), images)
        video_predictor.run(videos)
        table_notes = _write_tables(table, track_files, predictions)
    except BaseException:  # also Ctrl-C: what has been predicted is not lost
        label_files.finish(complete=False)
        try:
            _write_tables(table, track_files, predictions, complete=False)
        finally:
            predictions.drawings = planned | predictions.drawings
            predictions.write(arguments.out, complete=False)
        raise
    remove_drawings(arguments.out, earlier, predictions.drawings, _source_files(sources))
    predictions.write(arguments.out)
    label_notes = [*label_files.finish(), *table_notes]
    summary += video_predictor.notes
    unit = "images and frames" if images and videos else "frames" if videos else "images"
    lines = [*summary, _totals(predictions, unit), *_notes(predictor, predictions), *label_notes]
    print_text(*lines, f"wrote {arguments.out}", sep="\n")
    if arguments.json:
        print_json({"out": str(arguments.out), "model": str(arguments.model), **predictions.summary(), "notes": lines})
    return 0


def _totals(predictions: PredictionFile, unit: str) -> str:
    """Return the number of images or frames and of objects of each class: "2 images: 3 bear, 1 deer"."""
    number = len(predictions.images)
    totals = ", ".join(f"{count} {short_name(name)}" for name, count in predictions.counts.most_common())
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}: {totals or 'no objects'}"


def _planned_names(arguments: PredictArguments, drawings: list[Path]) -> list[str]:
    """Return the names of the drawings and tables that are written during the prediction."""
    tables = [*([TABLE_NAME] if arguments.csv else []), *([TRACKS_CSV] if arguments.video.track else [])]
    return [*(name.as_posix() for name in drawings), *tables]


def _write_tables(
    table: ObjectTable, track_files: TrackFiles | None, predictions: PredictionFile, complete: bool = True
) -> list[str]:
    """Write the table and the tracks, if wanted, and list them in predictions.json; return lines about them."""
    notes = table.write()
    if notes:
        predictions.add_drawing(table.path.parent, table.path)
    if track_files is not None:
        notes += track_files.write(predictions, complete)
    return notes


def _source_files(sources: Sources) -> list[Path]:
    return [*(image.location for image in sources.images if isinstance(image.location, Path)), *sources.videos]


def _check_videos(sources: Sources, track_files: TrackFiles | None, inputs: list[Path], overwrite: bool) -> None:
    """Raise SaisError for a video that cannot be opened, files of others or a missing package, before the work."""
    if track_files is not None:
        from sais.tracking.association import assignment_solver

        assignment_solver()
        track_files.check([*inputs, *_source_files(sources)], overwrite)
    if sources.videos:
        from sais.io.video import video_info

        for path in sources.videos:
            video_info(path)


def _drawing_names(images: list[SourceImage], videos: list[VideoSource]) -> list[Path]:
    """Return the paths of the drawings below the output folder: of the images, then of the videos."""
    from sais.io.result_names import drawing_names

    image_names = drawing_names([image.file_name for image in images])
    video_names = drawing_names([video.name for video in videos])
    return [*(Path(f"{name}.jpg") for name in image_names), *(Path(f"{name}.mp4") for name in video_names)]


def _notes(predictor: Predictor, predictions: PredictionFile) -> list[str]:
    """Return lines about a model without masks, images at the limit of detections, and images without known ids."""
    notes = [] if predictor.experiment.model.masks else [BOXES_ONLY]
    limit = predictor.filter.max_detections
    if predictions.limited:
        where = "a tile of " if predictor.options.tiles is not None else ""
        backend = predictor.backend
        in_graph = getattr(backend, "graph", "raw") != "raw" and limit == backend.experiment.postprocess.max_detections
        remedy = "export the model with a higher --max-detections" if in_graph else "raise --max-detections"
        notes.append(f"{limit} detections: the limit of {where}{predictions.limited} images; {remedy}")
    if predictions.labels is not None and predictions.labels.unknown:
        notes.append(f"{predictions.labels.unknown} images are not in {predictions.labels.path}; their ids are new")
    return notes


def _predict(
    predictor: Predictor, batches: Iterable[list[tuple[Key, np.ndarray]]], progress: Progress
) -> Iterator[tuple[Key, np.ndarray, Detections]]:
    """Predict on batches of images (H, W, 3), each with a key; with the progress of the tiles of large images.

    A GPU computes the next batch while the caller works on the detections of a batch.
    """
    from sais.inference.streaming import finish_in_order, start_batch

    def start(images: list[np.ndarray]) -> Callable[[], list[Detections]]:
        if predictor.options.tiles is None:
            return start_batch(predictor, images)
        return lambda: _predict_tiles(predictor, images, progress)

    started = ((batch, start([image for _, image in batch])) for batch in batches)
    for batch, found in finish_in_order(started, predictor.computes_ahead and predictor.options.tiles is None):
        for (key, image), detections in zip(batch, found, strict=True):
            yield key, image, detections


def _predict_tiles(predictor: Predictor, images: list[np.ndarray], progress: Progress) -> list[Detections]:
    """Predict on the tiles of images (H, W, 3)."""
    total = sum(predictor.num_tiles((image.shape[0], image.shape[1])) for image in images)
    with progress.stage(f"{progress.label} {progress.done + 1}/{progress.total}: tiles", total, "tiles") as advance:
        return predictor.batch(images, advance)


def _predict_images(
    arguments: PredictArguments, predictor: Predictor, results: Results, images: list[SourceImage]
) -> list[str]:
    """Predict on the images of the sources; return lines about how they were read."""
    if not images:
        return []
    from sais.commands.source_images import BatchReader
    from sais.io.image_reader import ImageReader
    from sais.io.image_writer import image_path, write_image
    from sais.io.images import LARGE_IMAGE_PIXELS
    from sais.io.progress import Progress
    from sais.io.result_names import drawing_names

    predictions, label_files, table = results
    options = arguments.inference
    tiles = options.tiles is not None
    reader = ImageReader(LARGE_IMAGE_PIXELS if tiles else None, predictor.experiment.input.white_level)
    batches = BatchReader(images, reader, options.read_batch_size, not tiles, arguments.skip_broken)
    drawings = dict(zip(images, drawing_names([image.file_name for image in images]), strict=True))
    with Progress("predicting", len(images)) as progress:
        for source, image, detections in _predict(predictor, batches, progress):
            print_text(f"{source.label}: {detections.summary()}")
            entry = source.entry()
            predictions.add(detections, **entry)
            label_files.add(image, detections, source)
            table.add(detections, entry["file_name"])
            if arguments.draw:
                drawing = _draw(arguments, image, detections)
                target = arguments.out / f"{drawings[source]}.jpg"
                png = image_path(target, drawing)
                if png != target:  # its name was not checked before the prediction
                    files = [file for file in (source.location,) if isinstance(file, Path)]
                    check_drawings(arguments.out, [png.relative_to(arguments.out)], files, arguments.overwrite)
                predictions.add_drawing(arguments.out, write_image(target, drawing, writer=WRITER))
            progress.advance()
    return batches.summary()


def _draw(arguments: PredictArguments, image: np.ndarray, detections: Detections) -> np.ndarray:
    """Draw the detections of an image (H, W, 3)."""
    from sais.results.draw import draw

    return draw(image, detections, 0, color_by=arguments.color_by, palette=arguments.palette)
