"""Sources of a prediction: the images and videos that paths, folders, glob patterns, addresses and lists name.

An image in a folder is recognized by its suffix or, where that is odd or missing, by its content. What is left out is
counted by kind. The names of the images in results are relative to their source and unique.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from sais.errors import InputError, SaisError
from sais.io.decoding import IMAGE_FORMATS, RAW_SUFFIXES, file_kind, heif_installed
from sais.io.download import URL_SCHEMES
from sais.io.images import count_pages
from sais.io.live_video import is_live
from sais.io.result_names import result_names, url_name
from sais.io.video import is_video
from sais.text import printable

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".tif", ".tiff", ".webp", ".gif"),
    *(".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".qoi", ".pcx", ".sgi", ".ras", ".tga"),
)
"""Suffixes of image files, compared without regard to case."""
STANDARD_INPUT = "-"
"""Source that is a list of paths and addresses on standard input."""

_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_TEXT_SUFFIXES = (".txt", ".json", ".xml", ".csv", ".yaml", ".yml", ".md", ".py", ".log")
"""Suffixes of files that are not opened to find out whether they are images."""
_SINGLE_PAGE_SUFFIXES = (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".mpo")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_MAX_SEARCHED = 20_000
"""Number of files in subfolders that are searched for images, for the hint of an error message."""
_RESULTS = "predictions.json"
"""File by which the output folder of an earlier prediction is recognized."""

Pages = Literal["first", "all"]


@dataclass(frozen=True)
class SourceImage:
    """One image, or one page or frame of an image file, to predict on."""

    location: Path | str
    """File, or http or https address."""
    file_name: str
    """Unique name for results, with the file's suffix: relative to its source, with forward slashes. A page is
    ``scan_page_0002.tif``."""
    page: int | None = None
    """Position of the page or frame, from 0; None: the first, of a file whose further pages are not predicted."""

    @property
    def label(self) -> str:
        """Its path or address and page number, in one printable line."""
        page = "" if self.page is None else f" page {self.page + 1}"
        return printable(str(self.location)) + page

    def entry(self) -> dict[str, Any]:
        """Return its part of an image entry in a COCO file: `file_name`; of a page, also `source_file` and `page`."""
        if self.page is None:
            return {"file_name": self.file_name}
        return {"file_name": self.file_name, "source_file": str(self.location), "page": self.page + 1}


@dataclass
class Sources:
    """What several sources name, in order."""

    images: list[SourceImage] = field(default_factory=list)
    """The images and pages."""
    videos: list[Path] = field(default_factory=list)
    """The videos."""
    streams: list[str] = field(default_factory=list)
    """Numbers of webcams and addresses of videos."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Kind of file, such as ".txt" -> number of files left out."""
    notes: list[str] = field(default_factory=list)
    """Names that were found under another spelling, and the like."""

    def left_out_text(self) -> str:
        """Return the kinds by frequency, such as "3 .txt, 1 .heic (install sais-seg[heif])"; "" without any."""
        return ", ".join(f"{count} {kind}" for kind, count in self.left_out.most_common())


def is_image(path: str | Path) -> bool:
    """Return whether a path has the suffix of an image and is not hidden, such as macOS's ``._shot.jpg``."""
    path = Path(path)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def find_images(source: str | Path) -> list[Path]:
    """Return the image files of a source, in natural order (2.jpg before 10.jpg).

    Args:
        source: An image file; a folder, whose images are taken without those of subfolders, which often contain a
            tool's own output; or a glob pattern such as ``shots/*.jpg`` or ``shots/**/*``, whose images are taken.

    Raises:
        InputError: There is no image, or the file is not an image.
    """
    sources = find_sources([str(source)])
    paths = [image.location for image in sources.images if isinstance(image.location, Path)]
    if not paths:
        raise InputError(f"{source}: no image file. Name an image, a folder or a glob pattern.")
    return paths


