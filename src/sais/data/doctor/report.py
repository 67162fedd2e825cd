"""The report of a check: the findings of one split, with those of reading its annotations."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.doctor import kinds
from sais.data.doctor.findings import SEVERITIES, Case, Finding, Severity, image_reference, note_severity
from sais.data.doctor.images import ImageFacts
from sais.data.doctor.places import Places
from sais.data.flip_pairs import find_flip_pairs
from sais.data.packed_annotations import object_columns
from sais.data.remarks import describe_crowds
from sais.data.split_summary import summarize
from sais.io.images import SEVERAL_PAGES
from sais.text import short_names

_NAMED_IDS = 10
"""Maximum number of category ids named."""


@dataclass
class CheckReport:
    """The findings of a check."""

    split: DatasetSplit
    """The split that was checked."""
    findings: dict[str, list[Case]] = field(default_factory=dict)
    """Kind of `sais.data.doctor.kinds` -> its cases."""
    problems: Mapping[str, list[str]] = field(default_factory=dict)
    """Kind of problem -> an error message for each entry that could not be read."""
    facts: list[ImageFacts] = field(default_factory=list)
    """What the examination of each image of the split has shown, in the order of the split."""
    conversions: Counter[str] = field(default_factory=Counter)
    """How decoded images were converted to 8-bit RGB, such as "grayscale" -> number of images."""
    added: list[Finding] = field(default_factory=list)
    """Findings of others, such as those of a model."""

    @property
    def ok(self) -> bool:
        """Whether training can start: there is no ERROR."""
        return not self.problems and not any(kind in self.findings for kind in kinds.ERRORS)

    @cached_property
    def places(self) -> Places:
        """Images of the split by annotation id and name."""
        return Places(self.split)

    def add(
        self,
        kind: str,
        text: str,
        record: ImageRecord | None = None,
        annotation_ids: Iterable[int] = (),
        others: Iterable[tuple[DatasetSplit, ImageRecord]] = (),
    ) -> None:
        """Add one case of a finding.

        Args:
            kind: One of `sais.data.doctor.kinds`.
            text: The case in one line.
            record: The image concerned.
            annotation_ids: Ids of its objects concerned.
            others: Other images concerned, with their splits.
        """
        image = None if record is None else image_reference(self.split, record)
        references = tuple(image_reference(split, other) for split, other in others)
        self.findings.setdefault(kind, []).append(Case(text, image, tuple(annotation_ids), references))

    def add_finding(self, finding: Finding) -> None:
        """Add a finding with a severity of its own."""
        self.added.append(finding)

    def all_findings(self) -> list[Finding]:
        """Return all findings, those of reading the annotations included: errors first, then warnings and notes."""
        notes, examples = self.split.notes, self.split.examples
        findings = [
            Finding("ERROR", kind, len(messages), tuple(map(self.places.case, messages)))
            for kind, messages in self.problems.items()
        ]
        findings += [
            Finding(kinds.kind_severity(kind), kind, len(cases), tuple(cases)) for kind, cases in self.findings.items()
        ]
        findings += [
            Finding(note_severity(note), note, count, tuple(map(self.places.case, examples.get(note, ()))))
            for note, count in notes.items()
        ]
        for conversion, count in self.conversions.items():
            kind = f"images {conversion}" if conversion == SEVERAL_PAGES else f"images converted to RGB: {conversion}"
            findings.append(Finding("WARNING" if conversion == SEVERAL_PAGES else "NOTE", kind, count))
        findings += [*self._split_findings(), *self.added]
        return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))

    def _split_findings(self) -> list[Finding]:
        """Return findings about the split as a whole."""
        split = self.split
        columns = object_columns(split.images)
        labels, outlined = columns.labels[~columns.crowds], columns.outlined[~columns.crowds]
        findings = []
        if columns.crowds.any():
            text = describe_crowds(split)
            crowds = [(r, a) for r in split.images for a in r.annotations if a.crowd]
            cases = tuple(Case(f"{r.name}: annotation {a.id}", image_reference(split, r), (a.id,)) for r, a in crowds)
            findings.append(
                Finding("WARNING" if ";" in text else "NOTE", kinds.CROWDS, len(crowds), cases, remark=text)
            )
        empty = self._empty_classes(set(labels.tolist()))
        if empty and len(labels):  # without any object there is a finding of its own
            named = short_names(empty)
            findings.append(Finding("NOTE", kinds.EMPTY_CLASS, len(empty), remark=", ".join(named)))
        count, gaps = _missing_ids(split.category_ids)
        if count:
            more = ", ..." if count > len(gaps) else ""
            ids = f"{min(split.category_ids)} to {max(split.category_ids)} without "
            findings.append(Finding("NOTE", kinds.ID_GAPS, count, remark=ids + ", ".join(map(str, gaps)) + more))
        pairs = find_flip_pairs(split.class_names)
        if pairs:
            findings.append(Finding("NOTE", kinds.FLIP_PAIRS, len(pairs), tuple(map(Case, pairs))))
        if not len(labels) and split.images:
            severity: Severity = "NOTE" if split.name.startswith("test") else "WARNING"  # COCO's test-dev has none
            remark = "training on them teaches background only, and metrics are undefined"
            findings.append(Finding(severity, kinds.NO_LABELS, len(split.images), remark=remark))
        if len(labels) and not outlined.any():
            remark = "training on them makes a model without masks, which predicts boxes only"
            findings.append(Finding("WARNING", kinds.NO_OUTLINES, len(labels), remark=remark))
        return findings

    def _empty_classes(self, used: set[int]) -> list[str]:
        """Return the names of the classes without objects in any split."""
        elsewhere = {case.text.partition(":")[0] for case in self.findings.get(kinds.MISSING_IN_SPLIT, ())}
        names = [name for label, name in enumerate(self.split.class_names) if label not in used]
        return [name for name in names if name not in elsewhere]

    def summary(self) -> str:
        """Return lines of text: the contents of the split, and the first cases of each finding, errors first."""
        lines = summarize(self.split, with_notes=False).splitlines()
        return "\n".join([*lines, *(self.finding_lines() or ["  no problems found"])])

    def finding_lines(self) -> list[str]:
        """Return lines of text: the first cases of each finding, errors first."""
        return [line for finding in self.all_findings() for line in finding.lines()]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of the split and the findings for JSON."""
        columns = object_columns(self.split.images)
        counts = np.bincount(columns.labels[~columns.crowds], minlength=len(self.split.class_names)).tolist()
        return {
            "ok": self.ok,
            "images": len(self.split.images),
            "objects": sum(counts),
            "crowds": int(columns.crowds.sum()),
            "images_without_objects": len(self.split.images) - len(np.unique(columns.images)),
            "classes": {name: counts[label] for label, name in enumerate(self.split.class_names)},
            "findings": [finding.to_dict() for finding in self.all_findings()],
        }


def _missing_ids(ids: Sequence[int]) -> tuple[int, list[int]]:
    """Return how many numbers between the smallest and the largest id are no ids, and the first of them.

    Ids may be billions, as those of hashes, so that the numbers between them are not listed.
    """
    ordered = sorted(set(ids))
    gaps = (range(low + 1, high) for low, high in itertools.pairwise(ordered))
    first = list(itertools.islice(itertools.chain.from_iterable(gaps), _NAMED_IDS))
    return (ordered[-1] - ordered[0] + 1 - len(ordered) if ordered else 0), first
