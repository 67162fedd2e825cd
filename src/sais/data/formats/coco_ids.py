"""Ids of COCO files as integers: numbers written as text or as 1.0 are read, other text is numbered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Numbers = dict[Any, int]
"""Id as the file writes it -> integer."""


def as_integer(value: Any) -> int | None:
    """Return an id as an integer: 7, 7.0, "7" and "7.0" are 7; None if it is not a whole number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        text = value.strip().removesuffix(".0")
        # "007" and "7" may be two images, so only the plain form is a number.
        return int(text) if len(text) < 20 and text.lstrip("-").isdecimal() and str(int(text)) == text else None
    return int(value) if isinstance(value, float) and value.is_integer() else None


def number_ids(values: Iterable[Any], note_number: Callable[[Any], None], note_text: Callable[[Any], None]) -> Numbers:
    """Map the ids of a file to integers; ids that are not numbers get new ones, after the largest, in their order.

    Args:
        values: Ids, each an integer, a whole number or a text that is not empty.
        note_number: Called with an id that is written as text or as 1.0.
        note_text: Called with an id that gets a new number.
    """
    numbers: Numbers = {}
    texts: list[str] = []
    for value in values:
        number = as_integer(value)
        if number is None:
            texts.append(value)
            continue
        if type(value) is not int:
            note_number(value)
            numbers[value] = number
        numbers[number] = number
    following = max(numbers.values(), default=0) + 1
    for offset, text in enumerate(dict.fromkeys(texts)):
        numbers[text] = following + offset
        note_text(text)
    return numbers


def find_id(numbers: Numbers, value: Any) -> int | None:
    """Return the integer of an id that an annotation refers to, in whichever form it is written; None if unknown."""
    if isinstance(value, (bool, list, dict)):
        return None
    number = numbers.get(value)
    return numbers.get(as_integer(value)) if number is None else number


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a whole number, or a text that is not empty."""
    return as_integer(value) is not None or (isinstance(value, str) and bool(value.strip()))