def find_sources(words: Sequence[str], pages: Pages = "first", listing: bytes = b"") -> Sources:
    """Return the images and videos that one or several sources name.

    Args:
        words: Paths of images, videos and folders, glob patterns, http and https addresses, numbers of webcams and
            addresses of videos (`sais.io.live_video.is_live`), or `STANDARD_INPUT`. A file that exists is taken
            literally, even if its name looks like a pattern. A single source that is not an image is an error; among
            several it is left out, since the shell expands ``shots/*`` to all files.
        pages: Whether the pages and frames of a file are images of their own, or only the first is predicted.
        listing: Content of standard input: a path or address a line, or separated by NUL characters.

    Raises:
        InputError: A source does not exist, or there is neither an image nor a video.
    """
    sources = Sources()
    found: list[tuple[Path | str, str]] = []  # location, name relative to its source
    for word in words:
        if word == STANDARD_INPUT:
            found += _listed(listing, sources)
        else:
            found += _find(word, sources, single=len(words) == 1)
    unique = dict(found)
    if len(unique) < len(found):
        sources.notes.append(f"{len(found) - len(unique)} images are named more than once and predicted once")
    locations = list(unique)
    names = result_names([(location, unique[location]) for location in locations])
    for location, name in zip(locations, names, strict=True):
        sources.images += _pages(location, name) if pages == "all" else [SourceImage(location, name)]
    if not sources.images and not sources.videos and not sources.streams:
        left_out = sources.left_out_text()
        detail = f" (left out: {left_out})" if left_out else ""
        raise InputError(f"{' '.join(words)}: no images or videos{detail}. Check the paths.")
    return sources


def unreadable_kind(error: SaisError) -> str:
    """Return what is wrong with an unreadable image, in a few words to count by."""
    extra = getattr(error, "extra", "")
    if extra:
        return f"needs the extra {extra} (install sais-seg[{extra}])"
    return getattr(error, "kind", "") or "unreadable"


def _find(word: str, sources: Sources, single: bool) -> list[tuple[Path | str, str]]:
    """Return the images of one source with their names relative to it; videos go to `sources`."""
    if not word.strip():
        raise InputError(f"source {word!r}: an empty name. Name an image, a folder or a video.")
    if is_live(word) and not os.path.lexists(word):
        sources.streams.append(word)
        return []
    if word.lower().startswith(URL_SCHEMES):
        return [(word, url_name(word))]
    if word.lower().startswith("file://"):
        word = url2pathname(urlsplit(word).path)
    elif _SCHEME.match(word):
        raise InputError(f"{word}: unsupported address. Use http, https or rtsp, or download the file first.")
    if not os.path.lexists(word):
        if glob.has_magic(word):
            return _find_matches(word, sources)
        word = _other_spelling(word, sources)
    path = Path(word)
    if path.is_dir():
        return _find_in_folder(path, sources, single)
    if not path.is_file():  # a pipe, a device or a broken link: reported when it is read
        return [(path, path.name)]
    video = is_video(path)
    kind = file_kind(path) if video or not is_image(path) else ""
    if kind == "video" or (video and kind not in IMAGE_FORMATS):
        sources.videos.append(path)
        return []
    if kind not in IMAGE_FORMATS and path.suffix.lower() not in (*IMAGE_SUFFIXES, *RAW_SUFFIXES):
        if single:
            detail = f" ({kind})" if kind else ""
            raise InputError(f"{printable(word)}: not an image or video{detail}. Name an image, a folder or a video.")
        sources.left_out[_left_out_kind(path)] += 1
        return []
    return [(path, path.name)]


def _find_in_folder(folder: Path, sources: Sources, single: bool) -> list[tuple[Path | str, str]]:
    if not single and (folder / _RESULTS).is_file():
        sources.left_out[f"folder with {_RESULTS}"] += 1
        return []
    left_out: Counter[str] = Counter()
    images = [child for child in _sorted(folder.iterdir()) if _take(child, left_out)]
    sources.left_out += left_out
    if not images and single:
        nested = sum(is_image(child) for child in islice(folder.rglob("*"), _MAX_SEARCHED))
        detail = f" ({Sources(left_out=left_out).left_out_text()})" if left_out else ""
        remedy = f"Use '{folder}/**/*' for the {nested} in its subfolders." if nested else "Use another folder."
        raise InputError(f"{folder}: no images in this folder{detail}. {remedy}")
    return [(child, child.name) for child in images]


def _find_matches(pattern: str, sources: Sources) -> list[tuple[Path | str, str]]:
    root, escaped = _literal_folder(re.sub(r"(\*\*/)+", "**/", pattern))  # repeated ** find each file many times
    matches = [Path(name) for name in glob.glob(escaped, recursive=True)]
    if not matches:
        raise InputError(f"{pattern}: no file matches this pattern. Check the path.")
    left_out: Counter[str] = Counter()
    images = [path for path in _sorted(matches) if _take(path, left_out)]
    sources.left_out += left_out
    if not images:
        detail = f" ({Sources(left_out=left_out).left_out_text()})" if left_out else ""
        raise InputError(f"{pattern}: no images among the matches{detail}. Check the pattern.")
    return [(path, path.relative_to(root).as_posix()) for path in images]


