"""A prediction over many images: plan, missing shards, engine, manifest. The command and Python call `predict_many`."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.errors import CheckpointError, InputError, ResourceError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.io.outputs import check_outputs, file_identities, written_by
from sais.io.progress import Progress
from sais.io.sources import STANDARD_INPUT
from sais.scaling.inputs import find_items, listing_digest, read_listing
from sais.scaling.items import WRITER, ImageItem, choose_shard_size, read_shards, write_plan
from sais.scaling.local_engine import ShardFailure, run_local
from sais.scaling.manifest import (
    MANIFEST,
    PLAN,
    Manifest,
    check_same,
    compared_options,
    model_digest,
    read_manifest,
)
from sais.scaling.options import ManyOptions, choose_engine
from sais.scaling.ray_engine import RayWorkers, read_model_files
from sais.scaling.ray_start import running_ray
from sais.scaling.shard_files import ERRORS, RESULTS, check_format, check_ids, read_errors
from sais.scaling.shard_worker import Job, ModelDescription, ShardResult, ShardWorker
from sais.scaling.storage import OutputFolder, is_remote, local_path

if TYPE_CHECKING:
    from collections.abc import Generator

LOCK_FILE = ".predict-many.lock"
MAX_NOTES = 20
"""Maximum number of notes about the input that are reported."""
MAX_FAILURES = 5
"""Number of shards that may fail before the run ends; what fails each time is usually not the shard."""
_SHARD_FILE = re.compile(r"shard-\d{5,}-of-\d{5,}\.(parquet|jsonl?)")
_ATTEMPT = re.compile(r"\.shard-\d{5,}-of-\d{5,}\.attempt")
"""Marks of attempts, see `ShardWorker.predict`."""

Report = Callable[[str], None]


@dataclass
class ManySummary:
    """What a run did."""

    manifest: Manifest
    images: int = 0
    """Number of images of the shards that this run wrote, unreadable ones included."""
    before: int = 0
    """Number of images of shards that an earlier run had written."""
    objects: Counter[str] = field(default_factory=Counter)
    """Class name -> number of detections of this run."""
    errors: Counter[str] = field(default_factory=Counter)
    """What is wrong -> number of unreadable images, of all runs if `manifest.complete`."""
    limited: int = 0
    """Number of images of this run whose detections reached the limit."""
    notes: Counter[str] = field(default_factory=Counter)
    """How images were converted -> number, of this run."""
    failures: list[ShardFailure] = field(default_factory=list)
    """Shards that were given up."""


def predict_many(
    model: Path,
    source: str,
    output: str,
    inference: InferenceOptions | None = None,
    options: ManyOptions | None = None,
    standard_input: bytes = b"",
    report: Report = lambda line: None,
) -> ManySummary:
    """Predict many images into shards; repeated after an interruption, predict what is missing.

    Args:
        model: path of a checkpoint, of a run folder, or of an exported file.
        source: folder, glob pattern, list of paths, Parquet or tar files, local or remote; see `sais.scaling.inputs`.
        output: path or address of a folder.
        inference: inference options.
        options: the other options.
        standard_input: content of standard input, if `source` is "-".
        report: function called with lines about the run.

    Raises:
        SaisError: the model, the input or the output cannot be used, or several shards failed.
    """
    inference, options = inference or InferenceOptions(), options or ManyOptions()
    check_format(options.format)
    engine = choose_engine(options)
    files = model_files(model)
    folder = OutputFolder(output)
    _check_output(folder, source, files, options.overwrite)
    listing = read_listing(source, standard_input)
    wanted = Manifest(
        input=_absolute(source),
        listing=listing_digest(listing),
        column=options.column,
        name_column=options.name_column,
        image_column=None,
        images=0,
        shard_size=0,
        format=options.format,
        rows=options.rows,
        model=str(model),
        model_sha256=model_digest(files),
        options=compared_options(inference),
        class_names=(),
        category_ids=(),
        score="",
        listed=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    stored = None if options.overwrite else read_manifest(folder)
    if stored is not None:
        check_same(stored, replace(wanted, shard_size=options.shard_size or stored.shard_size), output)
        report(f"continuing with the {stored.images} images listed at {stored.listed}")
        manifest, items = stored, None
    else:
        manifest, items = _list_images(wanted, listing, source, folder.path, options, inference.batch_size, report)
    with _locked(folder):
        if not options.overwrite and read_manifest(folder) != stored:
            raise ResourceError(f"{output}: another process has predicted into this folder. Repeat the command.")
        return _Run(model, files, inference, options, folder, report, engine).execute(manifest, items)


def _list_images(
    wanted: Manifest,
    listing: bytes,
    source: str,
    output: Path | None,
    options: ManyOptions,
    batch_size: int,
    report: Report,
) -> tuple[Manifest, list[ImageItem]]:
    """Return the manifest of a new run, with the number of its images and shards, and the images."""
    images = find_items(source, listing, options.column, options.name_column, output)
    for note in images.notes[:MAX_NOTES]:
        report(f"note: {note}")
    if len(images.notes) > MAX_NOTES:
        report(f"note: and {len(images.notes) - MAX_NOTES} more like these")
    count = len(images.items)
    check_ids(count)
    size = options.shard_size or choose_shard_size(count, batch_size)
    return replace(wanted, images=count, shard_size=size, image_column=images.column), images.items


def model_files(model: Path) -> list[Path]:
    """Return the files of a model that a worker needs, the one to open first.

    Raises:
        CheckpointError: no such model.
    """
    if not model.exists():
        raise CheckpointError(f"{model}: no such model. Give a model file, a run folder, or an exported file.")
    if model.suffix in EXPORTED_SUFFIXES:
        return [model, *([model.with_suffix(".bin")] if model.suffix == ".xml" else [])]
    from sais.checkpoint import find_checkpoint

    return [find_checkpoint(model)]


@dataclass
class _Run:
    """One run: the part after the images are known."""

    model: Path
    files: list[Path]
    inference: InferenceOptions
    options: ManyOptions
    folder: OutputFolder
    report: Report
    engine: str

    def execute(self, manifest: Manifest, items: list[ImageItem] | None) -> ManySummary:
        """Predict the missing shards; `items` are the images of a new plan, None for a stored one."""
        done = manifest.finished(self.folder) if items is None else set()
        summary = ManySummary(manifest, before=_count_images(manifest, done))
        if len(done) < manifest.shards:
            job = Job(self.folder.location, manifest.format, manifest.rows, manifest.image_column)
            with self._engine(job) as (description, run):
                if items is not None:
                    manifest = summary.manifest = self._begin(manifest, description, items)
                    items = None  # the plan is read from its file, a shard at a time
                self._collect(summary, run, done)
        if len(manifest.finished(self.folder)) == manifest.shards:
            for name in filter(_ATTEMPT.fullmatch, self.folder.names(RESULTS)):  # killed after the file was complete
                self.folder.remove(f"{RESULTS}/{name}")
            summary.errors = self._count_errors(manifest)
            summary.manifest = replace(manifest, complete=True, unreadable=summary.errors.total())
            summary.manifest.write(self.folder)
        return summary

    def _begin(self, manifest: Manifest, description: ModelDescription, items: list[ImageItem]) -> Manifest:
        """Write the plan and the manifest of a new run; the manifest last, since it makes the plan valid."""
        _remove_earlier(self.folder)
        with self.folder.writing(PLAN) as path:
            write_plan(path, items)
        manifest = replace(
            manifest,
            class_names=description.class_names,
            category_ids=description.category_ids,
            score=description.score,
        )
        manifest.write(self.folder)
        return manifest

    def _collect(self, summary: ManySummary, run: _Engine, done: set[int]) -> None:
        """Run the missing shards and add up their results."""
        manifest = summary.manifest
        self.report(manifest.score)
        listed = 0
        with (
            Progress("predicting", manifest.images, done=summary.before) as progress,
            self.folder.lines(PLAN) as lines,
        ):
            shards = read_shards(lines, manifest.images, manifest.shard_size, done)
            results = run(shards, progress.advance)
            for result in results:
                if isinstance(result, ShardFailure):
                    summary.failures.append(result)
                    self.report(f"shard {result.number} failed: {result.message}")
                    if len(summary.failures) >= MAX_FAILURES:
                        raise ResourceError(
                            f"{len(summary.failures)} shards failed; the last: {result.message} Repeat the command to "
                            "continue."
                        )
                    continue
                if result.checked:
                    self.report(
                        f"shard {result.number}: an earlier attempt ended without a result; its images were read one "
                        "by one first"
                    )
                for line in result.listed[: max(0, 5 - listed)]:
                    self.report(line)
                    listed += 1
                summary.images += result.images
                for name in ("objects", "errors", "notes"):
                    getattr(summary, name).update(getattr(result, name))
                summary.limited += result.limited

    @contextlib.contextmanager
    def _engine(self, job: Job) -> Iterator[tuple[ModelDescription, _Engine]]:
        """Yield what the model states, and the function that predicts shards."""
        retries = self.options.retries
        if self.engine == "local":
            worker = ShardWorker(self.model, self.inference, job)
            description = worker.describe()
            yield description, lambda shards, advance: run_local(worker, shards, retries, advance)
            return
        model = read_model_files(str(self.model), self.files)
        size = sum(content.nbytes for content in model.files.values())
        with running_ray(self.options.address, self.options.workers, size):
            workers = RayWorkers(model, self.inference, job, self.options.workers, retries, self.report)
            description = workers.start()
            self.report(f"Ray: {workers.workers} workers")

            def run(shards: Any, advance: Callable[[int], None]) -> Generator[ShardResult | ShardFailure, None, None]:
                for result in workers.run(shards):
                    if isinstance(result, ShardResult):
                        advance(result.images)
                    yield result

            yield description, run

    def _count_errors(self, manifest: Manifest) -> Counter[str]:
        """Return what is wrong with the unreadable images of all shards -> their number."""
        counts: Counter[str] = Counter()
        for name in sorted(self.folder.names(ERRORS)):
            content = self.folder.read(f"{ERRORS}/{name}") if _SHARD_FILE.fullmatch(name) else None
            if content is not None:
                counts.update(row["kind"] for row in read_errors(content, manifest.format))
        return counts


_Engine = Callable[[Iterator[Any], Callable[[int], None]], Iterator[ShardResult | ShardFailure]]


def _count_images(manifest: Manifest, shards: set[int]) -> int:
    size = manifest.shard_size
    return sum(min(size, manifest.images - number * size) for number in shards)


def _absolute(source: str) -> str:
    """Return an input as the manifest states it, the same from every working directory."""
    if source == STANDARD_INPUT or is_remote(source):
        return source
    return str(local_path(source).absolute())


def _check_output(folder: OutputFolder, source: str, files: list[Path], overwrite: bool) -> None:
    """Check that nothing of others is replaced.

    Raises:
        InputError: the output contains files of others, or is the input.
    """
    own = read_manifest(folder) if not overwrite else None
    if folder.path is not None:
        if not is_remote(source) and file_identities([folder.path]) & file_identities([local_path(source)]):
            raise InputError(f"{folder.location}: the folder of the input. Choose another output.")
        shards = [folder.path / name / "shard" for name in (RESULTS, ERRORS)]  # their folders must not be links
        outputs = [folder.path / MANIFEST, folder.path / PLAN, *shards]
        check_outputs(outputs, files, overwrite, folder.path, written_by(WRITER))
    elif own is None and not overwrite and {MANIFEST, PLAN} & folder.names(""):
        raise InputError(f"{folder.location}: contains a manifest of others. Choose another output.")
    if own is not None:
        return
    for name in (RESULTS, ERRORS):
        visible = {file for file in folder.names(name) if not file.startswith(".")}  # hidden: left by a killed run
        others = [file for file in visible if not (overwrite and _SHARD_FILE.fullmatch(file))]
        if others:
            raise InputError(
                f"{folder.location}/{name}: contains files without a manifest, such as {min(others)}. Choose another "
                "output."
            )


def _remove_earlier(folder: OutputFolder) -> None:
    """Delete the files of an earlier run: its manifest first, without which its shards count for nothing."""
    folder.remove(MANIFEST)
    for name in (RESULTS, ERRORS):
        for file in folder.names(name):
            if _SHARD_FILE.fullmatch(file) or _ATTEMPT.fullmatch(file):
                folder.remove(f"{name}/{file}")


@contextlib.contextmanager
def _locked(folder: OutputFolder) -> Iterator[None]:
    """Hold the lock of a local output folder during the block.

    Raises:
        ResourceError: another process writes into it.
    """
    if folder.path is None:
        yield
        return
    from filelock import FileLock, Timeout

    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.path / LOCK_FILE, timeout=0.5):
            yield
    except Timeout as error:
        raise ResourceError(
            f"{folder.location}: another process predicts into this folder. Wait for it, or choose another output."
        ) from error
