"""Cases of images and videos: every format that Pillow writes here, and mp4, with changed bytes or stated sizes."""

from __future__ import annotations

import functools
import io
import itertools
import struct
import zlib
from pathlib import Path
from random import Random

from peers.fuzz.mutation import mutate_bytes
from peers.fuzz.oracle import Case, run_command
from peers.fuzz.samples import Samples
from sais.errors import SaisError

SUFFIXES = (".jpg", ".png", ".tif", ".webp", ".avif", ".bmp", ".gif", ".ppm", ".JPG", ".jp2")


def image_files(rng: Random, samples: Samples, folder: Path) -> Case:
    """Image files: size, pages and pixels of each, and predictions and checks of some."""
    formats = encoded()
    name = rng.choice(list(formats))
    content = formats[name]
    chance = rng.random()
    if chance < 0.15 and name.startswith("PNG"):
        content = _with_png_size(content, rng.choice(((10**6, 10**6), (65_501, 1), (40_000, 40_000), (0, 5), (1, 1))))
    elif chance < 0.95:
        content = mutate_bytes(rng, content)
    else:
        content = rng.choice((b"", b"%!PS-Adobe\n{} loop", b"<svg/>", rng.randbytes(200), b"P6 99999 99999 255\n"))
    path = folder / f"image{rng.choice(SUFFIXES)}"
    path.write_bytes(content)
    about = f"{name} as {path.name}"
    if rng.random() < 0.1:
        argv = ["predict", str(samples.graphs[0]), str(path), "--pages", rng.choice(("first", "all")), "--score", "0"]
        return Case(lambda: run_command(argv), f"{about}: sais predict")
    return Case(lambda: _read(path), f"{about}: read_size, count_pages, read_image")


def video_files(rng: Random, samples: Samples, folder: Path) -> Case:
    """Videos: their information and frames, and predictions on some."""
    path = folder / f"video{rng.choice(('.mp4', '.avi', '.mkv', '.jpg'))}"
    path.write_bytes(mutate_bytes(rng, _encoded_video(samples.folder / "video.mp4")))
    if rng.random() < 0.1:
        argv = ["predict", str(samples.graphs[0]), str(path), "--frame-stride", rng.choice(("1", "3", "1000"))]
        return Case(lambda: run_command(argv), f"{path.name}: sais predict")
    return Case(lambda: _read_video(path, rng.choice((1, 7))), f"{path.name}: video_info, read_video")


def _read_video(path: Path, frame_stride: int) -> None:
    from sais.io.video import read_video, video_info

    video_info(path)
    for _ in itertools.islice(read_video(path, frame_stride), 100):
        pass


@functools.cache
def _encoded_video(path: Path) -> bytes:
    return path.read_bytes()


def _read(path: Path) -> None:
    """Read an image in every way; raise the error of the last way that failed."""
    from sais.io.image_reader import ImageReader
    from sais.io.images import count_pages, read_image, read_size
    from sais.io.sources import find_sources

    error: SaisError | None = None
    for function in (read_size, count_pages, read_image):
        try:
            function(path)
        except SaisError as problem:
            error = problem
    reader = ImageReader(None)
    for image in find_sources([str(path)], "all").images[:50]:
        reader.read(image)
    reader.close()
    if error is not None:
        raise error


@functools.cache
def encoded() -> dict[str, bytes]:
    """Return an image of 48 x 32 pixels in every format and variant that Pillow writes here."""
    from PIL import Image

    ramp = bytes((x * 5 + y * 3 + c * 40) % 256 for y in range(32) for x in range(48) for c in range(3))
    image = Image.frombytes("RGB", (48, 32), ramp)
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "JPEG": (image, "JPEG", {"exif": exif}),
        "JPEG progressive": (image, "JPEG", {"progressive": True}),
        "JPEG CMYK": (image.convert("CMYK"), "JPEG", {}),
        "MPO": (image, "MPO", {"save_all": True, "append_images": [image]}),
        "PNG": (image, "PNG", {}),
        "PNG palette": (image.convert("P"), "PNG", {"transparency": 3}),
        "PNG 16 bit": (image.convert("I;16"), "PNG", {}),
        "PNG animated": (image, "PNG", {"save_all": True, "append_images": [image.rotate(90)]}),
        "TIFF": (image, "TIFF", {"exif": exif}),
        "TIFF LZW": (image, "TIFF", {"compression": "tiff_lzw"}),
        "TIFF JPEG": (image, "TIFF", {"compression": "jpeg"}),
        "TIFF deflate": (image.convert("RGBA"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        "TIFF float": (image.convert("F"), "TIFF", {}),
        "TIFF fax": (image.convert("1"), "TIFF", {"compression": "group4"}),
        "TIFF pages": (image, "TIFF", {"save_all": True, "append_images": [image, image]}),
        "WEBP": (image, "WEBP", {}),
        "WEBP animated": (image, "WEBP", {"save_all": True, "append_images": [image.rotate(90)]}),
        "GIF animated": (image, "GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        **{name: (image, name, {}) for name in ("AVIF", "JPEG2000", "BMP", "DIB", "PPM", "QOI", "PCX", "SGI", "TGA")},
    }
    files = {}
    for name, (frame, kind, options) in variants.items():
        if kind in Image.SAVE or (Image.init() and kind in Image.SAVE):
            with io.BytesIO() as file:
                try:
                    frame.save(file, kind, **options)
                except OSError:  # this Pillow lacks the encoder
                    continue
                files[name] = file.getvalue()
    return files


def _with_png_size(content: bytes, size: tuple[int, int]) -> bytes:
    """Return a PNG file with another stated width and height and a valid checksum."""
    header = struct.pack(">II", *size) + content[24:29]
    return content[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:]
