"""Image files to Pillow images: the formats that are read, recognized by content, and what is wrong with other files.

Pillow has decoders for some 45 formats. Only those of raster images are used: a PostScript file named .jpg would start
Ghostscript, and camera raw files and documents would give a thumbnail or one page instead of the image.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from sais.errors import InputError, MissingDependencyError, OutOfMemoryError, ResourceError, SaisError
from sais.io.decoding_limits import LARGE_FILE_BYTES, check_large_file, check_scans, lacks_memory, webp_pixels
from sais.text import printable

IMAGE_FORMATS = (
    *("JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000", "BMP", "DIB", "GIF", "PPM"),
    *("QOI", "PCX", "SGI", "SUN", "TGA"),  # TGA last: its files have no signature
)
"""Names of the Pillow decoders that are used; HEIF needs the extra `heif`."""
RAW_SUFFIXES = (".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".pef", ".raf", ".rw2", ".srw")
"""Suffixes of camera raw files, of which Pillow would read the thumbnail."""
SIGNATURE_BYTES = 64
"""Number of bytes at the start of a file that `content_kind` needs."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"qoif", "QOI"),
    (b"\x01\xda", "SGI"),
    (b"\x59\xa6\x6a\x95", "SUN"),
    (b"%PDF", "PDF document"),
    (b"%!PS", "PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "PostScript document"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"8BPS", "Photoshop document"),
    (b"\xff\x0a", "JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "JPEG XL image"),
    (b"SIMPLE  =", "FITS file"),
    (b"version https://git-lfs", "Git LFS pointer; run git lfs pull"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile"),
)
"""First bytes of a file -> its format, or a description of what is not read."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_OPEN_LOCK = threading.RLock()
"""Held while a file is opened, because Pillow's pixel limit is a variable of its module."""


def content_kind(start: bytes) -> str:
    """Return what the first bytes of a file show: a name of `IMAGE_FORMATS`, or a description such as "PDF document".

    Args:
        start: At least `SIGNATURE_BYTES` bytes where the file has as many.

    Returns:
        The name or description; "" if the content is unknown.
    """
    if not start:
        return "empty file"
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    if start[4:8] == b"ftyp":
        brands = start[8 : int.from_bytes(start[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIF" if start[8:12] in _HEIF_BRANDS else "video"
    if start[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "video"}.get(start[8:12], "")
    if start[:1] == b"P" and start[1:2] in b"1234567fF" and start[2:3].isspace():
        return "PPM"
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return "BMP"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "web page" if text.startswith((b"<!doctype html", b"<html")) else ""


def file_kind(path: Path) -> str:
    """Return `content_kind` of a regular file; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return content_kind(file.read(SIGNATURE_BYTES))
    except OSError:
        return ""


def heif_installed() -> bool:
    """Return whether HEIC and HEIF files can be read; registers the decoder with Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
    return True


def open_image(source: str | Path | BinaryIO, max_pixels: int | None = None) -> Image.Image:
    """Open an image file with one of the decoders of `IMAGE_FORMATS`; pixels are decoded later.

    Args:
        source: Path or open binary file.
        max_pixels: As for `sais.io.images.read_image`.

    Raises:
        InputError: The file is missing, not a regular file, or not an image.
        MissingDependencyError: A HEIC file without the extra `heif`.
        ResourceError: The image has too many pixels.
    """
    name = source_name(source)
    if isinstance(source, (str, Path)):
        _check_regular_file(Path(source), name)
    try:
        try:
            image = _open(source, max_pixels)
        except UnidentifiedImageError:
            Image.init()  # the decoders of less common formats, which take 0.1 s to import
            if _start(source)[1] == "HEIF":
                heif_installed()
            image = _open(source, max_pixels)
        check_scans(image, source, name)
        return image
    except SaisError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(source, name) from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise decoding_error(error, name) from error
    except Exception as error:  # a corrupt header that the decoder does not handle, or missing permission
        is_decoders = not isinstance(error, OSError) or error.errno is None
        if is_decoders and lacks_memory(webp_pixels(_start(source)[0])):
            raise decoding_error(MemoryError(), name) from error
        kind = "no permission" if isinstance(error, PermissionError) else "corrupt"
        raise InputError(
            f"{name}: cannot be opened ({one_line(error)}). Restore the file or remove it.", kind
        ) from error


def decoding_error(error: Exception, name: str, image: Image.Image | None = None) -> InputError | ResourceError:
    """Return the error for an exception that a decoder has raised; decoders raise those of every class.

    Args:
        error: The exception.
        name: File name for the error message.
        image: The image that was decoded. If memory does not suffice for its pixels, that is the cause: some decoders
            fail without memory as they do for corrupt files.
    """
    reason = one_line(error)
    if isinstance(error, Image.DecompressionBombError):
        return ResourceError(f"{name}: too many pixels ({reason}). Use sliced inference, or save the image in parts.")
    lacks = image is not None and lacks_memory(image.width * image.height)
    if isinstance(error, MemoryError) or "out of memory" in reason.lower() or lacks:
        return OutOfMemoryError(
            f"{name}: not enough memory to decode it. Free memory, read images in fewer processes, or save it in parts."
        )
    kind = "truncated" if "truncated" in reason else "corrupt"
    return InputError(f"{name}: corrupt image ({reason}). Restore the file or remove it.", kind)


@contextlib.contextmanager
def decoding_limit(image: Image.Image, max_pixels: int | None) -> Iterator[None]:
    """Apply `max_pixels` also while an opened image is decoded, where Pillow checks the size of a TIFF again.

    Images that are not above Pillow's own limit are decoded in parallel.
    """
    with _OPEN_LOCK:
        usual = Image.MAX_IMAGE_PIXELS
    with contextlib.ExitStack() as stack:
        if max_pixels is not None and usual is not None and image.width * image.height > usual:
            stack.enter_context(_pixel_limit(max_pixels))
        yield


def seekable(source: str | Path | BinaryIO) -> str | Path | BinaryIO:
    """Return a source, or the content of an open file that can only be read once as a file in memory."""
    if isinstance(source, (str, Path)):
        return source
    try:
        can_seek = source.seekable()
    except (AttributeError, ValueError):
        can_seek = hasattr(source, "seek")
    return source if can_seek else io.BytesIO(source.read())


def has_deep_color(image: Image.Image) -> bool:
    """Return whether an opened, not yet decoded file has color samples of 16 bits; Pillow keeps their high bytes."""
    return _rawmode(image) in {f"{mode};16{order}" for mode in ("RGB", "RGBX", "RGBA") for order in "BLN"}


def read_low_bytes(source: str | Path | BinaryIO, position: int) -> Image.Image:
    """Return the low bytes of the samples of a file for which `has_deep_color` is true.

    Args:
        source: Path or open binary file.
        position: Position of the page.

    Returns:
        A decoded image (H, W) of the same mode.
    """
    image = _open(source, 2**31)
    if position:
        image.seek(position)
    rawmode = _rawmode(image)
    high_first = rawmode[-1] == "B" or (rawmode[-1] == "N" and sys.byteorder == "big")
    low = f"{rawmode[:-1]}{'L' if high_first else 'B'}"  # the other byte of each sample
    tiles: list[Any] = []
    for tile in image.tile:  # type: ignore[attr-defined]
        arguments = low if isinstance(tile[3], str) else (low, *tile[3][1:])
        tiles.append(type(tile)(tile[0], tile[1], tile[2], arguments))
    image.tile = tiles  # type: ignore[attr-defined]
    with decoding_limit(image, 2**31):
        image.load()
    return image


def unsupported_source(source: object) -> InputError:
    """Return the error for an object that is not an image."""
    if isinstance(source, (list, tuple)):
        return InputError(
            f"image: a {type(source).__name__} of {len(source)} images. Give one image, or the list to Predictor.batch."
        )
    return InputError(
        f"image: unsupported type {type(source).__name__}. "
        "Give a path, a Pillow image, the bytes of a file, or a numpy array (H, W, 3) of uint8 RGB."
    )


def source_name(source: object) -> str:
    """Return the name of a source for messages, in one line."""
    name = str(source) if isinstance(source, (str, Path)) else str(getattr(source, "name", "the open file"))
    return printable(name)


def one_line(error: object) -> str:
    """Return the message of an error, or its reason, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _pixel_limit(max_pixels: int | None) -> Iterator[None]:
    """Set Pillow's pixel limit while one file is opened; threads of this module open files one at a time."""
    with _OPEN_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        if max_pixels is not None:
            Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open(source: str | Path | BinaryIO, max_pixels: int | None) -> Image.Image:
    Image.preinit()
    formats = [name for name in IMAGE_FORMATS if name in Image.OPEN]  # MPO files are opened by the decoder of JPEG
    with _pixel_limit(max_pixels):
        return Image.open(source, formats=formats)


def _check_regular_file(path: Path, name: str) -> None:
    """Raise InputError for what is not a file; opening a pipe would wait for a writer forever."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if os.path.islink(path):
            problem = f"broken link to {printable(os.readlink(path))}. Restore the file or remove the link."
            raise InputError(f"{name}: {problem}", "broken link") from error
        if isinstance(error, PermissionError):
            raise InputError(f"{name}: no permission to read it. Change the permissions.", "no permission") from error
        raise InputError(f"{name}: no such image. Check the path.", "missing") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name}: a folder, not an image. Name an image file in it.", "folder")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: a pipe or device, not an image file. Name a regular file.", "pipe or device")
    if path.suffix.lower() in RAW_SUFFIXES:
        raise InputError(f"{name}: a camera raw file. Convert it to TIFF, PNG or JPEG first.", "camera raw file")
    if status.st_size >= LARGE_FILE_BYTES:
        check_large_file(path, status.st_size, file_kind(path), name)


def _start(source: str | Path | BinaryIO) -> tuple[bytes, str]:
    """Return the first bytes of a file and their `content_kind`; an open file keeps its position at the start."""
    if isinstance(source, (str, Path)):
        with open(source, "rb") as file:
            start = file.read(SIGNATURE_BYTES)
    else:
        source.seek(0, io.SEEK_SET)
        start = source.read(SIGNATURE_BYTES)
        source.seek(0, io.SEEK_SET)
    return start, content_kind(start)


def _unidentified(source: str | Path | BinaryIO, name: str) -> InputError | MissingDependencyError:
    """Return the error for a file that no decoder recognizes, with what its content shows."""
    kind = _start(source)[1]
    if kind == "empty file":
        return InputError(f"{name}: an empty file. Restore it or remove it.", kind)
    if kind == "HEIF" and not heif_installed():
        return MissingDependencyError(
            f'{name}: HEIC needs pillow-heif. Run pip install "sais-seg[heif]", or convert the image to JPEG.',
            package="pillow_heif",
            extra="heif",
        )
    if kind in IMAGE_FORMATS:
        return InputError(f"{name}: corrupt image (no valid {kind} header). Restore the file or remove it.", "corrupt")
    detail = f" ({kind})" if kind else ""
    remedy = "Convert it to JPEG or PNG, or remove it."
    return InputError(f"{name}: not an image that Pillow can read{detail}. {remedy}", kind or "not an image")


def file_name(image: Image.Image) -> str:
    """Return the name of an opened file for messages."""
    return printable(str(getattr(image, "filename", "") or "image"))


def _rawmode(image: Image.Image) -> str:
    """Return the layout of the samples in the file, such as "RGB;16B"; "" if it is unknown."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments if isinstance(arguments, str) else arguments[0] if isinstance(arguments, tuple) else ""
    return first if isinstance(first, str) else ""
