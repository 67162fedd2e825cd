"""Kinds of findings of `sais check` and their severity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sais.data.class_selection import MERGED, NOT_CHOSEN
from sais.data.formats import notes as kinds
from sais.data.options import CROWDS_READ, MERGED_IMAGES, REPEATED_OBJECTS
from sais.text import MAX_MESSAGE, printable

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
class Finding:
    """One kind of finding, with the number of cases."""

    severity: Severity
    kind: str
    count: int
    examples: tuple[str, ...] = ()
    """The first cases, or all."""
    remark: str = ""
    """A sentence about all cases."""

    def lines(self) -> list[str]:
        """Return lines of text: the kind with its number, and the first cases."""
        shown = self.examples[:MAX_EXAMPLES]
        texts = [self.remark, *shown] if self.remark else shown
        lines = [
            f"  {self.severity}: {printable(self.kind)}: {self.count}",
            *(f"    {printable(text, MAX_MESSAGE)}" for text in texts),
        ]
        more = self.count - len(shown)
        return [*lines, f"    and {more} more"] if shown and more > 0 else lines

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        values = {"severity": self.severity, "kind": self.kind, "count": self.count}
        return values | {"examples": list(self.examples), "remark": self.remark}


def note_severity(note: str) -> Severity:
    """Return the severity of a note of `DatasetSplit.notes`."""
    return "NOTE" if note in REPAIRED else "WARNING"
