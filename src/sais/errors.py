"""Exceptions that a user can act on. The command line prints them in one line and exits with 2.

Every message has the form ``WHERE: WHAT. FIX.`` with the values concerned. Anything else that is raised is a bug.
"""

from __future__ import annotations


class SaisError(Exception):
    """Base class of all errors that a user can act on.

    Args:
        message: the whole error message; control characters in it, of file names for example, are escaped.
    """

    def __init__(self, message: str = "") -> None:
        from sais.text import error_message

        super().__init__(error_message(message))


class InputError(SaisError):
    """An image, an annotation, a data set, a path or an argument is missing, malformed or unusable.

    Args:
        message: the whole error message.
        kind: what is wrong, in two words, to count errors by: "truncated".
    """

    def __init__(self, message: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class ConfigError(SaisError):
    """A setting is unknown, out of range, or does not go together with another one."""


class CheckpointError(SaisError):
    """A checkpoint, an exported model or a run folder is missing, corrupted, or of another model."""


class MissingDependencyError(SaisError):
    """An optional package is not installed.

    Args:
        message: the whole error message.
        package: the import name of the missing package.
        extra: the extra of `sais-seg` that installs it.
    """

    def __init__(self, message: str, package: str = "", extra: str = "") -> None:
        super().__init__(message)
        self.package = package
        self.extra = extra


class ResourceError(SaisError):
    """Memory, disk space, a device or another process prevents the operation."""


class OutOfMemoryError(ResourceError):
    """Memory ran out while an image was read, which may be sound: it must not be skipped as unreadable."""
