"""The options --tiles and --tile-overlap, alike in `sais predict` and `sais eval`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from sais.errors import SaisError

if TYPE_CHECKING:
    import numpy as np

    from sais.commands.open_predictor import Opened
    from sais.results.detections import DetectFunction, Detections

OVERLAP = 0.2
"""Of the tiles where none is given."""
TilesBar = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Number of tiles of an image -> a bar to show them by."""


def check_tiles(tiles: str, overlap: float) -> None:
    """Raise SaisError where the options make no sense; let big images be read where there are tiles."""
    from sais.inference.slicing import MIN_SLICE_SIZE, check_slicing

    if not tiles:
        if overlap != OVERLAP:
            raise SaisError("--tile-overlap goes with --tiles SIDE, which is missing")
        return
    if tiles != "auto" and not tiles.isdecimal():
        raise SaisError(f"--tiles {tiles}: give the side of a tile in pixels of the image, or auto")
    check_slicing(MIN_SLICE_SIZE if tiles == "auto" else int(tiles), overlap)
    from PIL import Image

    # Who asks for tiles has big images: no warning from 89 megapixels on, no refusal before 2,147.
    Image.MAX_IMAGE_PIXELS = 2**30


def in_tiles(predictor: Opened, tiles: str, overlap: float, batch: int, bar: TilesBar) -> DetectFunction:
    """What finds the objects of each image in its tiles."""
    from sais.inference.slicing import default_slice_size, slice_windows

    side = default_slice_size(predictor.experiment.input) if tiles == "auto" else int(tiles)

    def one(image: np.ndarray) -> Detections:
        count = len(slice_windows((image.shape[0], image.shape[1]), side, overlap))
        with bar(count) as progress:
            return predictor.tiled(image, side, overlap, batch, progress=progress)

    return lambda images: [one(image) for image in images]
