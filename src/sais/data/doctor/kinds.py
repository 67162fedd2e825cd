"""Kinds of findings that `sais doctor` adds to those of the readers, which are in `sais.data.formats.notes`."""

from __future__ import annotations

from sais.data.doctor.findings import Severity

MIN_SIDE = 4.0
"""Side in pixels below which an object is reported: about one cell of the prototype grid."""
THIN_RATIO = 25.0
"""Ratio of the sides of a box above which an object is reported as thin."""
MASK_MARGIN = 2.0
"""Pixels by which a mask may exceed its box before it is reported; annotation tools round."""
BOX_IOU = 0.7
"""IoU of a box and the box of its mask below which the two are reported as different."""
SAME_PLACE_IOU = 0.8
"""IoU of boxes, and of masks, above which two objects are at the same place."""
DUPLICATE_IOU = 0.95
"""The same for objects that have only a box."""
HIDDEN_FRACTION = 0.98
"""Fraction of an object's pixels inside another object of its class from which it is reported as hidden."""
ODD_SIZE_RATIO = 6.0
"""Ratio of the sides of an image and the median image above which the image is reported."""
ODD_ASPECT_RATIO = 4.0
"""Ratio of the aspect ratios of an image and the median image above which the image is reported."""
RARE_OBJECTS = 10
"""Number of objects below which a class is rare."""

UNREADABLE_IMAGE = "unreadable images"
SIZE_MISMATCH = "images of another size than annotated"
ONE_COLOR = "images of one color"
ODD_SIZE = f"images more than {ODD_SIZE_RATIO:g} times larger or smaller than the median image"
ODD_ASPECT = f"images of an aspect ratio more than {ODD_ASPECT_RATIO:g} times that of the median image"
NO_OBJECTS = "images without objects"
STORED_FRAME = "images turned by EXIF but annotated as stored (used as stored)"
UNKNOWN_FRAME = "images turned by EXIF whose size does not show how they are annotated (used upright)"
REPEATED_FILE = "image files listed more than once (merge_duplicate_images merges their objects)"
SAME_CONTENT = "images with the content of another one"
SHARED_IMAGE = "images that are in another split as well"
NEAR_DUPLICATE = "images nearly the same as another one of the split"
SHARED_NEAR_DUPLICATE = "images nearly the same as one in another split"

MALFORMED_MASK = "malformed masks"
MASK_OUTSIDE_BOX = f"masks that exceed their box by more than {MASK_MARGIN:g} px"
BOX_MISMATCH = f"boxes that do not match their mask (IoU with the box of the mask below {BOX_IOU:g})"
LARGE_AREA = "areas larger than the box"
WRONG_AREA = "areas that do not match the mask"
BOX_AREA = "areas of the box instead of the mask"
EMPTY_MASK = "empty masks"
SELF_CROSSING = "polygons that cross themselves"
TINY_OBJECT = f"objects with a side below {MIN_SIDE:g} px"
THIN_OBJECT = f"objects more than {THIN_RATIO:g} times as long as wide"
DUPLICATE_OBJECT = f"duplicate objects (same class, IoU above {SAME_PLACE_IOU:g})"
HIDDEN_OBJECT = "objects inside another object of the same class"
SUSPICIOUS_CLASS = f"objects of different classes at the same place (IoU above {SAME_PLACE_IOU:g})"

CROWDS = "crowds"
EMPTY_CLASS = "classes without objects"
RARE_CLASS = f"classes with fewer than {RARE_OBJECTS} objects"
MISSING_IN_SPLIT = "classes without objects here that have objects in another split"
ID_GAPS = "category ids with gaps"
FLIP_PAIRS = "pairs of classes whose labels a horizontal flip exchanges (augment.flip_pairs)"
NO_OUTLINES = "no object has an outline"
NO_LABELS = "no objects, apart from crowds"

UNLABELED = "confident detections without a label"
NEVER_FOUND = "labels that the model never finds"
OTHER_CLASS = "labels that the model detects as another class"

ERRORS = (UNREADABLE_IMAGE, SIZE_MISMATCH, MALFORMED_MASK)
"""Kinds that stop a training run or make it wrong."""
NOTES = (
    *(NO_OBJECTS, HIDDEN_OBJECT, THIN_OBJECT, BOX_AREA, ODD_SIZE, ODD_ASPECT, ID_GAPS, EMPTY_CLASS, FLIP_PAIRS),
    NEVER_FOUND,
)
"""Kinds for information; all others are a WARNING."""


def kind_severity(kind: str) -> Severity:
    """Return the severity of one of the kinds in this file."""
    return "ERROR" if kind in ERRORS else "NOTE" if kind in NOTES else "WARNING"
