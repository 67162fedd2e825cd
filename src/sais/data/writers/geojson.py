"""GeoJSON: in the folder SPLIT each image with a feature collection in pixel coordinates."""

from __future__ import annotations

import json
import posixpath
from collections import Counter

from sais.data.writers import DatasetInfo, LabeledImage
from sais.results.geojson import to_geojson


class GeojsonWriter:
    """Writer of GeoJSON; the format holds everything but classes without objects.

    Args:
        info: The data set.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image."""
        return f"{split}/{stem}{suffix}"

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return the path of the feature collection of an image."""
        return [f"{split}/{stem}.geojson"]

    def dataset_files(self) -> list[str]:
        """Return no paths."""
        return []

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Return the feature collection of an image."""
        name = posixpath.relpath(image.file, image.split)
        content = to_geojson(image.objects, image.size, name, self._info.tolerance)
        return {self.label_files(image.split, image.stem)[0]: json.dumps(content).encode()}

    def finish(self) -> dict[str, bytes]:
        """Return no files."""
        return {}