def _take(path: Path, left_out: Counter[str]) -> bool:
    """Return whether a file of a folder or a pattern is an image; other files are counted."""
    if path.name.startswith(".") or path.is_dir():
        return False
    suffix = path.suffix.lower()
    regular = path.is_file()
    if regular and suffix in IMAGE_SUFFIXES and (suffix not in _HEIF_SUFFIXES or heif_installed()):
        return True
    if regular and suffix not in (*_HEIF_SUFFIXES, *RAW_SUFFIXES, *_TEXT_SUFFIXES):
        kind = file_kind(path)
        if kind in IMAGE_FORMATS and (kind != "HEIF" or heif_installed()):
            return True
    left_out[_left_out_kind(path)] += 1
    return False


def _left_out_kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if not path.exists():
        return "broken link"
    if not path.is_file():
        return "pipe or device"
    if suffix in _HEIF_SUFFIXES or file_kind(path) == "HEIF":
        return f"{suffix or 'HEIC'} (install sais-seg[heif])"
    if suffix in RAW_SUFFIXES:
        return f"{suffix} (camera raw)"
    if is_video(path):
        return f"{suffix} (a video, which is predicted if named by itself)"
    return printable(suffix) or "without suffix"


def _listed(listing: bytes, sources: Sources) -> list[tuple[Path | str, str]]:
    """Return the images that the lines of standard input name; a missing file is reported when it is read."""
    text = os.fsdecode(listing)
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    if not any(lines):
        raise InputError("standard input: no paths. Give a path a line, such as from find or ls.")
    found: list[tuple[Path | str, str]] = []
    for line in filter(None, lines):
        if is_live(line) and not os.path.lexists(line):
            sources.streams.append(line)
        elif line.lower().startswith(URL_SCHEMES):
            found.append((line, url_name(line)))
        elif is_video(line):
            sources.videos.append(Path(line))
        else:
            found.append((Path(line), Path(os.path.abspath(line)).name or "root"))  # the names of . and / are empty
    return found


def _other_spelling(word: str, sources: Sources) -> str:
    """Return an existing file whose name differs from `word` in Unicode form, URL escapes, slashes or ``~`` only."""
    spellings = [
        *(unicodedata.normalize(form, word) for form in ("NFC", "NFD")),
        unquote(word),
        word.replace("\\", "/"),
        os.path.expanduser(word),
    ]
    for spelling in dict.fromkeys(spellings):
        if spelling != word and os.path.lexists(spelling):
            sources.notes.append(f"{printable(word)} was found as {printable(spelling)}")
            return spelling
    folder, name = os.path.split(word)
    near: list[str] = []
    if os.path.isdir(folder or "."):
        near = difflib.get_close_matches(name, os.listdir(folder or ".")[:10_000], n=1, cutoff=0.7)
    remedy = f"Did you mean {printable(os.path.join(folder, near[0]))}?" if near else "Check the path."
    raise InputError(f"{printable(word)}: no such file or folder. {remedy}")


def _literal_folder(pattern: str) -> tuple[Path, str]:
    """Return the existing folder at the start of a pattern, and the pattern with that folder's brackets escaped."""
    parts = Path(pattern).parts
    root, length = Path(parts[0]) if Path(pattern).is_absolute() else Path(), int(Path(pattern).is_absolute())
    while length < len(parts) - 1 and (root / parts[length]).is_dir():
        root, length = root / parts[length], length + 1
    remainder = os.path.join(*parts[length:])
    if root == Path():
        return root, remainder
    return root, os.path.join(glob.escape(str(root)), remainder)


def _pages(location: Path | str, name: str) -> Iterator[SourceImage]:
    """Yield the pages of a file; a file with one page, or that cannot be read, as a whole."""
    count = 1
    if isinstance(location, Path) and location.suffix.lower() not in _SINGLE_PAGE_SUFFIXES:
        try:
            count = count_pages(location)
        except SaisError:  # reported when it is read
            count = 1
    if count == 1:
        yield SourceImage(location, name)
        return
    stem, suffix = os.path.splitext(name)
    for page in range(count):
        yield SourceImage(location, f"{stem}_page_{page + 1:04d}{suffix}", page)


def _sorted(paths: Iterable[Path]) -> list[Path]:
    """Sort in natural order: 2.jpg before 10.jpg."""

    def key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.split(r"([0-9]+)", str(path).lower())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], str(path)

    return sorted(paths, key=key)
