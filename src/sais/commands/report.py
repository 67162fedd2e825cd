"""`sais report RUN`: the page of a run, with its model judged on the data it was measured on, or on other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sais.commands.arguments import check_writable, need_torch, parse, progress_bar
from sais.commands.open_predictor import Way, open_model
from sais.errors import SaisError
from sais.reports.run_record import RunRecord, read_run

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit


@dataclass(frozen=True)
class ReportArguments:
    """Write the page of a run: RUN/report.html, one file that any browser opens without a network.

    The run's model is judged on the validation split the run was measured on, or on --data; without either, the page
    has what the run's log tells.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    data: Path | None = None
    """Folder of the data set to judge on (also a name in the folder $SAIS_DATA)."""
    split: str = "valid"
    """Split of --data."""
    out: Path | None = None
    """The file to write; report.html in the run's folder when not given."""
    batch: int = 8
    """Images in one pass."""
    workers: int = 2
    """Processes that read images."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and say how many, instead of stopping."""


def run(argv: Sequence[str]) -> int:
    """Run `sais report`."""
    arguments = parse(ReportArguments, argv, "sais report RUN")
    need_torch("report")
    if arguments.batch < 1:
        raise SaisError(f"--batch {arguments.batch}: must be 1 or more")
    record = read_run(arguments.run)
    check_writable((arguments.out or arguments.run / "report.html").parent)
    from sais.evaluation.evaluate import evaluate
    from sais.reports.run_report import write_report

    evaluation, weights, missing = None, "", _no_model(arguments.run)
    if not missing:
        from sais.checkpoint import find_checkpoint

        weights = find_checkpoint(arguments.run).name
        predictor = open_model("report", arguments.run, Way(arguments.device))
        index, missing = _index(arguments, record, tuple(predictor.class_names))
        if index is not None:
            with progress_bar("judging", len(index.images)) as progress:
                evaluation = evaluate(
                    predictor, index, arguments.batch, arguments.workers, arguments.skip_broken, progress
                )
    if missing:
        print(missing)
    print(f"wrote {write_report(arguments.run, evaluation, missing, arguments.out, weights)}")
    return 0


def _no_model(folder: Path) -> str:
    """A sentence where the run has not saved anything yet."""
    if any((folder / f"{name}.safetensors").is_file() for name in ("model", "best", "last")):
        return ""
    return "The run has not saved a model yet, so there is nothing to judge."


def _index(arguments: ReportArguments, record: RunRecord, classes: tuple[str, ...]) -> tuple[DatasetSplit | None, str]:
    """What to judge on, or why there is nothing."""
    from sais.data.formats import read_dataset
    from sais.data.paths import DataPaths, locate

    if arguments.data is not None:
        return read_dataset(locate(arguments.data), arguments.split, classes), ""
    if not record.paths:
        return None, "The run's log does not say where its data lie; --data DIR judges the model on them."
    places: dict[str, Any] = {}
    for field in fields(DataPaths):
        if field.name in record.paths:
            value = record.paths[field.name]
            places[field.name] = Path(value) if value is not None and "Path" in str(field.type) else value
    try:
        index = DataPaths(**places).valid_index(classes)
    except SaisError as error:
        return None, f"The data of the run cannot be read ({error}); --data DIR judges the model on others."
    return index, "" if index is not None else "The data set has no validation split, so there is nothing to judge on."
