"""Models on the Hugging Face Hub: names of repositories, the download of one model file, the upload of a folder.

Only the file of the model is fetched, a safetensors file or an exported graph, never a pickle. What `sais.trust` says
about files of others holds for it. The environment variables of `huggingface_hub` apply: HF_TOKEN, HF_HOME,
HF_HUB_OFFLINE and HF_ENDPOINT, the address of another server.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sais._version import __version__
from sais.errors import CheckpointError, ConfigError, InputError, MissingDependencyError, ResourceError
from sais.text import one_line, short_name, without_credentials

SCHEME = "hf://"
"""Start of the address of a model on the Hub: hf://owner/name, hf://owner/name@revision, hf://owner/name/file."""
DEFAULT_ENDPOINT = "https://huggingface.co"
WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
"""Files of a model: weights for PyTorch, and a graph that needs no PyTorch."""
CONNECT_SECONDS = 5.0
"""Time after which a server counts as not reachable."""
SUFFIXES = (".safetensors", ".onnx", ".xml")
"""Suffixes of files that are fetched as a model."""
_NAME = r"(?![\w.-]*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_ADDRESS = re.compile(rf"hf:/+(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>\w[\w.-]*))?(?:/(?P<file>.+))?", re.ASCII)
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w.-]*(?:/[\w.-]+)*", re.ASCII)
_DISK_ERRORS = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class HubAddress:
    """The address of a model on the Hub."""

    repository: str
    """owner/name."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""
    file: str | None = None
    """Path of the file in the repository; None for `WEIGHTS`, without PyTorch for `GRAPH`."""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}{revision}{f'/{self.file}' if self.file else ''}"


@dataclass(frozen=True)
class FetchedModel:
    """A model of the Hub as a file on this machine."""

    path: Path
    """File in the cache."""
    address: HubAddress
    """Address with the name of the file."""
    endpoint: str
    """Address of the server, without credentials."""
    commit: str
    """Commit of the repository; empty if the server did not name one."""

    def __str__(self) -> str:
        commit = f", commit {self.commit[:8]}" if self.commit else ""
        return f"{self.address} ({self.path.stat().st_size / 1e6:.1f} MB{commit}) of {self.endpoint}: {self.path}"


def is_hub_address(source: str | Path) -> bool:
    """Return whether a source starts with hf://, also as a `Path`, which has one slash less."""
    return re.match(r"hf:/", source if isinstance(source, str) else source.as_posix()) is not None


def is_repository(source: str | Path) -> bool:
    """Return whether a source can be the name of a repository, owner/name, and is none of a local file or folder.

    Where a local folder has the name of the owner, a path in it was meant: runs/frist is a misspelled runs/first.
    """
    text = source if isinstance(source, str) else source.as_posix()
    path = Path(text)
    if _REPOSITORY.fullmatch(text) is None or path.suffix in SUFFIXES:
        return False
    return not os.path.lexists(path) and not os.path.lexists(path.parent)


def parse_address(source: str | Path) -> HubAddress:
    """Parse hf://owner/name[@revision][/file] or owner/name.

    Raises:
        ConfigError: the text is no such address, its file is not a model, or it leads out of the repository.
    """
    text = source if isinstance(source, str) else source.as_posix()
    if _REPOSITORY.fullmatch(text):
        return HubAddress(text)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{short_name(text)}: not the address of a model on the Hub. Write {SCHEME}owner/name, "
            f"{SCHEME}owner/name@revision or {SCHEME}owner/name/file."
        )
    file = match["file"]
    if file is not None:
        parts = PurePosixPath(file)
        if parts.is_absolute() or "\\" in file or any(part in ("..", ".", "") for part in file.split("/")):
            raise ConfigError(f"{short_name(text)}: the file is outside of the repository. Name a file in it.")
        if parts.suffix not in SUFFIXES:
            raise ConfigError(
                f"{short_name(text)}: not a model file. Name a file that ends with {', '.join(SUFFIXES)}."
            )
    return HubAddress(match["repository"], match["revision"], file)


def endpoint() -> str:
    """Return the address of the server for messages: HF_ENDPOINT, or that of Hugging Face, without credentials."""
    return without_credentials(_endpoint())


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT


