r"""The image files that annotations name: exactly, or in the form of another tool or machine.

Labeling tools write file names with backslashes, folders of a server, URL escapes, an upload prefix, another Unicode
form or letter case. A name that does not exist as it is written is compared with the files that exist: by the last
component of its path, then by as many components before it as agree, and last by its name with the suffix of another
image format. It is used only where a single file matches.

A name that leads outside of the data folder, by ``..`` or as an absolute path, names no file as it is written: only its
last components are compared. Links that are in the folder are followed, because no name in an annotation makes one.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from sais.data.formats.paths_inside import name_key as _key
from sais.io.sources import IMAGE_SUFFIXES

_PROBES = 20
"""Number of images searched for in each candidate folder."""
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""Prefix that Label Studio gives to uploaded files."""
_TREE = "/**"
"""End of the name of a folder whose whole tree was looked at."""
_MAX_COMPARED = 20_000
"""Maximum number of file names among which the nearest is searched."""


class ImageFiles:
    """The files of one or several image folders by name.

    Args:
        folders: Candidate folders, of which the one with most of the first images is used.
        names: Names in the annotation file.
        root: Folder outside of which no file is used, apart from links; None to use any file that is named.
    """

    def __init__(self, folders: Sequence[Path], names: Sequence[str], root: Path | None = None) -> None:
        self._root = None if root is None else os.path.abspath(root)
        self._folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._listings: dict[Path, frozenset[str]] = {}
        self._indices: dict[Path, dict[str, list[str]]] = {}
        probes = names[:_PROBES]
        counts = [sum(self._exact(folder, name) is not None for name in probes) for folder in self._folders]
        if not any(counts):
            counts = [sum(self._search(folder, name) is not None for name in probes) for folder in self._folders]
        self.found = any(counts)
        """Whether any of the first images exists."""
        if self.found:
            self._folders.insert(0, self._folders.pop(counts.index(max(counts))))

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._listings:
            self._listings[folder] = _list_folder(folder)
        return self._listings[folder]

    def _index(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._indices:
            self._indices[folder] = _index_tree(folder)
        return self._indices[folder]

    def digests(self) -> dict[str, str]:
        """Return a digest of the names in each folder that was looked at, as `folder_digests` returns them later."""
        digests = {str(folder): _digest(names) for folder, names in self._listings.items()}
        return digests | {f"{folder}{_TREE}": _digest_index(index) for folder, index in self._indices.items()}

    @property
    def folder(self) -> Path | None:
        """The folder of most of the first images; None if no candidate exists."""
        return self._folders[0] if self._folders else None

    def find(self, name: str) -> tuple[Path, bool] | None:
        """Return the file of a name, and whether it has exactly this name; None if there is none, or several fit."""
        if not self._folders:
            return None
        folder = self._folders[0]  # another folder may hold another split's file of the same name
        path = self._exact(folder, name)
        if path is not None:
            return path, True
        path = self._search(folder, name)
        return None if path is None else (path, False)

    def nearest(self, name: str) -> str | None:
        """Return the existing file whose name is nearest to `name`; None if none is near."""
        names = [file for folder in self._folders for files in self._index(folder).values() for file in files]
        bases: dict[str, str] = {}
        for file in names[:_MAX_COMPARED]:
            bases.setdefault(_key(file.rpartition("/")[2]), file)
        matches = difflib.get_close_matches(_key(_plain(name).rpartition("/")[2]), bases, 1, 0.5)
        return bases[matches[0]] if matches else None

    def leads_outside(self, name: str) -> bool:
        """Return whether a name is that of a file outside of the root."""
        folder = self._folders[0] if self._folders else Path(self._root or "")
        return self._root is not None and may_lead_outside(name) and not self._is_inside(folder, name)

    def _is_inside(self, folder: Path, name: str) -> bool:
        path = os.path.normpath(os.path.join(os.path.abspath(folder), name))
        return path.startswith(os.path.join(self._root or "", ""))

    def _exact(self, folder: Path, name: str) -> Path | None:
        if self._root is not None and may_lead_outside(name):
            if not self._is_inside(folder, name):
                return None
            path = Path(os.path.normpath(folder / name))  # a link followed by .. may lead anywhere
            return path if path.name in self._listing(path.parent) else None
        parent, _, base = name.rpartition("/")
        place = folder / parent if parent else folder
        return folder / name if base and base in self._listing(place) else None

    def _search(self, folder: Path, name: str) -> Path | None:
        for form in _forms(name):
            parts = form.split("/")
            candidates = self._index(folder).get(_key(parts[-1]), [])
            if not candidates:
                continue
            agreeing = [_agreement(parts, candidate.split("/")) for candidate in candidates]
            best = max(agreeing)
            if agreeing.count(best) == 1:
                return folder / candidates[agreeing.index(best)]
            return None
        return self._search_suffix(folder, name)

    def _search_suffix(self, folder: Path, name: str) -> Path | None:
        """Return the only image of the folder that a name states which has this name with another suffix."""
        parent, _, base = _plain(name).rpartition("/")
        stem, suffix = os.path.splitext(base)
        if suffix.lower() not in IMAGE_SUFFIXES or may_lead_outside(parent):
            return None
        for place in dict.fromkeys((folder / parent, folder)):
            files = [os.path.splitext(file) for file in self._listing(place)]
            same = [
                first + last for first, last in files if _key(first) == _key(stem) and last.lower() in IMAGE_SUFFIXES
            ]
            if same:
                return place / same[0] if len(same) == 1 else None
        return None


def folder_digests(folders: Iterable[str]) -> dict[str, str]:
    """Return a digest of the names in each folder, by which it is noticed that files were added or removed.

    Args:
        folders: Keys of `ImageFiles.digests`.
    """
    digests = {}
    for name in folders:
        folder = Path(name.removesuffix(_TREE))
        is_tree = name.endswith(_TREE)
        digests[name] = _digest_index(_index_tree(folder)) if is_tree else _digest(_list_folder(folder))
    return digests


def _digest_index(index: dict[str, list[str]]) -> str:
    return _digest(file for files in index.values() for file in files)


def _digest(names: Iterable[str]) -> str:
    return hashlib.blake2b(os.fsencode("\0".join(sorted(names))), digest_size=16).hexdigest()


def may_lead_outside(name: str) -> bool:
    """Return whether a name has a part ``..`` or is absolute, so that it may be of a file outside of its folder."""
    return ".." in name or name.startswith(("/", "\\")) or bool(os.path.splitdrive(name)[0])


def name_inside(name: str) -> str:
    """Return a name that cannot lead outside of its folder: without ``..``, drive and root."""
    if not may_lead_outside(name):
        return name
    parts = os.path.normpath(os.path.splitdrive(name)[1].replace("\\", "/")).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"


def _forms(name: str) -> Iterable[str]:
    """Return the paths that a name may mean, the most literal first."""
    plain = name.replace("\\", "/")
    forms = [plain, _plain(name)]
    base = forms[-1].rpartition("/")[2]
    if _UPLOAD_PREFIX.match(base):
        forms.append(_UPLOAD_PREFIX.sub("", base))
    return dict.fromkeys(form for form in forms if form.rpartition("/")[2])


def _plain(name: str) -> str:
    """Return the path inside a URL or a reference such as /data/local-files/?d=images/a.png, without escapes."""
    try:
        parts = urlsplit(name.replace("\\", "/"))
        queried = parse_qs(parts.query).get("d", [""])[0]
    except ValueError:  # brackets that are no IPv6 address
        return unquote(name.replace("\\", "/"))
    is_url = bool(parts.scheme and parts.netloc)
    return queried or unquote(parts.path if is_url else name.replace("\\", "/"))


def _agreement(wanted: Sequence[str], existing: Sequence[str]) -> tuple[int, bool, bool]:
    """Return how well an existing path fits: the number of last components that agree, then equality of the name."""
    count = 0
    for first, second in zip(reversed(wanted), reversed(existing), strict=False):
        if _key(first) != _key(second):
            break
        count += 1
    composed = [unicodedata.normalize("NFC", path[-1]) for path in (wanted, existing)]
    return count, composed[0] == composed[1], wanted[-1] == existing[-1]


def _list_folder(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:  # missing, not a folder, or a name that is too long
        return frozenset()


def _index_tree(folder: Path) -> dict[str, list[str]]:
    """Return the files below a folder, hidden ones excluded: key of the name -> paths relative to the folder."""
    index: dict[str, list[str]] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = Path(place).relative_to(folder).as_posix()
        for file in sorted(files):
            index.setdefault(_key(file), []).append(file if prefix == "." else f"{prefix}/{file}")
    return index
