"""One shard in, one file out: what every process does, with Ray or without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.errors import OutOfMemoryError, ResourceError, SaisError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.io.sources import unreadable_kind
from sais.scaling.item_reader import ItemReader
from sais.scaling.items import ImageItem, Shard, attempt_name
from sais.scaling.shard_files import (
    ERRORS,
    RESULTS,
    Format,
    ImageError,
    Rows,
    errors_suffix,
    open_shard_file,
    suffix,
    write_errors,
)
from sais.scaling.storage import OutputFolder

if TYPE_CHECKING:
    from sais.inference.predictor import Predictor
    from sais.results.detections import Detections

MAX_LISTED = 5
"""Maximum number of errors of a shard that its result lists."""
MAX_READERS = 8
"""Maximum number of threads that decode images for a GPU."""

Entry = tuple[int, ImageItem]


@dataclass(frozen=True)
class Job:
    """What all shards of a run have in common."""

    output: str
    """Path or address of the output folder."""
    format: Format = "parquet"
    rows: Rows = "image"
    column: str | None = None
    """Column of the images in Parquet files."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model, for processes of other machines.

    Args:
        source: path as the user gave it, for messages.
        files: file name -> content, uint8 (bytes,); the first is the one to open.
    """

    source: str
    files: dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelDescription:
    """What the manifest states about an opened model."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    score: str
    """The minimum score and its origin."""
    masks: bool


@dataclass
class ShardResult:
    """What is reported about a shard whose file has been written."""

    number: int
    images: int
    errors: Counter[str] = field(default_factory=Counter)
    """What is wrong -> number of images."""
    listed: list[str] = field(default_factory=list)
    """The first errors, as lines."""
    objects: Counter[str] = field(default_factory=Counter)
    """Class name -> number of detections."""
    limited: int = 0
    """Number of images whose detections reached the limit."""
    notes: Counter[str] = field(default_factory=Counter)
    """How images were converted -> number."""
    checked: bool = False
    """Whether images that crash their decoder were searched for, because an earlier attempt ended its process."""


class ShardWorker:
    """Predicts shards with a model that it opens when the first one arrives.

    Args:
        model: path of the model, or its files.
        options: inference options.
        job: what the shards have in common.
        threads: number of processor threads of this process; 0 for all cores.
    """

    def __init__(self, model: Path | ModelFiles, options: InferenceOptions, job: Job, threads: int = 0) -> None:
        self._model, self._job, self._threads = model, job, threads
        self._options = replace(options, threads=threads) if threads and not options.threads else options
        self._opened: Predictor | None = None

    def describe(self) -> ModelDescription:
        """Open the model and return what the manifest states about it.

        Raises:
            SaisError: the model cannot be opened, or does not support the options.
        """
        predictor = self._predictor()
        ids, masks = tuple(map(int, predictor.category_ids)), predictor.experiment.model.masks
        return ModelDescription(tuple(predictor.class_names), ids, str(predictor.filter), masks)

    def predict(self, shard: Shard, advance: Callable[[int], None] = lambda images: None) -> ShardResult:
        """Predict the images of a shard and write its file; unreadable images go to the table of errors.

        The file appears last and complete, so that a shard is done if and only if its file exists. Repeating a shard
        replaces the file by an equal one. An attempt that ends its process leaves a mark; the next attempt then
        searches for images that crash their decoder, and lists them as errors.

        Args:
            shard: the shard.
            advance: function called with numbers of images done.

        Raises:
            SaisError: the file cannot be written, or memory does not suffice.
        """
        predictor, output = self._predictor(), OutputFolder(self._job.output)
        mark = f"{RESULTS}/{attempt_name(shard.name)}"
        checked = output.read(mark) is not None
        output.mark(mark)
        try:
            errors = self._crashing(predictor, shard) if checked else []
            result = self._write(predictor, output, shard, errors, advance)
        finally:  # this process has not crashed
            with suppress(ResourceError):
                output.remove(mark)
        result.checked = checked
        return result

    def _crashing(self, predictor: Predictor, shard: Shard) -> list[ImageError]:
        """Return errors of the images of a shard that crash their decoder."""
        from sais.scaling.crash_check import find_crashing

        crashing = find_crashing(shard.items, self._job.column, *self._reader_options(predictor))
        return [
            ImageError(shard.first + i + 1, shard.items[i], unreadable_kind(error), str(error))
            for i, error in crashing.items()
        ]

    def _write(
        self,
        predictor: Predictor,
        output: OutputFolder,
        shard: Shard,
        errors: list[ImageError],
        advance: Callable[[int], None],
    ) -> ShardResult:
        """Write the file of a shard and its table of errors; `errors` are those of images that are not read."""
        job, result = self._job, ShardResult(shard.number, len(shard.items))
        left_out = {error.image_id for error in errors}
        entries = [(shard.first + i + 1, item) for i, item in enumerate(shard.items)]
        entries = [entry for entry in entries if entry[0] not in left_out]
        with output.writing(f"{RESULTS}/{shard.name}{suffix(job.format)}") as path:
            file = open_shard_file(path, job.format, job.rows, predictor.class_names, predictor.category_ids)
            for (image_id, item), detections in self._detections(predictor, entries, errors, result.notes):
                file.add(image_id, item, detections)
                result.objects.update(predictor.class_names[label] for label in detections.labels)
                result.limited += detections.omitted is not None and detections.omitted.limit is not None
                advance(1)
            file.close()
            errors_file = f"{ERRORS}/{shard.name}{errors_suffix(job.format)}"
            if errors:
                errors.sort(key=lambda error: error.image_id)
                with output.writing(errors_file) as errors_path:
                    write_errors(errors_path, errors, job.format)
            else:
                output.remove(errors_file)  # of an earlier attempt, whose network had failed
        result.errors = Counter(error.kind for error in errors)
        result.listed = [f"{error.item.label}: unreadable ({error.kind})" for error in errors[:MAX_LISTED]]
        advance(len(errors))
        return result

    def _reader_options(self, predictor: Predictor) -> tuple[int | None, int | None]:
        """Return the maximum number of pixels and the white level for an `ItemReader`."""
        from sais.io.images import LARGE_IMAGE_PIXELS

        tiles = predictor.options.tiles is not None
        return LARGE_IMAGE_PIXELS if tiles else None, predictor.experiment.input.white_level

    def _predictor(self) -> Predictor:
        if self._opened is None:
            if isinstance(self._model, Path):
                self._opened = _open(self._model, self._options, self._threads)
            else:
                self._opened = _open_files(self._model, self._options, self._threads)
        return self._opened

    def _detections(
        self, predictor: Predictor, entries: list[Entry], errors: list[ImageError], notes: Counter[str]
    ) -> Iterator[tuple[Entry, Detections]]:
        """Yield the detections of the readable images; add the others to `errors`."""
        from sais.inference.streaming import finish_in_order, prepared_ahead, start_batch

        size, tiles = predictor.options.read_batch_size, predictor.options.tiles is not None
        reader = ItemReader(self._job.column, *self._reader_options(predictor))
        with ThreadPoolExecutor(min(MAX_READERS, size)) if predictor.computes_ahead else nullcontext() as pool:
            mapped: Callable[..., Iterable[Any]] = map if pool is None else pool.map

            def read(chunk: list[Entry]) -> list[tuple[Entry, Any]]:
                return _read_images(reader, chunk, mapped)

            if tiles:  # large images: one at a time in memory
                batches: Iterable[list[tuple[Entry, Any]]] = (read([entry]) for entry in entries)
            else:
                batches = prepared_ahead(entries, size, read)
            readable = (_without_errors(batch, errors, notes) for batch in batches)
            started = ((batch, start_batch(predictor, [a for _, a in batch])) for batch in readable if batch)
            for batch, found in finish_in_order(started, predictor.computes_ahead and not tiles):
                for (entry, _), detections in zip(batch, found, strict=True):
                    yield entry, detections
        reader.close()