def fetch_model(
    source: str | Path | HubAddress,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: bool = False,
) -> FetchedModel:
    """Download the model file of a repository, unless it is in the cache.

    Args:
        source: hf://owner/name[@revision][/file], owner/name, or an address.
        revision: branch, tag or commit, instead of the one in the address.
        token: token of the Hub; None for HF_TOKEN or the one of `hf auth login`.
        cache_dir: folder of the cache; None for that of `huggingface_hub`.
        local_files_only: whether only the cache is used, without the network.
        progress: whether the download is shown on stderr.

    Raises:
        CheckpointError: there is no such repository, revision or file, or access is denied.
        ConfigError: the address or the revision is malformed.
        MissingDependencyError: huggingface_hub is not installed.
        ResourceError: the server cannot be reached, and the file is not in the cache; or the cache cannot be written.
    """
    address = source if isinstance(source, HubAddress) else parse_address(source)
    address = replace(address, revision=revision or address.revision)
    _check_revision(address)
    need_hub(str(address))
    cached_only = local_files_only or _is_offline()
    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": cached_only}
    with contextlib.nullcontext() if progress else _no_progress_bars():
        names = (WEIGHTS, GRAPH) if importlib.util.find_spec("torch") else (GRAPH, WEIGHTS)
        failure: ResourceError | None = None
        for name in names if address.file is None else (address.file,):
            try:
                return _fetch(replace(address, file=name), options)
            except FileNotFoundError:
                continue
            except ResourceError as error:  # without a network, the other file may be in the cache
                failure = failure or error
    if failure is not None:
        raise failure
    if address.file is not None:
        raise CheckpointError(f"{address}: no such file in the repository. Check its name.")
    raise CheckpointError(f"{address}: contains neither {WEIGHTS} nor {GRAPH}. Name the file: {address}/FILE.")


def local_model(source: str | Path) -> Path:
    """Return the path of a model, which is fetched first if the source starts with hf://; see `fetch_model`."""
    return fetch_model(source).path if is_hub_address(source) else Path(source)


def name_in_cache(path: Path) -> str:
    """Return the name of the repository, without its owner, that a file in the cache is of; empty for other files."""
    match = re.search(r"(?:^|/)models--[^/]+--([^/]+)/(?:snapshots|blobs)/", path.as_posix())
    return match[1] if match else ""


def check_not_in_cache(path: Path) -> None:
    """Raise InputError for a file in the cache, which stays as it was fetched: others of this machine open it, too."""
    if name_in_cache(path):
        raise InputError(f"{path}: in the cache of the Hub, which is not changed. Work with a copy of the model.")


def find_pretrained(
    source: str | Path,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the path of a pretrained model: local, or fetched from the Hub.

    Args:
        source: local file or folder, owner/name, or hf://owner/name[@revision][/file].
        revision, token, cache_dir, local_files_only: see `fetch_model`.

    Raises:
        CheckpointError: neither a local path nor the name of a model on the Hub.
        SaisError: as `fetch_model` raises it.
    """
    path = Path(source)
    if not is_hub_address(source):
        if path.is_dir():
            return model_in_folder(path)
        if path.exists() or isinstance(source, Path):
            return path
        if _REPOSITORY.fullmatch(source) is None:
            raise CheckpointError(
                f"{short_name(source)}: no such file or folder, and not the name of a model on the Hub. Give the path "
                "of a model, or owner/name."
            )
    return fetch_model(source, revision, token, cache_dir, local_files_only).path


def model_in_folder(folder: Path) -> Path:
    """Return the folder of a run or package, or the graph in it where that is the only model that can be opened."""
    weights, graph = folder / WEIGHTS, folder / GRAPH
    has_weights = weights.is_file() or any(folder.glob("*.safetensors"))
    usable = has_weights and importlib.util.find_spec("torch") is not None
    return graph if graph.is_file() and not usable else folder


def need_hub(where: str) -> None:
    """Raise MissingDependencyError unless huggingface_hub is installed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingDependencyError(
            f'{where}: huggingface_hub is not installed. Run pip install "sais-seg[hub]".', "huggingface_hub", "hub"
        )


def upload_files(
    repository: str,
    files: Sequence[tuple[str, Path]],
    public: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload model",
) -> str:
    """Create a repository unless it exists, and upload files in one commit.

    Args:
        repository: owner/name.
        files: (path in the repository, local file) of each file.
        public: whether a new repository can be read by anybody; an existing one stays as it is.
        token: token of the Hub with write access; None for HF_TOKEN or the one of `hf auth login`.
        revision: branch to upload to, created if it is missing; None for the main branch.
        message: message of the commit.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: access is denied, or the Hub refuses the files.
        ConfigError: the name of the repository is malformed.
        ResourceError: the server cannot be reached.
    """
    if _REPOSITORY.fullmatch(repository) is None:
        raise ConfigError(f"{short_name(repository)}: not the name of a repository. Write owner/name.")
    _check_revision(HubAddress(repository, revision))
    need_hub(repository)
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise ResourceError(f"{repository}: nothing can be uploaded while HF_HUB_OFFLINE is set. Unset it.")
    if _is_offline():
        raise ResourceError(f"{repository}: {endpoint()} cannot be reached. Check the network connection.")
    api = HfApi(endpoint=_endpoint(), token=token, library_name="sais", library_version=__version__)
    with _translated(HubAddress(repository, revision)), _no_progress_bars():
        api.create_repo(repository, private=not public, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, str(path)) for name, path in files]
        api.create_commit(repository, operations, commit_message=message, revision=revision)
    return f"{endpoint()}/{repository}"


