"""The contents of a data set in a few lines of text: splits, classes, sizes of objects, objects in an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.data.doctor.statistics import SplitStatistics, size_shares
from sais.data.split_summary import summarize
from sais.text import pad, short_name, short_names, text_width


def contents_lines(splits: Sequence[DatasetSplit], statistics: Sequence[SplitStatistics], input_name: str) -> list[str]:
    """Return lines of text about the contents of a data set.

    Args:
        splits: The splits, the training split first.
        statistics: Statistics of each split.
        input_name: What the sizes in the input depend on: "320 x 320, sais-lite".
    """
    lines = [summarize(split, with_notes=False).partition("\n")[0] for split in splits]
    lines += ["", *class_lines(splits, statistics)]
    measured = statistics[0]
    if len(measured.sides):
        lines += ["", *size_lines(measured, short_name(splits[0].name), input_name)]
        counts = measured.objects_per_image
        quantile = f"90 % have at most {int(np.quantile(counts, 0.9, method='inverted_cdf'))}"
        lines.append(f"objects in an image: median {np.median(counts):g}, {quantile}, maximum {counts.max()}")
    return lines


def class_lines(splits: Sequence[DatasetSplit], statistics: Sequence[SplitStatistics]) -> list[str]:
    """Return a table with the number of objects of each class in each split.

    Args:
        splits: The splits.
        statistics: Statistics of each split.
    """
    counts = [
        dict(zip(split.class_names, measured.class_counts.tolist(), strict=True))
        for split, measured in zip(splits, statistics, strict=True)
    ]
    names = list(dict.fromkeys(name for split in splits for name in split.class_names))
    rows = [[str(count.get(name, "-")) for count in counts] for name in names]
    return _table("class", short_names(names), [short_name(split.name) for split in splits], rows)


def size_lines(statistics: SplitStatistics, split: str, input_name: str) -> list[str]:
    """Return a table with the sizes of objects in the image and in the network's input.

    Args:
        statistics: Statistics of a split.
        split: Name of the split.
        input_name: As for `contents_lines`.
    """
    image, network = size_shares(statistics.sides), size_shares(statistics.input_sides)
    rows = [[_share(*own[1:]), _share(*other[1:])] for own, other in zip(image, network, strict=True)]
    columns = ["in the image", f"in the input ({input_name})"]
    return _table(f"objects of {split}", [name for name, _, _ in image], columns, rows)


def _share(count: int, fraction: float) -> str:
    return f"{count} ({100 * fraction:.0f} %)"


def _table(title: str, names: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines: names on the left, columns aligned on the right."""
    width = max(map(text_width, [title, *names]))
    widths = [max(map(text_width, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = []
    for name, cells in zip([title, *names], [columns, *rows], strict=True):
        aligned = (" " * (size - text_width(cell)) + cell for size, cell in zip(widths, cells, strict=True))
        lines.append("  ".join([pad(name, width), *aligned]))
    return lines
