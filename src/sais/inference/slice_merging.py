"""Merging detections across tile borders: which detections are one object, and the object they make. Numpy only.

Two tiles that overlap show the same pixels there, their shared region. Two detections of one class, one of each tile,
are one object where their masks agree inside that region; pixels outside are no evidence, since only one of the tiles
shows them. Agreement is transitive from tile to tile, so an object that spans ten of them is one. The rules, for the
errors of a network (a perfect one needs the first alone):

1. *Agreement*: at least the fraction `agreement` of the smaller of the two masks is in both. Of the smaller, because a
   network often finds only a part of an object that a border cuts.
2. *A border strip is no evidence*: a mask that is mostly outside of the region shows only its edge there, and an edge a
   few pixels over the neighbor is no part of it: then the two must also agree for half the fraction of the larger.
3. *Best partner first*: of several detections in one tile that a part agrees with, it joins the one it agrees with
   best; another only where that one has no better partner itself (two legs in one tile, the whole animal in the next).
4. *Uncut detections win*: two detections of one tile stay apart, whatever the neighbor shows, unless the tile's border
   cuts both: one of them uncut is an object by itself, however closely it touches the other.
5. *Drop leftover fragments*: a fragment cut by a border is dropped where a tile that shows all of it and beyond the cut
   has another object of the class over it and nothing that agreed with the fragment. (Several fragments that agreed are
   dropped if all of them are such.)

Where one of two has no mask, or an empty one, boxes take the place of masks. Masks that are merely empty inside the
region agree in nothing: the two may be neighbors as well as one object, and if they are one, another region shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sais.ops.numpy_boxes import Window, intersect_windows
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.mask_ops import count_pixels, intersection_area, mask_window, union

CUT_MARGIN = 0.02
"""Fraction of a tile's side: a box that ends this close to its tile's border counts as cut by it. Predicted boxes of
cut objects end a few pixels off the border; an uncut one that is counted as cut loses little (rules 4 and 5)."""


def merge_slices(tile_detections: Sequence[Detections], windows: np.ndarray, agreement: float = 0.5) -> Detections:
    """Merge the detections of all tiles into the objects of the whole image.

    The masks of one object's parts are united, its box is the smallest around their boxes, its score their maximum:
    usually that of the tile that shows most of it. A mean would penalize an object for crossing a tile border.

    Args:
        tile_detections: T Detections, at least one, in the pixels of the whole image.
        windows: (T, 4) ``x1 y1 x2 y2`` windows of their tiles.
        agreement: minimum fraction of the smaller of two masks, inside the region that both tiles show, that must be
            in both.

    Returns:
        Detections of the image, scores descending.
    """
    parts = _Parts(tile_detections, windows)
    groups = _Groups(parts)
    # The best agreement first; of equals the earlier.
    for _, first, second in sorted(_agreeing_pairs(parts, agreement), key=lambda pair: (-pair[0], pair[1], pair[2])):
        groups.join(first, second)
    objects = [m for m in groups.all() if not all(_is_leftover(parts, k, m, agreement) for k in m)]
    objects.sort(key=lambda members: -float(parts.scores[members].max()))
    masks = []
    if parts.masks:
        masks = [union([parts.masks[k] for k in m]) if len(m) > 1 else parts.masks[m[0]] for m in objects]
    boxes = [np.concatenate([parts.boxes[m, :2].min(0), parts.boxes[m, 2:].max(0)]) for m in objects]
    return Detections(
        tile_detections[0].image_size,
        np.array(boxes, np.float32),
        np.array([parts.scores[m].max() for m in objects]),
        np.array([parts.labels[m[0]] for m in objects]),
        tile_detections[0].class_names,
        masks,
    )


class _Parts:
    """The detections of all tiles concatenated: N parts of objects, in the pixels of the image."""

    def __init__(self, tile_detections: Sequence[Detections], windows: np.ndarray) -> None:
        self.windows = np.asarray(windows, np.int64)
        self.tile = np.repeat(np.arange(len(tile_detections)), [len(d) for d in tile_detections])
        """(N,) index of each part's tile; those of tile t are starts[t] .. starts[t + 1] - 1."""
        self.starts = np.searchsorted(self.tile, np.arange(len(tile_detections) + 1))
        self.boxes = np.concatenate([d.boxes for d in tile_detections])
        self.scores = np.concatenate([d.scores for d in tile_detections])
        self.labels = np.concatenate([d.labels for d in tile_detections])
        self.masks: list[CroppedMask] = [mask for d in tile_detections for mask in d.cropped_masks]
        self.areas = np.array([mask.area for mask in self.masks] or np.zeros(len(self.tile)), np.float64)
        """(N,) pixels of each mask; 0 where there is none to compare."""
        self.extents = self.boxes.astype(np.float64)
        """(N, 4) window of each mask, or its box where there is no mask."""
        for k in np.flatnonzero(self.areas):
            self.extents[k] = mask_window(self.masks[k])
        height, width = tile_detections[0].image_size
        self.tile_windows = self.windows[self.tile].reshape(-1, 4)
        """(N, 4) window of each part's tile."""
        near = CUT_MARGIN * (self.tile_windows[:, 2:] - self.tile_windows[:, :2])
        inner = self.tile_windows != np.array([0, 0, width, height])
        self.cut = inner & (np.abs(self.boxes - self.tile_windows) <= np.tile(near, 2))
        """(N, 4) whether the left, top, right, bottom border of its tile cuts it; the image's own border does not."""

    def overlapping_pairs(self, first: int, second: int, region: Window) -> list[list[int]]:
        """Return the pairs of parts of two tiles, of one class, whose extents overlap inside the region."""
        of_first, of_second = (np.arange(self.starts[t], self.starts[t + 1]) for t in (first, second))
        a, b = self.extents[of_first][:, None], self.extents[of_second][None]
        low = np.maximum(np.maximum(a[..., :2], b[..., :2]), region[:2])
        high = np.minimum(np.minimum(a[..., 2:], b[..., 2:]), region[2:])
        same_class = self.labels[of_first][:, None] == self.labels[of_second][None]
        i, j = np.nonzero((low < high).all(-1) & same_class)
        return np.stack([of_first[i], of_second[j]], 1).tolist()


