"""The accounting of label files: an entry that is neither an object nor counted is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from peers.fuzz.label_formats import lost_entries, write_datumaro, write_panoptic, write_xml
from sais.data.convert import convert
from sais.data.formats import list_splits, read_dataset


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme", "datumaro"])
def test_lost_entries_counts_what_is_missing(shapes: Path, tmp_path: Path, format: str) -> None:
    data = tmp_path / format
    if format == "datumaro":
        write_datumaro(shapes, data)
    else:
        convert(shapes, data, format)
    for name in list_splits(data):
        split = read_dataset(data, name)
        assert lost_entries(format, data, split) == 0
        first = next(record for record in split.images if record.annotations)
        images = tuple(replace(r, annotations=r.annotations[1:]) if r is first else r for r in split.images)
        assert lost_entries(format, data, replace(split, images=images)) == 1


def test_formats_that_are_written_for_the_cases_have_the_objects_of_their_source(shapes: Path, tmp_path: Path) -> None:
    expected = [len(record.annotations) for record in read_dataset(shapes, "train").images]
    for write, origin in ((write_datumaro, "Datumaro"), (write_xml, "Pascal VOC"), (write_panoptic, "COCO panoptic")):
        write(shapes, tmp_path / origin)
        split = read_dataset(tmp_path / origin, "train")
        assert split.origin.startswith(origin)
        assert [len(record.annotations) for record in split.images] == expected
