"""Errors of the converters, reported as one error with its cause instead of a traceback through other packages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sais.errors import SaisError
from sais.inference.metadata import GraphMetadata

MAX_CAUSE_LENGTH = 200
"""Characters of the cause that are shown."""


@contextlib.contextmanager
def report_failure(target: str, metadata: GraphMetadata) -> Iterator[None]:
    """Turn any exception of a converter inside the block into one SaisError; other SaisErrors pass.

    Args:
        target: the format that the block converts to, for the message.
        metadata: metadata of the graph.
    """
    try:
        yield
    except SaisError:
        raise
    except Exception as error:  # the converters raise exceptions of many kinds, with pages of text
        shape = "dynamic" if metadata.dynamic_shape else "fixed"
        advice = "Export the graph raw, which has the fewest operators" if metadata.graph != "raw" else "Report it"
        raise SaisError(
            f"export to {target}: the graph {metadata.graph} with a {shape} shape cannot be converted "
            f"({root_cause(error)}). {advice}, or use another version of the converter."
        ) from error


def root_cause(error: BaseException) -> str:
    """Return type and first line of the exception that caused `error` in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= MAX_CAUSE_LENGTH else text[: MAX_CAUSE_LENGTH - 3] + "..."
