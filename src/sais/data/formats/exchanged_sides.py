"""Images whose width and height a COCO file states exchanged.

Their masks and objects seem to be outside the image, and would be dropped. So the stated size of each image with such a
loss is compared with the file. Images that EXIF turns are another case (`sais.data.exif_frame`).
"""

from __future__ import annotations

from sais.data.formats import notes as kinds
from sais.data.formats.coco_document import Images
from sais.data.formats.image_sizes import other_size, size_place
from sais.data.formats.notes import Notes


def exchange_sides(images: Images, notes: Notes) -> int:
    """Correct in place the stated sizes that are those of the files with width and height exchanged; count them.

    Args:
        images: Images of the file, with those of which something was dropped.
        notes: Takes a note for each corrected image.
    """
    count = 0
    for image_id, path in zip(images.ids, images.paths, strict=True):
        if image_id not in images.suspects:
            continue
        stated = images.sizes[image_id]
        size = other_size(path, stated)
        if size is not None and size == tuple(stated[::-1]):
            images.sizes[image_id] = size
            notes.add(kinds.OTHER_SIZE, size_place(path.name, size, stated))
            count += 1
    return count
