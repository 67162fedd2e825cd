"""`sais report RUN`: write the HTML report of a run, with its model evaluated on its own or on other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sais.commands.arguments import FLAT, Workers, need_torch, parse, progress_bar
from sais.commands.input_files import annotation_files, image_files, model_files
from sais.commands.open_predictor import open_predictor
from sais.data.options import DataOptions
from sais.errors import InputError, SaisError
from sais.inference.options import InferenceOptions
from sais.io.outputs import PAGE, check_outputs, written_by
from sais.reports.run_record import RunRecord, read_run
from sais.text import print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit


@dataclass(frozen=True)
class ReportArguments:
    """Write the report of a run: RUN/report.html, one file that any browser opens without a network.

    The run's model is evaluated on its validation split, or on --split and --data. The report of another split or data
    set has a name of its own (report_test.html). Without labels, the report is made from the run's log only.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Path | None = None
    """Folder of the data set to evaluate on (also a name in the folder $SAIS_DATA); default: that of the run."""
    split: str | None = None
    """Split to evaluate on; default: the run's validation split, or valid of --data."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading --data."""
    out: Path | None = None
    """HTML file to write; default: report.html in the folder of the run, report_SPLIT.html for another split."""
    overwrite: bool = False
    """Replace any existing file, not only a report; never one that is read."""
    inference: Annotated[InferenceOptions, FLAT] = field(default_factory=InferenceOptions)
    workers: Workers = 2
    """Number of processes that read images."""
    skip_broken: bool = False
    """Skip and count images that cannot be read, instead of stopping."""


def run(argv: Sequence[str]) -> int:
    """Run `sais report`."""
    arguments = parse(ReportArguments, argv, "sais report RUN")
    need_torch("report")
    record = read_run(arguments.run)
    out = arguments.out or arguments.run / _file_name(arguments, record)
    inputs = [*model_files(arguments.run), *annotation_files(arguments.data)]
    check_outputs([out], inputs, arguments.overwrite, own=written_by(PAGE))
    from sais.evaluation.evaluate import evaluate
    from sais.reports.run_report import write_report

    evaluation, weights, missing = None, "", _no_model(arguments.run)
    if not missing:
        from sais.checkpoint import find_checkpoint

        weights = find_checkpoint(arguments.run).name
        options = arguments.inference
        predictor = open_predictor("report", arguments.run, options)
        split, missing = _dataset_split(arguments, record, tuple(predictor.class_names))
        if split is not None:
            check_outputs([out], image_files(split), arguments.overwrite, own=written_by(PAGE))
            with progress_bar("evaluating", len(split.images)) as progress:
                evaluation = evaluate(
                    predictor, split, options.read_batch_size, arguments.workers, arguments.skip_broken, progress
                )
    if missing:
        print_text(missing)
    print_text(f"wrote {write_report(arguments.run, evaluation, missing, out, weights)}")
    return 0


def _file_name(arguments: ReportArguments, record: RunRecord) -> str:
    """Return report.html for the validation split of the run's own data, else a name with data set and split."""
    from sais.data.paths import locate

    own = record.paths.get("valid") or "valid"
    split = arguments.split or ("valid" if arguments.data is not None else own)
    parts = [] if split == own else [split]
    if arguments.data is not None:
        root = record.paths.get("data")
        data = locate(arguments.data).resolve()
        parts = parts if root is not None and data == Path(root).resolve() else [data.name, *parts]
    return "_".join(["report", *(part.replace("/", "-").replace(":", ".") for part in parts)]) + ".html"


def _no_model(folder: Path) -> str:
    """Return a sentence if the run has not saved a model yet, otherwise an empty string."""
    if any((folder / f"{name}.safetensors").is_file() for name in ("model", "best", "last")):
        return ""
    return "The run has not saved a model yet, so that there is nothing to evaluate."


def _dataset_split(
    arguments: ReportArguments, record: RunRecord, class_names: tuple[str, ...]
) -> tuple[DatasetSplit | None, str]:
    """Return the split to evaluate on, or None and the reason."""
    from sais.data.formats import read_dataset
    from sais.data.objects import is_object_name
    from sais.data.paths import DataPaths, locate, stored_fields
    from sais.trust import check_trusted

    if arguments.data is not None:
        split = read_dataset(locate(arguments.data), arguments.split or "valid", class_names, options=arguments.reading)
        return split, ""
    paths = stored_fields(record.paths)
    data = paths.get("data")
    if data is not None and is_object_name(data):
        check_trusted({str(data): "data"}, str(arguments.run / "log.jsonl"), arguments.inference.trust)
    if arguments.split is not None:
        if paths.get("data") is None:
            raise InputError("sais report: the data of the run has no splits by name. Give --data DIR with --split.")
        paths |= {"valid": arguments.split, "valid_annotations": None, "valid_images": None}
    try:
        run_split = DataPaths(**paths).read_valid(class_names)
    except SaisError as error:
        return None, f"The data of the run cannot be read ({error}); evaluate on other data with --data DIR."
    return run_split, "" if run_split is not None else "The data set has no validation split to evaluate on."
