"""Fonts for class names of any script: which font file has the characters of a text.

Searched in this order: the files that `SAIS_FONTS` names, DejaVu Sans (of matplotlib: Latin, Greek, Cyrillic, Arabic,
Hebrew), the Noto fonts of the extra `fonts` (Chinese, Japanese, Korean, Devanagari, Thai), fonts of the system. A text
for which no font is installed is replaced by its fallback, and that is reported once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFont, features

from sais.text import short_name, shorten

MAX_LETTERS = 200
"""Maximum number of letters of a text that is drawn."""
VARIABLE = "SAIS_FONTS"
"""Environment variable with font files, separated like the folders of PATH; searched first."""
PACKAGE_FONTS = (
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf"),
    ("fontpkg_noto_sans", "files/NotoSans*wght*.ttf"),
    ("fontpkg_noto_sans_thai", "files/*.ttf"),
    ("noto_cjk_sans_jp_regular", "NotoSansCJK*.otf"),
)
"""(package, pattern of its font file) of fonts that are installed by pip."""
SYSTEM_FONTS = {
    "win32": ("segoeui.ttf", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "Nirmala.ttc", "Nirmala.ttf", "LeelawUI.ttf"),
    "darwin": ("Supplemental/Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
}
"""Platform -> font files of the system that cover many scripts; elsewhere fontconfig is asked."""
SYSTEM_FOLDERS = {"win32": r"C:\Windows\Fonts", "darwin": "/System/Library/Fonts"}
NO_CHARACTER = "\uffff"
"""A character that no font has: it is drawn as the font's box for missing characters."""

_reported = False


def font_for(text: str, size: int) -> Any | None:
    """Return a Pillow font in `size` pixels that has every character of a text; None if no font is installed."""
    if _is_right_to_left(text) and not features.check("raqm"):
        return None
    path = _file_for("".join(sorted(set(text))))
    return None if path is None else _open(path, size)


def drawable_names(class_names: Sequence[str], labels: Iterable[int]) -> list[str]:
    """Return the name of each label; "class 3" where no font has the characters of a name, which is reported once."""
    names: dict[int, str] = {}
    for label in {int(label) for label in labels}:
        name = short_name(class_names[label])
        # With the characters of a score, which are drawn by the same font.
        drawable = font_for(f"{name} 0.123456789", 12) is not None
        names[label] = name if drawable else f"class {label}"
        if not drawable:
            _report(name, names[label])
    return [names[int(label)] for label in labels]


def _report(name: str, fallback: str) -> None:
    global _reported
    if not _reported:
        _reported = True
        warnings.warn(
            f"class name '{name}': no installed font has its characters, so drawings show '{fallback}' instead. "
            f'Run pip install "sais-seg[fonts]", or name a font file in {VARIABLE}.',
            stacklevel=3,
        )


def default_font(size: int) -> Any:
    """Return the font of digits and Latin text; without FreeType, Pillow has it in one size only."""
    found = font_for("Aa0", size)
    return _open("", size) if found is None else found


@lru_cache(maxsize=512)
def _file_for(characters: str) -> str | None:
    """Return the font file that has all characters; "" is Pillow's own font."""
    for path in _files():
        if _has_characters(path, characters):
            return path
    system_font = _ask_fontconfig(characters)
    return system_font if system_font is not None and _has_characters(system_font, characters) else None


def _files() -> Iterator[str]:
    """Yield the font files in the order in which they are preferred."""
    yield from filter(os.path.isfile, os.environ.get(VARIABLE, "").split(os.pathsep))
    yield from _package_files()
    yield ""
    folder = Path(SYSTEM_FOLDERS.get(sys.platform, ""))
    yield from (str(folder / name) for name in SYSTEM_FONTS.get(sys.platform, ()) if (folder / name).is_file())


@lru_cache(maxsize=1)
def _package_files() -> tuple[str, ...]:
    paths: list[Path] = []
    for package, pattern in PACKAGE_FONTS:
        spec = find_spec(package)  # finds the folder; the package is not imported
        for location in (spec.submodule_search_locations or []) if spec else []:
            paths += sorted(Path(location).glob(pattern))
    return tuple(str(path) for path in paths if "Italic" not in path.name)


def _ask_fontconfig(characters: str) -> str | None:
    """Return a font file that has the characters, according to fontconfig (Linux and BSD)."""
    program = shutil.which("fc-match")
    if program is None or sys.platform in SYSTEM_FONTS:
        return None
    charset = " ".join(f"{ord(character):x}" for character in characters)
    command = [program, "-f", "%{file}", f"sans-serif:charset={charset}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return found if os.path.isfile(found) else None


@lru_cache(maxsize=2048)
def _has_characters(path: str, characters: str) -> bool:
    """Return whether a font draws each character by a glyph other than that of missing characters."""
    try:
        font = _open(path, 24, plain=True)
        missing = bytes(font.getmask(NO_CHARACTER))
        return all(
            character.isspace() or unicodedata.category(character) == "Cf" or bytes(font.getmask(character)) != missing
            for character in characters
        )
    except (OSError, ValueError):  # not a font, or a damaged one
        return False


@lru_cache(maxsize=64)
def _open(path: str, size: int, plain: bool = False) -> Any:
    """Open a font file, "" for Pillow's own; `plain` without shaping, so that characters are drawn one by one."""
    if path:
        engine = ImageFont.Layout.BASIC if plain or not features.check("raqm") else ImageFont.Layout.RAQM
        return ImageFont.truetype(path, size, layout_engine=engine)
    try:
        return ImageFont.load_default(size=size)
    except (ImportError, OSError):
        return ImageFont.load_default()


def _is_right_to_left(text: str) -> bool:
    """Return whether a text is written from right to left, which only Pillow's raqm layout draws correctly."""
    return any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text)


def shorten_to_width(text: str, font: Any, width: float) -> str:
    """Shorten a text, with an ellipsis, to at most `width` pixels in a font and `MAX_LETTERS` letters."""
    text = shorten(text, MAX_LETTERS)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
