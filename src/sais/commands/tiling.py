"""The options --tiles and --tile-overlap, alike in `sais predict` and `sais eval`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from sais.structures import SaisError

if TYPE_CHECKING:
    import numpy as np

    from sais.commands.models import Opened
    from sais.detections import Detections, Find

OVERLAP = 0.2
"""Of the tiles where none is given."""
TilesBar = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Number of tiles of a picture -> a bar to show them by."""


def check_tiles(tiles: str, overlap: float) -> None:
    """Raise SaisError where the options make no sense; let big pictures be read where there are tiles."""
    from sais.tiles import LEAST_SIDE, check_tiling

    if not tiles:
        if overlap != OVERLAP:
            raise SaisError("--tile-overlap goes with --tiles SIDE, which is missing")
        return
    if tiles != "auto" and not tiles.isdecimal():
        raise SaisError(f"--tiles {tiles}: give the side of a tile in pixels of the picture, or auto")
    check_tiling(LEAST_SIDE if tiles == "auto" else int(tiles), overlap)
    from PIL import Image

    # Who asks for tiles has big pictures: no warning from 89 megapixels on, no refusal before 2,147.
    Image.MAX_IMAGE_PIXELS = 2**30


def in_tiles(predictor: Opened, tiles: str, overlap: float, batch: int, bar: TilesBar) -> Find:
    """What finds the objects of each picture in its tiles."""
    from sais.tiles import default_side, tile_windows

    side = default_side(predictor.experiment.input) if tiles == "auto" else int(tiles)

    def one(picture: np.ndarray) -> Detections:
        count = len(tile_windows((picture.shape[0], picture.shape[1]), side, overlap))
        with bar(count) as progress:
            return predictor.tiled(picture, side, overlap, batch, progress=progress)

    return lambda pictures: [one(picture) for picture in pictures]
