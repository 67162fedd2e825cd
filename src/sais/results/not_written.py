"""Notes of writers of labels: what a format cannot hold, or holds in another form."""

NO_IMAGE = "images that are missing or cannot be read left out, with their objects"
CROWD = "crowd regions left out"
SCORE = "scores left out"
BOX_AS_OUTLINE = "boxes without a mask written as outlines"
BOX_IN_XML = "objects without a mask written to XML files only"
VOID = "crowd regions written as void"
BOX_LEFT_OUT = "objects without a mask left out"
OUTSIDE = "objects outside the image left out"
JOINED = "objects of several parts or with holes written as one polygon with bridges"
HIDDEN = "objects partly hidden by others, whose hidden pixels are left out"
ALL_HIDDEN = "objects completely hidden by others left out"
TOO_MANY = "objects beyond the maximum number of an image left out"
NO_PIXEL = "objects without a pixel left out"
CROWDS_JOINED = "crowd regions joined to another one of their class"

LEFT_OUT = frozenset({CROWD, CROWDS_JOINED, VOID, BOX_LEFT_OUT, OUTSIDE, ALL_HIDDEN, TOO_MANY, NO_PIXEL})
"""Notes of objects that are not in the files written."""
