"""Limits on the files that are read: what is beyond them is refused before memory is allocated for it.

They are far above ordinary data. Without them, a few kilobytes of JSON or a small compressed image could take all
memory or hours. A test or program may set another value: they are read when they are used.
"""

from __future__ import annotations

MAX_JSON_BYTES = 2 * 2**30
"""Size of an annotation file or another JSON file. Reading takes several times its size in memory."""
MAX_NAME_LETTERS = 500
"""Length of a class name."""
MAX_CATEGORIES = 16_000
"""Number of categories of a file. The COCO evaluator takes 400 KB of memory for each."""
MAX_OBJECTS_PER_IMAGE = 10_000
"""Number of objects, crowds included, in one image."""
MAX_BOX_COVERAGE = 250
"""Sum of the areas of an image's boxes, as a multiple of the image's area."""
MAX_OUTLINE_POINTS = 100_000
"""Number of points of the polygons of one object."""
MAX_OUTLINE_LENGTH = 2**23
"""Length of the polygons of one object in pixels. The COCO evaluator takes 60 bytes of memory for each."""
MAX_BITMAP_PIXELS = 2**29
"""Number of pixels of the decoded RLE masks of one image, each cropped to its set pixels."""

MAX_STATED_PIXELS = 2**31
"""Number of pixels of an image as its annotations state it, and of an RLE: as many as images in tiles may have."""
MAX_STATED_SIDE = 2**20
"""Height or width in pixels of an image as its annotations state it, and of an RLE."""
LARGE_IMAGE_PIXELS = 2**30
"""Value of `max_pixels` for images that are predicted in tiles; files with twice as many pixels are refused."""
MAX_WHOLE_FILE_BYTES = 2**30
"""Size of an image file of a format whose decoder reads the whole file into memory: WebP, AVIF, HEIF."""
MAX_PAGES = 100_000
"""Number of pages or frames of an image file."""
MAX_JPEG_SCANS = 100
"""Number of scans of a progressive JPEG file, each of which is a pass over all pixels; encoders write about 10."""
MAX_SCANNED_PIXELS = 2**32
"""Number of scans times pixels of a progressive JPEG file with more than 20 scans."""
MAX_JPEG_HEADER_BYTES = 2**26
"""Size of the metadata before the first scan of a JPEG file."""

MAX_FRAME_PIXELS = 2**26
"""Number of pixels of a video frame; 8K video has half as many."""
MAX_FRAME_RATE = 1000.0
"""Frames per second of a video; a higher or negative stated rate is replaced by the default."""