class _Groups:
    """Parts joined into objects (union-find), with the conditions that keep two groups apart."""

    def __init__(self, parts: _Parts) -> None:
        self.tile: list[int] = parts.tile.tolist()
        self.cut: list[bool] = parts.cut.any(1).tolist()
        self.parents = list(range(len(self.tile)))
        self.members: dict[int, list[int]] = {k: [k] for k in self.parents}
        self.partners: set[tuple[int, int]] = set()
        """(part, tile) where the part has its best partner."""

    def join(self, first: int, second: int) -> None:
        """Join two parts into one object, unless a rule forbids it."""
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
        """Return the parts of each object, in the order of its first part."""
        return sorted(sorted(members) for members in self.members.values())

    def _apart(self, a: int, b: int) -> bool:
        """Rule 4: whether a tile has parts in both groups, not all of them cut."""
        tiles = {self.tile[k] for k in self.members[a]} & {self.tile[k] for k in self.members[b]}
        return any(self.tile[k] in tiles and not self.cut[k] for k in self.members[a] + self.members[b])

    def _root(self, k: int) -> int:
        while self.parents[k] != k:
            self.parents[k] = self.parents[self.parents[k]]
            k = self.parents[k]
        return k


def _agreeing_pairs(parts: _Parts, minimum: float) -> Iterator[tuple[float, int, int]]:
    """Yield the pairs that agree: (agreement, part, part)."""
    tiles = np.unique(parts.tile)
    windows = parts.windows[tiles]
    for i, window in enumerate(windows):
        later = windows[i + 1 :]
        overlapping = ((later[:, :2] < window[2:]) & (window[:2] < later[:, 2:])).all(1)
        for j in np.flatnonzero(overlapping) + i + 1:
            region = intersect_windows(tuple(window.tolist()), tuple(windows[j].tolist()))
            areas_inside: dict[tuple[int, bool], float] = {}
            for first, second in parts.overlapping_pairs(tiles[i], tiles[j], region):
                value = _agreement(parts, first, second, region, areas_inside, minimum)
                if value is not None:
                    yield value, first, second


def _agreement(
    parts: _Parts, first: int, second: int, region: Window, areas_inside: dict[tuple[int, bool], float], minimum: float
) -> float | None:
    """Return the agreement of two parts inside the region, shared area over the larger; None if they are two objects.

    `areas_inside` caches the area of each part inside the region for its other pairs.
    """
    by_mask = bool(parts.areas[first] and parts.areas[second])
    for k in (first, second):
        if (k, by_mask) not in areas_inside:
            area = count_pixels(parts.masks[k], region) if by_mask else _shared_area(parts.boxes[k], region)
            areas_inside[k, by_mask] = area
    smaller, larger = sorted((first, second), key=lambda k: areas_inside[k, by_mask])
    if not areas_inside[smaller, by_mask]:
        return None
    if by_mask:
        shared = float(intersection_area(parts.masks[first], parts.masks[second], region))
        whole = float(parts.areas[smaller])
    else:
        shared = _shared_area(parts.boxes[first], parts.boxes[second], region)
        whole = _shared_area(parts.boxes[smaller])
    if shared < minimum * areas_inside[smaller, by_mask]:
        return None  # rule 1
    if areas_inside[smaller, by_mask] < whole / 2 and shared < minimum / 2 * areas_inside[larger, by_mask]:
        return None  # rule 2
    return shared / areas_inside[larger, by_mask]


def _is_leftover(parts: _Parts, k: int, members: list[int], minimum: float) -> bool:
    """Rule 5, for part k of a group: whether a tile without a part in the group shows a fuller object over it."""
    windows, boxes = parts.tile_windows, parts.boxes
    cut, box, own = parts.cut[k], boxes[k], windows[k]
    if not cut.any():
        return False
    shows_all = (windows[:, :2] <= box[:2]).all(1) & (windows[:, 2:] >= box[2:]).all(1)
    beyond = (cut[:2] & (boxes[:, :2] < own[:2])).any(1) | (cut[2:] & (boxes[:, 2:] > own[2:])).any(1)
    others = shows_all & beyond & (parts.labels == parts.labels[k]) & ~np.isin(parts.tile, parts.tile[members])
    return any(_shared_area(boxes[other], box) >= minimum * _shared_area(box) for other in np.flatnonzero(others))


def _shared_area(*boxes: np.ndarray | Window) -> float:
    """Return the area that all boxes (4,) have in common."""
    x1, y1, x2, y2 = zip(*(map(float, box) for box in boxes), strict=True)
    return max(min(x2) - max(x1), 0.0) * max(min(y2) - max(y1), 0.0)
