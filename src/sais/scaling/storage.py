"""Storage of inputs and outputs: local files, and every file system that fsspec or pyarrow can open by its address."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sais.errors import InputError, MissingDependencyError, ResourceError
from sais.io.atomic import atomic_write
from sais.io.decoding import one_line

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DISK_FULL = "Choose another folder, fix its permissions, or free disk space."


def is_remote(location: str) -> bool:
    """Return whether a location is an address, such as ``s3://bucket/photos``, and not a path."""
    return _SCHEME.match(location) is not None and not location.lower().startswith("file://")


def local_path(location: str) -> Path:
    """Return the path of a location that is not remote: a path, or an address that starts with ``file://``."""
    if location.lower().startswith("file://"):
        return Path(url2pathname(urlsplit(location).path))
    return Path(location)


def open_storage(location: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it.

    S3, Google Cloud Storage, Azure and HDFS are opened by pyarrow where fsspec's package for them is not installed.

    Args:
        location: address such as ``s3://bucket/photos``.

    Raises:
        InputError: the kind of storage is unknown.
        MissingDependencyError: a package is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise MissingDependencyError(
            f'{location}: remote storage needs fsspec. Run pip install "sais-seg[ray]".', "fsspec", "ray"
        ) from None
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(location))
    except ImportError as error:
        opened = _open_with_pyarrow(location)
        if opened is None:
            raise MissingDependencyError(f"{location}: {one_line(error)}. Install this package.") from error
        return opened
    except (ValueError, OSError) as error:
        raise InputError(f"{location}: cannot be opened ({one_line(error)}). Check the address.") from error


def _open_with_pyarrow(location: str) -> tuple[Any, str] | None:
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import FileSystem

        system, path = FileSystem.from_uri(location)
        return ArrowFSWrapper(system), path
    except (ImportError, ValueError, OSError):
        return None


def open_input(location: str) -> BinaryIO:
    """Open a file for reading.

    Args:
        location: path or address.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        if not is_remote(location):
            return local_path(location).open("rb")
        system, path = open_storage(location)
        return cast(BinaryIO, system.open(path, "rb"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{location}: no such file. Check the path.", "missing") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{location}: cannot be read ({one_line(error)}). Check the path.", "not read") from error


class OutputFolder:
    """A folder that receives files, each complete or not at all. Processes of other machines may share it.

    Args:
        location: path, or address such as ``s3://bucket/results``.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.path = None if is_remote(location) else local_path(location)
        """Its path; None for remote storage."""
        self._system: Any = None
        self._root = ""
        if self.path is None:
            self._system, self._root = open_storage(location)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield the path of a temporary file that becomes the file `name` at the end of the block.

        Raises:
            ResourceError: the file cannot be written.
        """
        if self.path is not None:
            with atomic_write(self.path / name, sync=True) as temporary:
                yield temporary
            return
        from sais.io.temporary import temporary_folder

        with temporary_folder() as folder:
            temporary = folder / Path(name).name
            yield temporary
            self._upload(temporary, name)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        try:
            if self.path is not None:
                return (self.path / name).read_bytes()
            return cast(bytes, self._system.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResourceError(f"{self.location}/{name}: cannot be read ({one_line(error)}). Try again.") from error

    def mark(self, name: str) -> None:
        """Create an empty file, if it does not exist.

        Raises:
            ResourceError: it cannot be created.
        """
        try:
            if self.path is not None:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).touch()
            else:
                target = f"{self._root}/{name}"
                self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._system.pipe_file(target, b"")
        except OSError as error:
            message = f"{self.location}/{name}: cannot be written ({one_line(error)}). {_DISK_FULL}"
            raise ResourceError(message) from error

    @contextlib.contextmanager
    def lines(self, name: str) -> Iterator[Iterator[str]]:
        """Yield the lines of a text file of ASCII characters."""
        with open_input(os.path.join(self.location, name)) as file:
            yield (line.decode("ascii", "replace") for line in file)

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder below it; none if it does not exist."""
        try:
            if self.path is not None:
                return {entry.name for entry in os.scandir(self.path / folder)}
            self._system.invalidate_cache()
            return {name.rpartition("/")[2] for name in self._system.ls(f"{self._root}/{folder}", detail=False)}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise ResourceError(f"{self.location}: cannot be listed ({one_line(error)}). Try again.") from error

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""
        try:
            if self.path is not None:
                (self.path / name).unlink(missing_ok=True)
            else:
                self._system.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResourceError(f"{self.location}/{name}: cannot be deleted ({one_line(error)}).") from error

    def _upload(self, source: Path, name: str) -> None:
        """Copy a file to the storage under a temporary name, and rename it there."""
        target = f"{self._root}/{name}"
        temporary = f"{target}.{secrets.token_hex(4)}.writing"
        try:
            self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(source), temporary)
            if self._system.exists(target):  # not every file system replaces files
                self._system.rm_file(target)
            self._system.mv(temporary, target)
        except OSError as error:
            raise ResourceError(
                f"{self.location}/{name}: cannot be written ({one_line(error)}). {_DISK_FULL}"
            ) from error
