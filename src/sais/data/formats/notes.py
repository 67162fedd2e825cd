"""What a reader changed, dropped or refused: counted by kind, with the first places of each."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from sais.errors import InputError, OutOfMemoryError, SaisError

MAX_EXAMPLES = 5
"""Number of places printed for a kind."""
MAX_PLACES = 1_000
"""Number of places kept of a kind."""

NO_AREA = "zero-area boxes dropped"
CLIPPED = "boxes clipped to the image"
OUTSIDE = "objects outside the image dropped"
NO_SHAPE = "annotations with neither a box nor a mask dropped"
BAD_PART = "malformed polygons dropped"
BAD_RLE = "masks of another size than the image dropped"
NO_MASK = "objects without a mask (not used to train masks)"
BOX_COMPUTED = "boxes computed from the mask"
AREA_COMPUTED = "areas computed"
AREA_REPLACED = "areas that are zero or negative replaced by the area of the mask or box"
FLAT = "flat polygons read as one polygon"
NESTED = "polygons of nested points read as flat polygons"
SIZES_READ = "image sizes read from the image files"
NUMBER_SIZES = "image sizes written as text read as numbers"

BOX_CORNERS = "boxes written as x1 y1 x2 y2 instead of x y width height replaced by the box of the outline"
BOX_CORNERS_READ = "boxes without an outline read as x1 y1 x2 y2, as the other boxes of the file"
BOX_FRACTIONS = "boxes written as fractions of the image replaced by the box of the outline"
BOX_FRACTIONS_SCALED = "boxes without an outline written as fractions of the image scaled to pixels"
BOX_WHOLE = "boxes of the whole image replaced by the box of the outline"
BOX_ELSEWHERE = "boxes that leave out more than half of their outline replaced by the box of the outline"
FRACTION_OUTLINES = "outlines written as fractions of the image scaled to pixels"
FAR_OUTLINE = "outlines with points far outside the image clipped to it"
OUTLINE_OUTSIDE = "outlines outside the image dropped"
NO_PIXEL = "outlines that contain no pixel"
FLOAT_RLE = "RLE masks with numbers such as 12.0 read as integers"
CROWD_TEXT = "iscrowd written as text read as a number"

IMAGE_ID_NUMBERS = "image ids written as text or as 1.0 read as integers"
IMAGE_ID_TEXTS = "image ids that are text, numbered in the order of the file"
CATEGORY_ID_NUMBERS = "category ids written as text or as 1.0 read as integers"
CATEGORY_ID_TEXTS = "category ids that are text, numbered in the order of the file"
ANNOTATION_IDS = "annotation ids that are missing or text, numbered in the order of the file"
REPEATED_IDS = "annotation ids that occur more than once, replaced by new ones"
REPEATED_ENTRIES = "annotations repeated in the file dropped"
REPEATED_IMAGES = "image entries repeated in the file dropped"
ORPHANS = "annotations of images that are not in the file dropped"
BLANK_NAMES = "category names with blanks at their ends stripped"
MISSING_CLASSES = "classes of the model without a category here"

RENAMED_FILES = "images found under another file name than the annotated one"
MISSING_FILES = "image files not found"

SCORES_LEFT_OUT = "lines with a score at their end (predictions), read without it"
CLASS_COUNT = "class counts (nc) that differ from the number of class names, which are used"
NO_LABEL_FILE = "images without a label file (read as images without objects)"
NO_IMAGE = "label files without an image"
NOT_LABELED = "images without a label file left out"
NOT_LABELME = "JSON files without the key 'shapes' left out"
SCALED = "images whose size differs from the annotated one, outlines scaled"
OTHER_SIZE = "images whose size differs from the annotated one, outlines unchanged"
NO_AREA_SHAPE = "points and lines, which have no area, dropped"
UNKNOWN_SHAPE = "shapes of an unknown type dropped"
DRAWN = "images of this split, chosen at random: the labels have no splits (seed 0; `sais split` writes them to files)"
STUFF = "regions of classes without objects (stuff) left out"
ALL_THINGS = "categories with isthing 0 read as objects, because no category has isthing 1"
NOT_EVALUATED = "objects of classes that Cityscapes does not evaluate left out"
NO_CLASS = "objects whose pixels have no class dropped"
NO_ENTRY = "regions of an id map without an entry in the JSON file dropped"
BINARY_MAP = "masks with the only value 255 read as one object each"
NO_MASK_FILE = "images without a mask file left out"

BAD_IMAGE = "malformed image entries"
CROWDED_IMAGE = "images with too many objects"
BAD_REFERENCE = "annotations of an unknown image or category"
BAD_ANNOTATION = "malformed annotations"
BAD_BOX = "malformed boxes"
BAD_MASK = "malformed masks"
REPEATED_ID = "ids that occur more than once"


class Notes:
    """Counts of what a reader changed or dropped, and messages of what it refuses."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Kind -> number of entries."""
        self.examples: dict[str, list[str]] = {}
        """Kind -> the first places, at most `MAX_PLACES`."""
        self.problems: dict[str, list[str]] = {}
        """Kind of problem -> one error message for each entry refused."""

    def add(self, kind: str, place: str) -> None:
        """Count an entry that was changed or dropped.

        Args:
            kind: Note of `DatasetSplit.notes`.
            place: The entry, such as "annotation 7".
        """
        self.counts[kind] += 1
        places = self.examples.setdefault(kind, [])
        if len(places) < MAX_PLACES:
            places.append(place)

    def problem(self, kind: str, message: str) -> InputError:
        """Record an entry that cannot be used, and return the error to raise."""
        self.problems.setdefault(kind, []).append(message)
        return InputError(message)

    @contextlib.contextmanager
    def recording(self, kind: str) -> Iterator[None]:
        """Record an error of a damaged file as a problem and go on; a lack of memory is not one of the file."""
        try:
            yield
        except OutOfMemoryError:
            raise
        except SaisError as error:
            self.problem(kind, str(error))

    def raise_first(self) -> None:
        """Raise an error for the first problem, with the number of the others.

        Raises:
            InputError: There is a problem.
        """
        messages = [message for group in self.problems.values() for message in group]
        if messages:
            others = f" {len(messages) - 1} more entries are refused; `sais doctor` lists all." if messages[1:] else ""
            raise InputError(messages[0] + others)
