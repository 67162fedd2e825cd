"""The labels that `sais predict --to FORMAT` writes: a data set of its images, for correction and training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sais.errors import InputError
from sais.text import printable

if TYPE_CHECKING:
    import numpy as np

    from sais.data.label_folder import LabelFolder
    from sais.inference.predictor import Predictor
    from sais.io.sources import SourceImage
    from sais.results.detections import Detections

SPLIT = "train"
"""Name of the only split: corrected predictions are for training."""
WRITER = "sais predict"


class PredictedLabels:
    """The folder OUT/FORMAT with the predicted images and their labels.

    Args:
        out: Output folder of the prediction.
        format: Format of the labels; None writes none.
        tolerance: Pixels by which polygons may deviate from the masks.
        overwrite: Whether files of others are replaced.
    """

    def __init__(self, out: Path, format: str | None, tolerance: float, overwrite: bool) -> None:
        self._format, self._tolerance, self._overwrite = format, tolerance, overwrite
        self._folder: LabelFolder | None = None
        self._stems: dict[SourceImage, str] = {}
        self.path = out / (format or "")

    def check(self, images: Sequence[SourceImage], inputs: Iterable[Path]) -> None:
        """Check that the files may be written. Creates nothing.

        Args:
            images: Images of the sources, in addition to which there may be frames of videos.
            inputs: Files that are read.

        Raises:
            InputError: A file would replace one that is read or one of others, such as corrected labels.
        """
        if self._format is None:
            return
        from sais.data.label_folder import LabelFolder, unique_stems
        from sais.data.writers import DatasetInfo, open_writer

        self._check_folder(images)
        folder = LabelFolder(self.path, open_writer(self._format, DatasetInfo((), (), (SPLIT,))))
        named = [(image.location, image.file_name) for image in images]
        self._stems = dict(zip(images, unique_stems(named, not folder.shares_images), strict=True))
        folder.check(((SPLIT, stem, _file(image)) for image, stem in self._stems.items()), inputs, self._overwrite)

    def _check_folder(self, images: Sequence[SourceImage]) -> None:
        """Raise InputError if the labels would be read with LabelMe files next to the images: also in subfolders."""
        place = self.path.resolve()
        for file in map(_file, images) if self._format == "labelme" else ():
            if file is not None and file.with_suffix(".json").is_file() and file.resolve().parent in place.parents:
                problem = f"inside of {file.parent}, whose labels it would add to. Choose another output folder."
                raise InputError(f"{self.path}: {problem}")

    def open(self, predictor: Predictor) -> None:
        """Start to write labels with the classes of a predictor."""
        if self._format is None:
            return
        from sais.data.label_folder import LabelFolder
        from sais.data.writers import DatasetInfo, open_writer

        boxes_only = not predictor.experiment.model.masks
        names, ids = tuple(predictor.class_names), tuple(predictor.category_ids)
        info = DatasetInfo(names, ids, (SPLIT,), boxes_only, tolerance=self._tolerance, written_by=WRITER)
        self._folder = LabelFolder(self.path, open_writer(self._format, info)).__enter__()

    def add(self, image: np.ndarray, detections: Detections, source: SourceImage | str) -> None:
        """Write the labels of an image.

        Args:
            image: (H, W, 3) uint8 RGB, for images that are not copied.
            detections: The detections in the image.
            source: The image, or the name of a video's frame without suffix.
        """
        if self._folder is None:
            return
        from sais.data.exif_frame import file_orientation
        from sais.data.writers import LabeledImage
        from sais.results.labeled_object import objects_of

        file = None if isinstance(source, str) else _file(source)
        stem = source if isinstance(source, str) else self._stems[source]
        if isinstance(source, str):
            self._folder.check([(SPLIT, stem, None)], [], self._overwrite)
        copied = file is not None and not self._folder.needs_png(SPLIT, stem, file) and file_orientation(file) == 1
        place = self._folder.place_image(SPLIT, stem, file, None if copied else image)
        objects = tuple(objects_of(detections))
        self._folder.add(LabeledImage(SPLIT, stem, place, detections.image_size, objects))

    def finish(self, complete: bool = True) -> list[str]:
        """Write the files of the data set; return lines about what was written.

        Args:
            complete: Whether the prediction was not interrupted; labels of an earlier one are then removed.
        """
        if self._folder is None:
            return []
        folder, self._folder = self._folder, None
        folder.finish(complete)
        folder.__exit__(None)
        return [f"labels in {self.path}: {printable(note)}: {count}" for note, count in folder.notes.items() if count]


def _file(image: SourceImage) -> Path | None:
    """Return the file of an image; None if it is a page of a file, or at an address."""
    return image.location if isinstance(image.location, Path) and image.page is None else None
