"""Pages and frames of image files: where they are in the file."""

from __future__ import annotations

from PIL import Image

from sais.errors import InputError
from sais.io.decoding import decoding_error, file_name
from sais.io.decoding_limits import check_pages

PAGED_FORMATS = ("TIFF", "GIF", "WEBP", "PNG", "AVIF", "HEIF")
"""Formats whose further pages or frames are images; those of MPO are previews, gain maps and depth maps."""
_REDUCED_OR_MASK = 0b101
"""Bits of the TIFF tag NewSubfileType: a smaller copy of another page, or its transparency mask."""
_NEW_SUBFILE_TYPE = 254


def page_positions(image: Image.Image, limit: int | None = None) -> list[int]:
    """Return the positions of the pages or frames of an image file, without reduced copies and masks in a TIFF.

    The last page may be corrupt.

    Args:
        image: An opened file; it is at its first page afterwards.
        limit: Number of pages after which the search ends.

    Raises:
        InputError: The file is corrupt, so that its frames cannot be counted.
        ResourceError: A frame has too many pixels.
    """
    if image.format not in PAGED_FORMATS:
        return [0]
    try:
        has_pages = getattr(image, "is_animated", False)
        if has_pages and limit is not None and limit <= 2:  # all frames of a GIF would be read to count them
            return list(range(limit)) if image.format != "TIFF" else _tiff_positions(image, limit)
        count = int(getattr(image, "n_frames", 1)) if has_pages and image.format != "TIFF" else 1
    except Exception as error:
        raise decoding_error(error, file_name(image)) from error
    if not has_pages or image.format != "TIFF":
        check_pages(count, file_name(image))
        return list(range(count if limit is None else min(count, limit)))
    return _tiff_positions(image, limit)


def _tiff_positions(image: Image.Image, limit: int | None) -> list[int]:
    """Return the positions of the pages of a TIFF file with several, at most `limit`."""
    positions = [0]
    position = 1
    while limit is None or len(positions) < limit:
        check_pages(position, file_name(image))
        try:
            image.seek(position)
            subfile_type = image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
            if not subfile_type & _REDUCED_OR_MASK:
                positions.append(position)
        except EOFError:
            break
        except Exception:  # a corrupt page, which is reported when it is read; no page after it can be found
            positions.append(position)
            break
        position += 1
    image.seek(0)
    return positions


def find_page(image: Image.Image, page: int) -> int:
    """Return the position in the file of a page or frame, counted from 0.

    Raises:
        InputError: The file has fewer pages.
    """
    positions = page_positions(image, limit=page + 1)
    if page >= len(positions):
        raise InputError(
            f"{file_name(image)}: no page {page + 1}; the file has {len(positions)}. Use a lower number.", "missing"
        )
    return positions[page]
