"""The annotations of a COCO file as arrays, before anything is concluded from them.

An entry in the usual form, which is nearly every entry of nearly every file, takes 500 bytes instead of 3,000. Other
entries are kept in the form of `marshal`, which does not end at Python's limit of recursion, and `coco_objects` reads
them one by one.

Legend: R entries in the usual form, P polygons, V coordinates.
"""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sais.data.packed_annotations import PackedPolygons

_CHUNK = 4096
"""Number of entries that are converted together."""
_EXACT = 2.0**53
"""Numbers from which float64 does not hold every integer."""
_MAX_AREA = 1e300
_NUMBERS = frozenset((int, float))
_TYPES = {
    **dict.fromkeys(("positions", "ids", "image_ids", "category_ids", "lengths"), np.int64),
    **dict.fromkeys(("boxes", "areas", "extents", "coordinates"), np.float64),
    **dict.fromkeys(("crowds", "integers"), np.bool_),
    "part_counts": np.int32,
}
"""Types of the arrays of a chunk."""


@dataclass(frozen=True, eq=False)
class Entries:
    """The annotations of a file."""

    count: int
    """Number of annotations."""
    others: dict[int, tuple[Any, bytes]]
    """Position in the file -> stated id and marshaled entry, for those that are not in the usual form."""
    positions: np.ndarray
    """(R,) int64 positions in the file of the entries in the usual form."""
    ids: np.ndarray
    """(R,) int64."""
    image_ids: np.ndarray
    """(R,) int64."""
    category_ids: np.ndarray
    """(R,) int64."""
    boxes: np.ndarray
    """(R, 4) float64 x y width height."""
    areas: np.ndarray
    """(R,) float64, above 0."""
    crowds: np.ndarray
    """(R,) bool."""
    extents: np.ndarray
    """(R, 4) float64 x1 y1 x2 y2 of the outlines; NaN without an outline."""
    first_parts: np.ndarray
    """(R,) int64 number of the first polygon."""
    part_counts: np.ndarray
    """(R,) int32 number of polygons, 0 without an outline."""
    polygons: PackedPolygons
    """Polygons of all entries in the usual form, in the order of the file."""

    def point_counts(self) -> np.ndarray:
        """Return the number of points of each outline, (R,) int64."""
        ends = np.concatenate([[0], self.polygons.ends])
        return (ends[self.first_parts + self.part_counts] - ends[self.first_parts]) // 2

    def raw(self, position: int) -> Any:
        """Return the entry at a position in the file as the file states it."""
        if position in self.others:
            return marshal.loads(self.others[position][1])
        row = int(np.searchsorted(self.positions, position))
        first, count = int(self.first_parts[row]), int(self.part_counts[row])
        return {
            "id": int(self.ids[row]),
            "image_id": int(self.image_ids[row]),
            "category_id": int(self.category_ids[row]),
            "bbox": self.boxes[row].tolist(),
            "area": float(self.areas[row]),
            "iscrowd": int(self.crowds[row]),
            "segmentation": self.polygons.lists(first, count) if count else [],
        }