def _read_images(
    reader: ItemReader, chunk: list[Entry], mapped: Callable[..., Iterable[Any]]
) -> list[tuple[Entry, Any]]:
    """Return the images of a batch, each an array (H, W, 3) with notes on its conversion, or an error."""

    def decode(source: Any) -> Any:
        return source if isinstance(source, SaisError) else _error_or(lambda: reader.decode(source))

    sources = [_error_or(lambda item=item: reader.fetch(item)) for _, item in chunk]  # type: ignore[misc]
    return list(zip(chunk, mapped(decode, sources), strict=True))


def _error_or(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OutOfMemoryError:  # the image may be sound
        raise
    except SaisError as error:
        return error


def _without_errors(
    batch: list[tuple[Entry, Any]], errors: list[ImageError], notes: Counter[str]
) -> list[tuple[Entry, np.ndarray]]:
    """Return the images of a batch (H, W, 3); add the errors to `errors`."""
    images = []
    for entry, content in batch:
        if isinstance(content, SaisError):
            errors.append(ImageError(*entry, unreadable_kind(content), str(content)))
        else:
            images.append((entry, content[0]))
            notes.update(content[1])
    return images


def _open(path: Path, options: InferenceOptions, threads: int) -> Predictor:
    """Open a model in a process that uses `threads` threads; 0 for all cores."""
    from sais.engine.allocator import keep_big_blocks
    from sais.inference.backends.onnxruntime import passive_threads
    from sais.inference.predictor import Predictor

    keep_big_blocks()
    if path.suffix not in EXPORTED_SUFFIXES and threads:
        import torch

        torch.set_num_threads(threads)
    with passive_threads() if threads else nullcontext():  # other workers need the cores
        return Predictor(path, options)


def _open_files(model: ModelFiles, options: InferenceOptions, threads: int) -> Predictor:
    """Open a model from the content of its files, which are written to a temporary folder meanwhile."""
    from sais.io.temporary import temporary_folder

    with temporary_folder(name="sais-model") as folder:
        for name, content in model.files.items():
            (folder / name).write_bytes(content.tobytes())
        path = folder / next(iter(model.files))
        try:
            return _open(path, options, threads)
        except SaisError as error:
            error.args = (str(error).replace(str(path), model.source),)
            raise
