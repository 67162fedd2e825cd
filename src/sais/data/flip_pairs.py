"""Classes that a horizontal flip turns into each other: a mirrored left hand is a right hand.

Without exchanged labels, every flipped image would train the wrong class. The pairs are found by name, unless the
setting `augment.flip_pairs` lists them, and stored with the model: test-time augmentation exchanges them back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sais.config import Experiment
from sais.errors import ConfigError
from sais.resolve import suggest
from sais.text import short_names

AUTO, NONE = "auto", "none"
"""Values of the setting, alone: pairs by name, no pairs."""
MAX_LISTED = 5
"""Maximum number of pairs in a sentence."""

_SIDE = re.compile("left|right", re.IGNORECASE)
_LETTER = re.compile(
    r"(?<![^\W_])[A-Za-z](?![^\W_])"  # a word of one letter: hand_l, L hand, hand (r)
    r"|(?<=[a-z])[A-Z]$|^[a-z](?=[A-Z])|^[A-Z](?=[A-Z][a-z])"  # in camel case: handL, lHand, LHand
)
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


def find_flip_pairs(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the pairs of classes whose names differ only by left and right, or by l and r, as "left=right".

    l and r must be words of one letter next to other words (hand_l, L hand, handL). They are not sides where another
    class has a third letter in their place, as in letter_l, letter_q, letter_r.

    Args:
        class_names: C names. Names of more than one class have no pair.
    """
    counts = Counter(class_names)
    letters: dict[str, set[str]] = {}
    for name in class_names:
        letters.setdefault(_LETTER.sub("?", name), set()).update(text.lower() for text in _LETTER.findall(name))
    pairs = []
    paired: set[str] = set()
    for name in class_names:
        other = _SIDE.sub(_mirror, name)
        if other == name and _LETTER.fullmatch(name) is None and letters[_LETTER.sub("?", name)] == {"l", "r"}:
            other = _LETTER.sub(_mirror, name)
        if other == name or counts[name] != 1 or counts[other] != 1 or name in paired:
            continue
        paired |= {name, other}
        side = _SIDE.search(name) or _LETTER.search(name)
        is_left = side is not None and side[0].lower() in ("left", "l")
        pairs.append(f"{name}={other}" if is_left else f"{other}={name}")
    return tuple(pairs)


def flip_labels(pairs: Sequence[str], class_names: Sequence[str]) -> np.ndarray | None:
    """Return the label of each class after a horizontal flip, (C,) int64; None if no label changes.

    Args:
        pairs: value of the setting `augment.flip_pairs`.
        class_names: C names.

    Raises:
        ConfigError: a pair is not of two of the classes, or a class is in two pairs.
    """
    known = {name: label for label, name in reversed(list(enumerate(class_names)))}
    labels = np.arange(len(class_names))
    for text in resolve_flip_pairs(pairs, class_names):
        first, second = (known[name] for name in _split(text, known))
        if first == second or labels[first] != first or labels[second] != second:
            raise ConfigError(f"augment.flip_pairs {text[:200]!r}: a class is in two pairs. Name each class once.")
        labels[first], labels[second] = second, first
    return None if (labels == np.arange(len(labels))).all() else labels


def resolve_flip_pairs(pairs: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return pairs as a list of "left=right": those found by name for "auto", an empty one for "none"."""
    if tuple(pairs) == (AUTO,):
        return find_flip_pairs(class_names)
    return () if tuple(pairs) == (NONE,) else tuple(pairs)


def choose_flip_pairs(experiment: Experiment, class_names: Sequence[str]) -> tuple[Experiment, list[str]]:
    """Return the experiment with its pairs as a list, if there are any, and lines for the log.

    Args:
        experiment: settings of a run that starts.
        class_names: names of the classes to train on.

    Raises:
        ConfigError: as for `flip_labels`.
    """
    options = experiment.augment
    pairs = resolve_flip_pairs(options.flip_pairs, class_names)
    flip_labels(pairs, class_names)
    if pairs:
        experiment = replace(experiment, augment=replace(options, flip_pairs=pairs))
    if not pairs or not options.flip > 0:
        return experiment, []
    return experiment, [f"a flip exchanges the labels of {describe_flip_pairs(pairs)} (augment.flip_pairs)"]


def describe_flip_pairs(pairs: Sequence[str]) -> str:
    """Return the number of pairs and the first of them, such as "1 pair of classes: hand_l=hand_r"."""
    more = f" and {len(pairs) - MAX_LISTED} more" if len(pairs) > MAX_LISTED else ""
    noun = "pair" if len(pairs) == 1 else "pairs"
    return f"{len(pairs)} {noun} of classes: {', '.join(short_names(pairs[:MAX_LISTED]))}{more}"


def _mirror(match: re.Match[str]) -> str:
    """Return the other side in the same case."""
    other = _OTHER_SIDE[match[0].lower()]
    return other.upper() if match[0].isupper() else other.capitalize() if match[0][0].isupper() else other


def _split(text: str, known: dict[str, int]) -> tuple[str, str]:
    """Return the two classes of "left=right"; a name may contain the sign."""
    for place in (i for i, letter in enumerate(text) if letter == "="):
        first, second = text[:place].strip(), text[place + 1 :].strip()
        if first in known and second in known:
            return first, second
    first, equals, second = (part.strip() for part in text.partition("="))
    if not equals:
        raise ConfigError(
            f"augment.flip_pairs {text[:200]!r}: not a pair. Write hand_l=hand_r, or {AUTO} or {NONE} alone."
        )
    name = second if first in known else first
    raise ConfigError(f"augment.flip_pairs {text[:200]!r}: no class {name[:200]!r}{suggest(name[:200], known)}")
