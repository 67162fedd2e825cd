"""The results of `sais doctor`, split by split, as text and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sais.commands.data_remarks import name_data_options
from sais.text import print_lines, print_text, printable, short_name, short_names

if TYPE_CHECKING:
    from sais.data.doctor.report import CheckReport
    from sais.recipes.recommendation import Recommendation


@dataclass
class SplitResult:
    """The result of one split."""

    report: CheckReport | None
    """None if the split cannot be read."""
    errors: list[str]
    """Errors of the whole split."""
    warnings: list[str]

    @property
    def ok(self) -> bool:
        """Whether there is no ERROR."""
        return self.report is not None and self.report.ok and not self.errors

    @property
    def has_warning(self) -> bool:
        """Whether there is a WARNING."""
        findings = [] if self.report is None else self.report.all_findings()
        return bool(self.warnings) or any(finding.severity == "WARNING" for finding in findings)


def compare_categories(results: Mapping[str, SplitResult]) -> None:
    """Add the categories of the training split, which is the first, that another split lacks.

    Without other names for them it is a warning: the split has no objects of these classes.

    Args:
        results: Result of each split by name.
    """
    classes: tuple[str, ...] = ()
    first = ""
    for name, result in results.items():
        if result.report is None:
            continue
        own = result.report.split.class_names
        missing = [class_name for class_name in classes if class_name not in own]
        unknown = [class_name for class_name in own if classes and class_name not in classes]
        if missing and (unknown or len(missing) == len(classes)):
            result.errors.append(f"categories of {first} missing here: {', '.join(short_names(missing))}; add them")
        elif missing:
            result.warnings.append(f"categories of {first} missing here: {', '.join(short_names(missing))}")
        elif unknown:
            result.warnings.append(f"categories missing in {first}, not evaluated: {', '.join(short_names(unknown))}")
        if not classes:
            classes, first = own, name


def print_results(
    results: Mapping[str, SplitResult], whole: Collection[str], recommendation: Recommendation | None
) -> None:
    """Print the contents of the data set, then the findings of each split, errors first.

    Args:
        results: Result of each split by name.
        whole: Names of the splits that contain all images of the training split.
        recommendation: How to train on the data set.
    """
    from sais.data.doctor.statistics import measure_split
    from sais.data.doctor.summary import contents_lines

    reports = [result.report for result in results.values() if result.report is not None]
    if reports:
        if reports[0].split.origin:
            print_text(f"found {printable(reports[0].split.origin)}")
        size, name = _input(recommendation)
        statistics = [measure_split(report.split, size) for report in reports]
        print_lines("\n".join(contents_lines([report.split for report in reports], statistics, name)))
    for name, result in results.items():
        print_text("")
        print_text(f"== {short_name(name)}")
        if name in whole:
            print_text("  contains all images of train: not compared with the other splits")
        lines = [] if result.report is None else result.report.finding_lines()
        if lines:
            print_lines(name_data_options("\n".join(lines)))
        for severity, texts in (("ERROR", result.errors), ("WARNING", result.warnings)):
            for text in texts:
                print_text(f"  {severity}: {printable(text)}")
        if not lines and not result.errors and not result.warnings:
            print_text("  no problems found")
    print_text("")


def results_to_dict(results: Mapping[str, SplitResult], recommendation: Recommendation | None) -> dict[str, Any]:
    """Return the results for JSON.

    Args:
        results: Result of each split by name.
        recommendation: How to train on the data set.
    """
    content: dict[str, Any] = {
        "ok": all(result.ok for result in results.values()),
        "splits": {name: _to_dict(result, recommendation) for name, result in results.items()},
    }
    return content | ({} if recommendation is None else {"recommendation": asdict(recommendation)})


def _to_dict(result: SplitResult, recommendation: Recommendation | None) -> dict[str, Any]:
    from sais.data.doctor.statistics import measure_split, size_shares

    content: dict[str, Any] = {"ok": False, "findings": []}
    if result.report is not None:
        statistics = measure_split(result.report.split, _input(recommendation)[0])
        sizes = {"image": statistics.sides, "input": statistics.input_sides}
        shares = {place: {name: count for name, count, _ in size_shares(sides)} for place, sides in sizes.items()}
        content = result.report.to_dict() | {"object_sizes": shares}
    return content | {"ok": result.ok, "errors": result.errors, "warnings": result.warnings}


def _input(recommendation: Recommendation | None) -> tuple[tuple[int, int], str]:
    """Return the (H, W) of the network's input and a name for it."""
    from sais.recipes import recipe
    from sais.recipes.recommendation import FIRST_RECIPE

    if recommendation is None:
        size, name = recipe(FIRST_RECIPE).input.size, FIRST_RECIPE
    else:
        size, name = recommendation.size, recommendation.recipe
    return (size[0], size[1]), f"{size[0]} x {size[1]}, {name}"