@dataclass
class _Chunk:
    """Entries in the usual form, one a row in each list."""

    positions: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)
    boxes: list[float] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    crowds: list[int] = field(default_factory=list)
    part_counts: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Number of coordinates of each polygon."""
    coordinates: list[Any] = field(default_factory=list)


class EntryCollector:
    """Collects the annotations of a file as they are parsed, so that only a part of them are Python objects."""

    def __init__(self) -> None:
        self._count = 0
        self._others: dict[int, tuple[Any, bytes]] = {}
        self._columns = {name: bytearray() for name in _TYPES}  # they grow without being copied

    def extend(self, entries: list[Any]) -> None:
        """Append entries."""
        for start in range(0, len(entries), _CHUNK):
            part = entries[start : start + _CHUNK]
            chunk = self._convert(part, frozenset())
            if chunk is None:
                chunk = self._convert(part, frozenset(i for i, raw in enumerate(part) if not _is_exact(raw)))
                assert chunk is not None
            for name, values in chunk.items():
                self._columns[name] += values.reshape(-1).view(np.uint8).data
            self._count += len(part)

    def finish(self) -> Entries:
        """Return all entries; the collector is empty afterwards."""
        columns: dict[str, Any] = {
            name: np.frombuffer(values, _TYPES[name], len(values) // np.dtype(_TYPES[name]).itemsize)
            for name, values in self._columns.items()
        }
        columns |= {name: columns[name].reshape(-1, 4) for name in ("boxes", "extents")}
        lengths, coordinates, integers = (columns.pop(name) for name in ("lengths", "coordinates", "integers"))
        polygons = PackedPolygons(np.cumsum(lengths), coordinates, integers if integers.any() else integers[:0])
        first_parts = np.cumsum(columns["part_counts"], dtype=np.int64) - columns["part_counts"]
        return Entries(self._count, self._others, first_parts=first_parts, polygons=polygons, **columns)

    def _convert(self, entries: list[Any], others: frozenset[int]) -> dict[str, np.ndarray] | None:
        """Return the arrays of entries; None if a value is not exactly one of their types.

        Args:
            entries: Entries.
            others: Positions in `entries` of those that are not in the usual form.
        """
        chunk = _Chunk()
        unusual = {}
        for position, raw in enumerate(entries):
            if position in others or not _add(chunk, raw, self._count + position):
                stated_id = raw.get("id") if isinstance(raw, dict) else None
                unusual[self._count + position] = stated_id, marshal.dumps(raw)
        try:
            boxes, coordinates = _floats(chunk.boxes), _floats(chunk.coordinates)
            numbers = [np.array(array("q", v)) for v in (chunk.ids, chunk.image_ids, chunk.category_ids)]
        except (TypeError, OverflowError):  # text, a list, an integer of 20 digits
            return None
        if not (np.all(np.abs(coordinates) < _EXACT) and np.all(np.abs(boxes) < _EXACT)):  # NaN is not below
            return None
        integers = _integers(chunk.coordinates, coordinates)
        if integers is None:
            return None
        self._others |= unusual
        part_counts, lengths = np.array(chunk.part_counts, np.int32), np.array(chunk.lengths, np.int64)
        return {
            "positions": np.array(chunk.positions, np.int64),
            **dict(zip(("ids", "image_ids", "category_ids"), numbers, strict=True)),
            "boxes": boxes.reshape(-1, 4),
            "areas": np.array(chunk.areas, np.float64),
            "crowds": np.array(chunk.crowds, bool),
            "part_counts": part_counts,
            "lengths": lengths,
            "coordinates": coordinates,
            "integers": integers,
            "extents": _extents(coordinates, lengths, part_counts),
        }


def collect(entries: Iterable[Any]) -> Entries:
    """Return annotations that are in memory already as arrays."""
    collector = EntryCollector()
    collector.extend(list(entries))
    return collector.finish()


def _add(chunk: _Chunk, raw: Any, position: int) -> bool:
    """Append an entry to a chunk and return True, or return False if it is not in the usual form."""
    try:
        annotation_id, image_id, category_id = raw["id"], raw["image_id"], raw["category_id"]
        box, area, crowd, parts = raw["bbox"], raw["area"], raw.get("iscrowd"), raw.get("segmentation")
    except (TypeError, KeyError, AttributeError):
        return False
    if not (
        type(annotation_id) is type(image_id) is type(category_id) is int
        and type(box) is list
        and len(box) == 4
        and _NUMBERS.issuperset(map(type, box))
        and type(area) in _NUMBERS
        and 0 < area < _MAX_AREA
        and (crowd is None or type(crowd) is int)
    ):
        return False
    count = 0
    if parts:
        if type(parts) is not list:
            return False
        for part in parts:
            if type(part) is not list or len(part) < 6 or len(part) % 2:
                return False
        for part in parts:
            chunk.lengths.append(len(part))
            chunk.coordinates += part
        count = len(parts)
    elif parts is not None and not isinstance(parts, (list, dict)):
        return False
    chunk.positions.append(position)
    chunk.ids.append(annotation_id)
    chunk.image_ids.append(image_id)
    chunk.category_ids.append(category_id)
    chunk.boxes += box
    chunk.areas.append(area)
    chunk.crowds.append(bool(crowd))
    chunk.part_counts.append(count)
    return True


def _floats(values: list[Any]) -> np.ndarray:
    """Return numbers as float64; raises TypeError for text, which numpy would convert."""
    return np.array(array("d", values))


def _integers(values: list[Any], floats: np.ndarray) -> np.ndarray | None:
    """Return (V,) bool, which coordinates are integers in the file; None if one is true or false."""
    integers = np.zeros(len(values), bool)
    whole = np.flatnonzero(floats == np.rint(floats))
    if not len(whole):
        return integers
    types = list(map(type, map(values.__getitem__, whole.tolist())))
    if not _NUMBERS.issuperset(types):
        return None
    integers[whole] = [kind is int for kind in types]
    return integers


def _is_exact(raw: Any) -> bool:
    """Return whether the arrays hold exactly the numbers of an entry."""
    chunk = _Chunk()
    if not _add(chunk, raw, 0):
        return False
    try:
        floats = _floats(chunk.coordinates), _floats(chunk.boxes)
        array("q", [*chunk.ids, *chunk.image_ids, *chunk.category_ids])
    except (TypeError, OverflowError):
        return False
    exact = all(np.all(np.abs(values) < _EXACT) for values in floats)
    return exact and _integers(chunk.coordinates, floats[0]) is not None


def _extents(coordinates: np.ndarray, lengths: np.ndarray, part_counts: np.ndarray) -> np.ndarray:
    """Return x1 y1 x2 y2 of the outlines, (R, 4) float64."""
    extents = np.full((len(part_counts), 4), np.nan)
    rows = np.flatnonzero(part_counts)
    if len(rows):
        ends = np.concatenate([[0], np.cumsum(lengths)])
        starts = ends[(np.cumsum(part_counts) - part_counts)[rows]] // 2  # rows without an outline take no coordinates
        x, y = coordinates[0::2], coordinates[1::2]
        edges = [np.minimum.reduceat(x, starts), np.minimum.reduceat(y, starts)]
        extents[rows] = np.stack([*edges, np.maximum.reduceat(x, starts), np.maximum.reduceat(y, starts)], 1)
    return extents
