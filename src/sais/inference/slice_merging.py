"""Across the seams of tiles: which detections are one object, and what they make together. Numpy only.

Two tiles that overlap look at the same pixels there, their shared region. Two detections of one class, one of each, are
one object where their masks agree inside that region; what lies outside says nothing, since only one of the tiles saw
it. Agreement runs on from tile to tile, so an object that spans ten of them is one. The rules, for what a network gets
wrong (a perfect one needs the first alone):

1. *Agree*: at least the share `agreement` of the smaller of the two is in both. Of the smaller, because of an object
   that a border cuts a network often finds only a part.
2. *An edge is no evidence*: a mask that lies for the most part outside of the region shows only its edge there, and an
   edge a few pixels over the neighbor is no part of it: then the two must agree for half as much of the larger too.
3. *The best partner first*: of several that a piece agrees with in one tile, the one that agrees best; another only
   where that has no better one itself (two legs in one tile, the whole animal in the next).
4. *Whoever sees it whole knows*: two pieces of one tile stay apart, whatever the neighbor thinks, unless its border
   cuts both: one of them uncut is an object by itself, however closely it touches the other.
5. *No leavings*: a fragment that a border cuts goes, where a tile that sees all of it and beyond the cut has another
   object of the class over it and nothing that agreed with the fragment. (So do several that agreed, if all are such.)

Where one of two has no mask, or one without a pixel, boxes take the place of masks. Masks that are merely empty inside
the region agree in nothing: the two may be neighbors as well as one, and if they are one, another region tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.mask_ops import Window, count_pixels, intersect_windows, intersection_area, union, window_of

CUT = 0.02
"""Share of a tile's side: a box that ends so near to its tile's border is taken to be cut by it. Predicted boxes of cut
objects end a few pixels off the border; an uncut one that is taken for cut loses little (rules 4 and 5)."""


def merge_slices(found: Sequence[Detections], windows: np.ndarray, agreement: float = 0.5) -> Detections:
    """The objects of the whole image.

    Masks of one object are united, its box is the smallest around its pieces' boxes, its score the greatest of theirs:
    that of the tile which saw most of it, as a rule; a mean would punish an object for lying on a seam.

    Args:
        found: T Detections, at least one, in the pixels of the whole image.
        windows: (T, 4) ``x1 y1 x2 y2`` of the tiles they are of.
        agreement: share of the smaller of two masks, inside the region both tiles see, that must be in both.

    Returns:
        Detections of the image, scores descending.
    """
    pieces = _Pieces(found, windows)
    groups = _Groups(pieces)
    # The best agreement first; of equals the earlier.
    for _, first, second in sorted(_links(pieces, agreement), key=lambda link: (-link[0], link[1], link[2])):
        groups.join(first, second)
    kept = [m for m in groups.all() if not all(_is_leaving(pieces, k, m, agreement) for k in m)]
    kept.sort(key=lambda members: -float(pieces.scores[members].max()))
    patches = []
    if pieces.patches:
        patches = [union([pieces.patches[k] for k in m]) if len(m) > 1 else pieces.patches[m[0]] for m in kept]
    boxes = [np.concatenate([pieces.boxes[m, :2].min(0), pieces.boxes[m, 2:].max(0)]) for m in kept]
    return Detections(
        found[0].image_size,
        np.array(boxes, np.float32),
        np.array([pieces.scores[m].max() for m in kept]),
        np.array([pieces.labels[m[0]] for m in kept]),
        found[0].class_names,
        patches,
    )


class _Pieces:
    """What all tiles found, side by side: N pieces of objects, in the pixels of the image."""

    def __init__(self, found: Sequence[Detections], windows: np.ndarray) -> None:
        self.windows = np.asarray(windows, np.int64)
        self.tile = np.repeat(np.arange(len(found)), [len(f) for f in found])
        """(N,) which tile each is of; those of tile t are starts[t] .. starts[t + 1] - 1."""
        self.starts = np.searchsorted(self.tile, np.arange(len(found) + 1))
        self.boxes = np.concatenate([f.boxes for f in found])
        self.scores = np.concatenate([f.scores for f in found])
        self.labels = np.concatenate([f.labels for f in found])
        self.patches: list[CroppedMask] = [patch for f in found for patch in f.cropped_masks]
        self.pixels = np.array([p.area for p in self.patches] or np.zeros(len(self.tile)), np.float64)
        """(N,) of each mask; 0 where there is none to compare."""
        self.extents = self.boxes.astype(np.float64)
        """(N, 4) where each shows itself: the window of its mask, or its box."""
        for k in np.flatnonzero(self.pixels):
            self.extents[k] = window_of(self.patches[k])
        height, width = found[0].image_size
        self.views = self.windows[self.tile].reshape(-1, 4)
        """(N, 4) the window of the tile that each is of."""
        near = CUT * (self.views[:, 2:] - self.views[:, :2])
        inner = self.views != np.array([0, 0, width, height])
        self.cut = inner & (np.abs(self.boxes - self.views) <= np.tile(near, 2))
        """(N, 4) whether the left, top, right, bottom border of its tile cuts it; the image's own border does not."""

    def meeting(self, first: int, second: int, region: Window) -> list[list[int]]:
        """Pairs of pieces of two tiles, of one class, that may share something inside the region."""
        one, other = (np.arange(self.starts[t], self.starts[t + 1]) for t in (first, second))
        a, b = self.extents[one][:, None], self.extents[other][None]
        low = np.maximum(np.maximum(a[..., :2], b[..., :2]), region[:2])
        high = np.minimum(np.minimum(a[..., 2:], b[..., 2:]), region[2:])
        alike = (low < high).all(-1) & (self.labels[one][:, None] == self.labels[other][None])
        i, j = np.nonzero(alike)
        return np.stack([one[i], other[j]], 1).tolist()