def _check_revision(address: HubAddress) -> None:
    """Raise ConfigError for a revision that is no name: the cache has a file of this name."""
    if address.revision is not None and _REVISION.fullmatch(address.revision) is None:
        raise ConfigError(
            f"{address.repository}: {short_name(address.revision)!r} is not a revision. Name a branch, tag or commit."
        )


def _is_offline() -> bool:
    """Return whether the server cannot be reached, which huggingface_hub would try for half a minute."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if getproxies():
        return False
    parts = urlsplit(_endpoint())
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return True
    return False


def _fetch(address: HubAddress, options: dict[str, Any]) -> FetchedModel:
    """Fetch the file of an address.

    Raises:
        FileNotFoundError: the repository has no such file.
    """
    from huggingface_hub import hf_hub_download

    assert address.file is not None
    files = [address.file, *([address.file[: -len("xml")] + "bin"] if address.file.endswith(".xml") else [])]
    options = options | {"library_name": "sais", "library_version": __version__, "endpoint": _endpoint()}
    with _translated(address):
        paths = [
            Path(hf_hub_download(address.repository, file, revision=address.revision, **options)) for file in files
        ]
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", paths[0].as_posix())
    return FetchedModel(paths[0], address, endpoint(), commit[1] if commit else "")


@contextlib.contextmanager
def _translated(address: HubAddress) -> Iterator[None]:
    """Turn the errors of huggingface_hub into those of sais; a missing file becomes FileNotFoundError."""
    from huggingface_hub import errors

    failures: Any = (ValueError, OSError, *errors.HfHubHTTPError.__bases__)  # the latter: any error of its HTTP client
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{address}: access needs the owner's permission. Request it at {endpoint()}/{address.repository}, and set "
            "HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{address}: no such revision. Name a branch, a tag or a commit of the model.") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{address}: no such model on {endpoint()}, or a private one. Check the name; for a private model, set "
            "HF_TOKEN or give a token."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ResourceError(
            f"{address}: cannot be fetched from {endpoint()}, and is not in the cache. Check the network connection, "
            "or give a local file."
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(str(error)) from error
    except errors.HFValidationError as error:
        raise ConfigError(f"{address}: {one_line(str(error))} Check the name.") from error
    except failures as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise CheckpointError(
                f"{address}: access denied (HTTP {status}). Set HF_TOKEN to a token with this permission."
            ) from error
        reason = without_credentials(one_line(str(error)))[:200]
        if getattr(error, "errno", None) in _DISK_ERRORS:
            raise ResourceError(
                f"{address}: cannot be read or written on this machine ({reason}). Free disk space, or choose another "
                "folder for the cache with HF_HOME."
            ) from error
        raise ResourceError(f"{address}: {endpoint()} failed ({reason}). Try again later.") from error


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    utils: Any = importlib.import_module("huggingface_hub.utils")  # which does not declare these names as exported
    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
