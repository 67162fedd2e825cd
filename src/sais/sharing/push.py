"""Push: a package, or a run that is packaged first, to a repository of the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.errors import ConfigError
from sais.hub import need_hub, upload_files
from sais.sharing.model_card import with_repository
from sais.sharing.package import CARD, PackageOptions, is_package, package_files, package_model

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit


def push_to_hub(
    model: str | Path,
    repository: str,
    options: PackageOptions | None = None,
    *,
    public: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str = "",
    valid: DatasetSplit | None = None,
    **changes: Any,
) -> str:
    """Upload a model to the Hugging Face Hub, and return the address of its page.

    Args:
        model: folder of a package, which is uploaded as it is, apart from the name in the card's example, or a run
            folder or checkpoint, which is packaged first.
        repository: owner/name; created unless it exists.
        options: content of the package, with `changes`; not for a package.
        public: whether a new repository can be read by anybody; an existing one stays as it is.
        token: token of the Hub with write access; None for HF_TOKEN or the one of `hf auth login`.
        revision: branch to upload to, created if it is missing; None for the main branch.
        message: message of the commit.
        valid, changes: as for `sais.package_model`.

    Raises:
        CheckpointError: there is no such model, or access is denied.
        ConfigError: options for a folder that is a package already.
        SaisError: as `sais.package_model` and `sais.hub.upload_files` raise it.
    """
    need_hub(repository)
    folder = Path(model)
    text = {"message": message} if message else {}
    if is_package(folder):
        if changes or valid is not None or (options is not None and options != PackageOptions()):
            raise ConfigError(
                f"{folder}: a package is uploaded as it is. Leave out the options of a package, or write it again."
            )
        paths = {file.relative_to(folder).as_posix(): file for file in package_files(folder)}
        with tempfile.TemporaryDirectory(prefix="sais-card-") as temporary:
            card = (folder / CARD).read_bytes().decode("utf-8", "surrogateescape")
            paths[CARD] = Path(temporary) / CARD
            paths[CARD].write_bytes(with_repository(card, repository).encode("utf-8", "surrogateescape"))
            return upload_files(repository, list(paths.items()), public, token, revision, **text)
    with tempfile.TemporaryDirectory(prefix="sais-package-") as temporary:
        package = Path(temporary) / "package"
        written = package_model(model, package, options, repository, valid, **changes)
        files = [(file.relative_to(package).as_posix(), file) for file in written]
        return upload_files(repository, files, public, token, revision, **text)