class _Groups:
    """Pieces joined into objects (union-find), with what keeps two groups apart."""

    def __init__(self, pieces: _Pieces) -> None:
        self.tile: list[int] = pieces.tile.tolist()
        self.cut: list[bool] = pieces.cut.any(1).tolist()
        self.parents = list(range(len(self.tile)))
        self.members: dict[int, list[int]] = {k: [k] for k in self.parents}
        self.partners: set[tuple[int, int]] = set()
        """(piece, tile) where the piece has its best partner."""

    def join(self, first: int, second: int) -> None:
        """One object from now on, unless the rules are against it."""
        sides = (first, self.tile[second]), (second, self.tile[first])
        if all(side in self.partners for side in sides):
            return  # rule 3
        a, b = sorted((self._root(first), self._root(second)), key=lambda root: -len(self.members[root]))
        if a != b:
            if self._apart(a, b):
                return
            self.parents[b] = a
            self.members[a] += self.members.pop(b)
        self.partners.update(sides)

    def all(self) -> list[list[int]]:
        """The pieces of each object, in the order of its first piece."""
        return sorted(sorted(members) for members in self.members.values())

    def _apart(self, a: int, b: int) -> bool:
        """Rule 4: whether a tile has pieces in both groups, not all of them cut."""
        tiles = {self.tile[k] for k in self.members[a]} & {self.tile[k] for k in self.members[b]}
        return any(self.tile[k] in tiles and not self.cut[k] for k in self.members[a] + self.members[b])

    def _root(self, k: int) -> int:
        while self.parents[k] != k:
            self.parents[k] = self.parents[self.parents[k]]
            k = self.parents[k]
        return k


def _links(pieces: _Pieces, least: float) -> Iterator[tuple[float, int, int]]:
    """Pairs that agree, as (how well, piece, piece)."""
    tiles = np.unique(pieces.tile)
    windows = pieces.windows[tiles]
    for i, window in enumerate(windows):
        later = windows[i + 1 :]
        overlapping = ((later[:, :2] < window[2:]) & (window[:2] < later[:, 2:])).all(1)
        for j in np.flatnonzero(overlapping) + i + 1:
            x1, y1, x2, y2 = intersect_windows(tuple(window.tolist()), tuple(windows[j].tolist()))
            region = (x1, y1, x2, y2)
            inside: dict[tuple[int, bool], float] = {}
            for first, second in pieces.meeting(tiles[i], tiles[j], region):
                well = _agreement(pieces, first, second, region, inside, least)
                if well is not None:
                    yield well, first, second


def _agreement(
    pieces: _Pieces, first: int, second: int, region: Window, inside: dict[tuple[int, bool], float], least: float
) -> float | None:
    """How well two pieces agree inside the region: what they share over the larger. None: they are not one object.

    `inside` remembers how much of each piece lies in the region, for its other pairs.
    """
    masks = bool(pieces.pixels[first] and pieces.pixels[second])
    for k in (first, second):
        if (k, masks) not in inside:
            inside[k, masks] = count_pixels(pieces.patches[k], region) if masks else _area(pieces.boxes[k], region)
    smaller, larger = sorted((first, second), key=lambda k: inside[k, masks])
    if not inside[smaller, masks]:
        return None
    if masks:
        shared = float(intersection_area(pieces.patches[first], pieces.patches[second], region))
        whole = float(pieces.pixels[smaller])
    else:
        shared, whole = _area(pieces.boxes[first], pieces.boxes[second], region), _area(pieces.boxes[smaller])
    if shared < least * inside[smaller, masks]:
        return None  # rule 1
    if inside[smaller, masks] < whole / 2 and shared < least / 2 * inside[larger, masks]:
        return None  # rule 2
    return shared / inside[larger, masks]


def _is_leaving(pieces: _Pieces, k: int, members: list[int], least: float) -> bool:
    """Rule 5, for piece k of a group: whether a tile without a piece in the group knows better."""
    views, boxes = pieces.views, pieces.boxes
    cut, box, own = pieces.cut[k], boxes[k], views[k]
    if not cut.any():
        return False
    sees_all = (views[:, :2] <= box[:2]).all(1) & (views[:, 2:] >= box[2:]).all(1)
    beyond = (cut[:2] & (boxes[:, :2] < own[:2])).any(1) | (cut[2:] & (boxes[:, 2:] > own[2:])).any(1)
    others = sees_all & beyond & (pieces.labels == pieces.labels[k]) & ~np.isin(pieces.tile, pieces.tile[members])
    return any(_area(boxes[other], box) >= least * _area(box) for other in np.flatnonzero(others))


def _area(*boxes: np.ndarray | Window) -> float:
    """Area that all boxes have in common."""
    x1, y1, x2, y2 = zip(*(map(float, box) for box in boxes), strict=True)
    return max(min(x2) - max(x1), 0.0) * max(min(y2) - max(y1), 0.0)
