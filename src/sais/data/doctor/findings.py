"""Findings of `sais doctor`: kinds with their severity, and the cases of each with image and annotation ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sais.data.class_selection import MERGED, NOT_CHOSEN
from sais.data.formats import notes as kinds
from sais.data.options import CROWDS_READ, MERGED_IMAGES, REPEATED_OBJECTS
from sais.text import MAX_MESSAGE, printable

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit, ImageRecord
    from sais.results.detections import Detections

Severity = Literal["ERROR", "WARNING", "NOTE"]
SEVERITIES: tuple[Severity, ...] = ("ERROR", "WARNING", "NOTE")
"""An ERROR stops a training run or makes it wrong, a WARNING probably costs accuracy, a NOTE is for information."""
MAX_EXAMPLES = kinds.MAX_EXAMPLES
"""Maximum number of cases printed for a finding."""

REPAIRED = frozenset(
    {
        *(kinds.CLIPPED, kinds.BOX_COMPUTED, kinds.AREA_COMPUTED, kinds.FLAT, kinds.NESTED, kinds.SIZES_READ),
        *(kinds.NUMBER_SIZES, kinds.FLOAT_RLE, kinds.CROWD_TEXT, kinds.IMAGE_ID_NUMBERS, kinds.IMAGE_ID_TEXTS),
        *(kinds.CATEGORY_ID_NUMBERS, kinds.CATEGORY_ID_TEXTS, kinds.ANNOTATION_IDS, kinds.BLANK_NAMES),
        *(kinds.RENAMED_FILES, kinds.FRACTION_OUTLINES, kinds.BOX_FRACTIONS_SCALED),
        *(kinds.NO_LABEL_FILE, kinds.NOT_LABELED, kinds.NOT_LABELME, kinds.SCALED, kinds.DRAWN, kinds.STUFF),
        *(kinds.NO_MASK_FILE, kinds.NOT_EVALUATED),
        *(MERGED, NOT_CHOSEN, CROWDS_READ, MERGED_IMAGES, REPEATED_OBJECTS),  # asked for
    }
)
"""Notes of the reader that cost nothing: NOTE; its other notes are a WARNING."""


@dataclass(frozen=True)
class ImageReference:
    """An image of a split. `ImageRecord`s are found by split and id; names may occur more than once."""

    split: str
    """Name of the split."""
    image_id: int
    """`ImageRecord.id`."""
    name: str
    """`ImageRecord.name`: the file name, or "image 7" if the image is not in a file."""
    path: Path | None
    """The image's file; None if the image is not in a file."""

    def to_dict(self) -> dict[str, Any]:
        """Return the reference for JSON."""
        path = None if self.path is None else str(self.path)
        return {"split": self.split, "image_id": self.image_id, "image": self.name, "path": path}


@dataclass(frozen=True)
class Case:
    """One case of a finding."""

    text: str
    """The case in one line, with the image's name and the annotation ids."""
    image: ImageReference | None = None
    """The image concerned; None if the case is about a class, a file or the whole split."""
    annotation_ids: tuple[int, ...] = ()
    """Ids of the objects concerned, all of `image`; empty if the case is about the whole image."""
    others: tuple[ImageReference, ...] = ()
    """Other images concerned, as the one that `image` is a copy of."""
    detections: Detections | None = None
    """Detections of a model on `image` that contradict its labels."""

    def to_dict(self) -> dict[str, Any]:
        """Return the case for JSON."""
        values: dict[str, Any] = {"text": self.text} | ({} if self.image is None else self.image.to_dict())
        values["annotation_ids"] = list(self.annotation_ids)
        if self.detections is not None:
            names, found = self.detections.class_names, self.detections
            rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
            values["detections"] = [
                {"class": names[label], "score": round(score, 4), "box": [round(edge, 2) for edge in box]}
                for label, score, box in rows
            ]
        return values | ({"others": [other.to_dict() for other in self.others]} if self.others else {})


@dataclass(frozen=True)
class Finding:
    """One kind of finding, with the number of cases."""

    severity: Severity
    kind: str
    """One of the names in `sais.data.doctor.kinds`, or a note or problem of a reader (`sais.data.formats.notes`)."""
    count: int
    cases: tuple[Case, ...] = ()
    """The first cases, or all."""
    remark: str = ""
    """A sentence about all cases."""

    def lines(self) -> list[str]:
        """Return lines of text: the kind with its number, and the first cases."""
        shown = [case.text for case in self.cases[:MAX_EXAMPLES]]
        texts = [self.remark, *shown] if self.remark else shown
        lines = [
            f"  {self.severity}: {printable(self.kind)}: {self.count}",
            *(f"    {printable(text, MAX_MESSAGE)}" for text in texts),
        ]
        more = self.count - len(shown)
        return [*lines, f"    and {more} more"] if shown and more > 0 else lines

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        values = {"severity": self.severity, "kind": self.kind, "count": self.count, "remark": self.remark}
        return values | {"examples": [case.text for case in self.cases], "cases": [c.to_dict() for c in self.cases]}


def image_reference(split: DatasetSplit, record: ImageRecord) -> ImageReference:
    """Return the reference of an image of a split."""
    path = record.source if isinstance(record.source, Path) else None
    return ImageReference(split.name, record.id, record.name, path)


def note_severity(note: str) -> Severity:
    """Return the severity of a note of `DatasetSplit.notes`."""
    return "NOTE" if note in REPAIRED else "WARNING"
