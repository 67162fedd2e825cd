"""Why a finding matters and what to do about it, for reports and documents."""

from __future__ import annotations

from dataclasses import dataclass

from sais.data.doctor import kinds
from sais.data.formats import notes


@dataclass(frozen=True)
class Explanation:
    """An explanation of a kind of finding."""

    reason: str
    """Why it matters: one or two sentences."""
    remedy: str
    """What to do: one or two sentences."""
    repaired: bool = False
    """Whether `sais.data.doctor.repair` repairs it in a copy of the data set."""


_LABELING_TOOL = "Correct the object in the labeling tool."
_EXPLANATIONS = {
    kinds.UNREADABLE_IMAGE: Explanation(
        "Training stops at an image that cannot be read.",
        "Restore the file from its source, or leave the image out.",
        True,
    ),
    kinds.SIZE_MISMATCH: Explanation(
        "The labels were made on an image of another size, so that they may be at the wrong place.",
        "Restore the original image, or export the labels again. If height and width are swapped, compare the labels "
        "with the image first.",
        True,
    ),
    kinds.ONE_COLOR: Explanation(
        "An image of one color shows nothing: a damaged file, a lens cap, an empty frame.",
        "Replace the image or leave it out.",
    ),
    kinds.ODD_SIZE: Explanation(
        "All images are resized to one input, so that objects of this image become much larger or smaller than others.",
        "Cut a large image into parts; look whether a small one is a thumbnail.",
    ),
    kinds.ODD_ASPECT: Explanation(
        "A fixed input size distorts such an image much more than the others.",
        "Cut it into parts, or train with an input that keeps the aspect ratio.",
    ),
    kinds.NO_OBJECTS: Explanation(
        "Images without objects teach what the background is. If objects are visible, they are trained as background.",
        "Look at a few of them. Label the objects, or leave the image out if it was never labeled.",
    ),
    kinds.STORED_FRAME: Explanation(
        "The camera was turned, and the labels were made without turning the image. It is used as it is stored.",
        "Nothing, if the objects are where the labels are. Better: turn images and labels upright.",
    ),
    kinds.UNKNOWN_FRAME: Explanation(
        "Other images of the data set are annotated as stored, and this one does not show whether it is.",
        "Look at the labels of this image.",
    ),
    kinds.REPEATED_FILE: Explanation(
        "Each entry lacks the objects of the others, which then count as background.",
        "Merge the entries: the data option merge_duplicate_images.",
        True,
    ),
    kinds.SAME_CONTENT: Explanation(
        "The image counts twice; if the labels of the two differ, the objects of one are background in the other.",
        "Remove one of the two.",
        True,
    ),
    kinds.SHARED_IMAGE: Explanation(
        "The model is evaluated on images that it was trained on, so that the metrics are too good.",
        "Remove the image from one of the splits.",
        True,
    ),
    kinds.NEAR_DUPLICATE: Explanation(
        "A copy in another size or quality, a mirrored one or the next frame of a video adds little to the training.",
        "Keep one of them, unless the difference matters. `sais split` keeps them in one split.",
    ),
    kinds.SHARED_NEAR_DUPLICATE: Explanation(
        "The model is evaluated on an image that is nearly one of the training set, so that the metrics are too good.",
        "Move both into the same split; `sais split` does it for labels without splits.",
    ),
    kinds.MALFORMED_MASK: Explanation("The mask cannot be decoded; training stops.", "Export the labels again.", True),
    kinds.MASK_OUTSIDE_BOX: Explanation(
        "Masks are trained inside their box only, so that the part outside is lost.",
        "Compute the box from the mask.",
        True,
    ),
    kinds.BOX_MISMATCH: Explanation(
        "Box and mask disagree; one of the two is that of another object, or was moved.",
        "Compute the box from the mask, after a look at the object.",
        True,
    ),
    kinds.LARGE_AREA: Explanation(
        "The evaluation of small, medium and large objects depends on the area.",
        "Compute the area from the mask.",
        True,
    ),
    kinds.WRONG_AREA: Explanation(
        "The evaluation of small, medium and large objects depends on the area.",
        "Compute the area from the mask.",
        True,
    ),
    kinds.BOX_AREA: Explanation(
        "The labeling tool has written the area of the box, so that objects count as larger in the evaluation by size.",
        "Compute the areas from the masks.",
        True,
    ),
    kinds.EMPTY_MASK: Explanation(
        "The mask contains no pixel's center, so that it teaches that the object has no pixels.",
        f"{_LABELING_TOOL} A click by mistake can be removed.",
        True,
    ),
    kinds.SELF_CROSSING: Explanation(
        "Where an outline crosses itself, inside and outside are exchanged: points are out of order or missing.",
        f"{_LABELING_TOOL} The repair traces the pixels that are trained today.",
        True,
    ),
    kinds.TINY_OBJECT: Explanation(
        "Such objects are below the resolution of the masks, and most are clicks by mistake.",
        "Remove them if they are mistakes. If they are real, cut the images into smaller ones.",
    ),
    kinds.THIN_OBJECT: Explanation(
        "Thin objects vanish when an image is resized; some are slips of the mouse.",
        "Look at them, and remove those that are mistakes.",
    ),
    kinds.DUPLICATE_OBJECT: Explanation(
        "An object that is labeled twice counts twice, and one of the two always counts as missed.",
        "Remove one of the two.",
        True,
    ),
    kinds.HIDDEN_OBJECT: Explanation(
        "An object inside another one of its class is usually a part of it, or labeled twice.",
        "Remove it, unless it is an object of its own in front of the other.",
    ),
    kinds.SUSPICIOUS_CLASS: Explanation(
        "Two labels of the same object contradict each other; one of the classes is wrong.",
        "Decide for one class, and remove the other object.",
    ),
    kinds.CROWDS: Explanation(
        "Crowds are regions of many objects: they are not trained on, and the evaluation ignores them.",
        "Nothing in general. If the export sets iscrowd on every mask, use the data option crowds_as_objects.",
    ),
    kinds.EMPTY_CLASS: Explanation(
        "The model has an output for a class that it never sees.",
        "Remove the category, or choose the classes to train.",
    ),
    kinds.RARE_CLASS: Explanation(
        "A class with a handful of objects is hardly learned, and its AP is chance.",
        "Label more of them, merge the class with another (vehicle=car+truck), or leave it out.",
    ),
    kinds.MISSING_IN_SPLIT: Explanation(
        "A class without objects in the training split cannot be learned; without objects in another split, it is not "
        "evaluated.",
        "Split the images again with `sais split`, which gives every split its share of each class.",
    ),
    kinds.ID_GAPS: Explanation(
        "Nothing is wrong: labels are numbered 0 to C - 1 in the order of the ids, and results have the original ids.",
        "Nothing.",
    ),
    kinds.FLIP_PAIRS: Explanation(
        "A mirrored left hand is a right hand: a flip exchanges the labels of these classes.",
        "Nothing, if the pairs are right; otherwise set augment.flip_pairs.",
    ),
    kinds.NO_LABELS: Explanation(
        "Training on these images teaches background only, and metrics on them are undefined.",
        "Export the labels again. If all objects are crowds, use the data option crowds_as_objects.",
    ),
    kinds.NO_OUTLINES: Explanation("Boxes train a model without masks.", "Label outlines, if you need masks."),
    kinds.UNLABELED: Explanation(
        "A detection with a high score where no label is: a missing label, or a mistake of the model. Highest score "
        "first.",
        "Label the object if there is one; objects without a label are trained as background.",
    ),
    kinds.OTHER_CLASS: Explanation(
        "The model is confident that the object is of another class: a wrong label, or a mistake of the model. Highest "
        "score first.",
        "Compare the label with the image, and correct its class if it is wrong.",
    ),
    kinds.NEVER_FOUND: Explanation(
        "The model detects nothing at the place of the label, of any class: the label may be at the wrong place, or of "
        "nothing. Largest objects first.",
        "Look at the first of them. Hard objects are found with more training.",
    ),
    notes.CLIPPED: Explanation("The part of a box outside the image is cut off.", "Nothing.", True),
    notes.OUTSIDE: Explanation(
        "An object outside the image cannot be trained and is dropped.",
        "Check the size of the image in the labels, and whether EXIF turns it.",
        True,
    ),
    notes.OUTLINE_OUTSIDE: Explanation(
        "The outline is outside the image: the box is used, the mask is not.", _LABELING_TOOL, True
    ),
    notes.NO_AREA: Explanation("A box without area is dropped.", "Remove or redraw the object.", True),
    notes.NO_SHAPE: Explanation("The annotation has neither a box nor a mask and is dropped.", "Remove it.", True),
    notes.NO_PIXEL: Explanation("The outline contains no pixel's center.", _LABELING_TOOL, True),
    notes.BAD_PART: Explanation("A polygon with fewer than three points is dropped.", _LABELING_TOOL, True),
    notes.BAD_RLE: Explanation(
        "The mask has another size than the image: the box is used, the mask is not.", "Export the labels again.", True
    ),
    notes.NO_MASK: Explanation("The object trains everything except masks.", "Label its outline."),
    notes.RENAMED_FILES: Explanation("The name in the labels differs from that of the file.", "Nothing.", True),
    notes.MISSING_FILES: Explanation(
        "Images without a file cannot be read.", "Restore the files, or remove the entries.", True
    ),
    notes.SCALED: Explanation(
        "The labels were made on a smaller or larger copy of the image; they are scaled to the file.",
        "Nothing, if the objects are where the labels are.",
        True,
    ),
    notes.OTHER_SIZE: Explanation(
        "The labels state another size than the file has, but fit into the file.",
        "Look at the labels of this image: it may be another image than the labeled one.",
        True,
    ),
    notes.ORPHANS: Explanation(
        "The labels of images that are not in the file cannot be used.",
        "Export the images as well, if they should be trained on.",
        True,
    ),
    notes.REPEATED_IDS: Explanation(
        "Different objects share an id, usually because files were joined; both are used.", "Nothing.", True
    ),
    notes.REPEATED_ENTRIES: Explanation("The same entry is in the file twice; it is used once.", "Nothing.", True),
    notes.REPEATED_IMAGES: Explanation("The same entry is in the file twice; it is used once.", "Nothing.", True),
    notes.FAR_OUTLINE: Explanation(
        "A point far outside the image is a typing error; the pixels inside the image are used.", _LABELING_TOOL, True
    ),
    notes.NO_LABEL_FILE: Explanation(
        "An image without labels is trained as background.", "Leave it out, if it was never labeled."
    ),
    notes.NO_IMAGE: Explanation("Labels without an image cannot be used.", "Restore the images.", True),
    notes.SCORES_LEFT_OUT: Explanation(
        "Lines with a score are predictions of a model, not labels.",
        "Use them as labels only after a look at them.",
        True,
    ),
    **dict.fromkeys(
        (notes.NO_AREA_SHAPE, notes.UNKNOWN_SHAPE),
        Explanation("Shapes without an area have no mask.", "Draw polygons instead.", True),
    ),
    **dict.fromkeys(
        (notes.BOX_CORNERS, notes.BOX_CORNERS_READ, notes.BOX_FRACTIONS, notes.BOX_WHOLE, notes.BOX_ELSEWHERE),
        Explanation(
            "The boxes of the file are not what its format prescribes; they are corrected by the outlines.",
            "Nothing, if the boxes that are drawn fit the objects.",
            True,
        ),
    ),
}
_REPAIR = Explanation("The labels are read in a way that loses nothing.", "Nothing.", True)
_OTHER = Explanation("The reader has changed or dropped something.", "Compare the labels with the images.", True)
_PROBLEM = Explanation(
    "The entry contradicts the format or the rest of the file; training stops.",
    "Correct the entry or export the labels again.",
    True,
)


def explain(kind: str, severity: str = "WARNING") -> Explanation:
    """Return the explanation of a kind of finding; a general one if the kind has none of its own.

    Args:
        kind: `Finding.kind`.
        severity: `Finding.severity`.
    """
    general = {"ERROR": _PROBLEM, "NOTE": _REPAIR}.get(severity, _OTHER)
    return _EXPLANATIONS.get(kind, general)
