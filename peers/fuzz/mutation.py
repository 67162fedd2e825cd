"""Mutations of bytes and of JSON values by a seeded generator; they know no file format."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

ODD_NUMBERS = (
    *(0, 1, -1, 2, 0.5, -0.0, 1e-9, 255, 256, 65_501, 100_000, 10**6, 10**9, 2**31, 2**32 - 1, 2**63, -(2**63), 10**30),
    *(1e9, 1e38, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), 10**400),
)
CODE_NAMES = ("shutil:rmtree", "os:system")
"""Names of code that a file must not run."""
ODD_TEXTS = (
    *CODE_NAMES,
    *("", " ", "\0", "\n", "\x1b[31m\x1b]0;title\x07", "ü", "\u202e", "猫" * 3, "a" * 3000, "a/" * 300, "%s{0}", "-1"),
    *(
        "..",
        "/",
        "../../../../etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "**",
        "[",
        "C:\\x",
        "~",
        "\ud800",
    ),
    *("hf-hub:timm/resnet18.a1_in1k", "local-dir:/etc", "http://127.0.0.1:9/x", "nan"),
    *("<script>alert(1)</script>", "model", "None", "1e999", "resnet50", "auto", "cuda:99", "meta"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [[[[]]]], [None], {"": None}, {"counts": "", "size": [0, 0]}),
    *({"counts": [10**10], "size": [100_000, 100_000]}, {"counts": "0", "size": [40_000, 40_000]}, [0] * 5000),
    *([1e300, -1e300] * 4, [[1e9, 1e9, 0.0, 0.0, 1e9, 0.0]], [-1, -1], [1, 2, 3]),
)
TOKENS = (b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"%s%n", b"\x1b[31m", b"[" * 2000, b"1" * 400)
"""Bytes that parsers often fail on."""
HEADER = 256
"""Bytes at the start of a file that are changed as often as all others together."""


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Return `data` after one to five changes: bits flipped, bytes replaced, removed, repeated or cut off."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not content:
            break
        start = rng.randrange(min(len(content), HEADER) if rng.random() < 0.5 else len(content))
        stop = start + rng.choice((1, 2, 4, 16, 200))
        change = rng.randrange(7)
        if change == 0:
            content[start] ^= 1 << rng.randrange(8)
        elif change == 1:
            content[start:stop] = rng.randbytes(len(content[start:stop]))
        elif change == 2:
            token = rng.choice(TOKENS)
            content[start : start + len(token)] = token
        elif change == 3:
            content[start:start] = rng.choice((content[start:stop], rng.choice(TOKENS)))
        elif change == 4:
            del content[start:stop]
        elif change == 5:
            del content[start:]
        else:
            other = rng.randrange(len(content))
            content[start:stop] = content[other : other + stop - start]
    return bytes(content)


def mutate_json(rng: Random, document: Any) -> Any:
    """Return a copy of a JSON value after one to four changes of values or structure."""
    holder = [copy.deepcopy(document)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        container, key = _choose_place(rng, holder)
        change = rng.randrange(8)
        if change == 0 and container is not holder:
            del container[key]
        elif change == 1 and isinstance(container, list) and container is not holder:
            container.insert(key, copy.deepcopy(container[key]))
        elif change == 2 and isinstance(container, dict):
            container[odd_text(rng)] = container.pop(key)
        elif change == 3:
            other, name = _choose_place(rng, holder)
            container[key] = copy.deepcopy(other[name])
        else:
            container[key] = odd_value(rng, container[key])
    return holder[0]


def json_text(rng: Random, document: Any) -> bytes:
    """Return a JSON value as text, in one of 16 cases changed as bytes or nested too deeply."""
    text = json.dumps(document).encode()
    chance = rng.randrange(16)
    if chance == 0:
        return mutate_bytes(rng, text)
    if chance == 1:
        depth = rng.choice((500, 100_000))
        return b'{"a":' * depth + text + b"}" * depth
    return text


def odd_value(rng: Random, value: Any) -> Any:
    """Return a new value to put in the place of `value`: often of the same type."""
    if isinstance(value, (int, float)) and rng.random() < 0.6:
        factor = rng.choice((-1, 0.5, 2, 10, 1e6))
        return rng.choice((*ODD_NUMBERS, *((factor * value,) if abs(value) < 1e200 else ()), value + 1))
    if isinstance(value, str) and rng.random() < 0.6:
        return odd_text(rng, value)
    if isinstance(value, list) and value and rng.random() < 0.4:
        return copy.deepcopy(rng.choice((value[:-1], value + value, value[::-1], [value], value * 50)))
    return copy.deepcopy(rng.choice((*ODD_VALUES, rng.choice(ODD_NUMBERS), rng.choice(ODD_TEXTS))))


def odd_text(rng: Random, text: str = "text") -> str:
    """Return a text that may surprise a reader, some of them similar to `text`."""
    return rng.choice((*ODD_TEXTS, text.upper(), text[:-1], text + text, f" {text}", text * 100))


def _choose_place(rng: Random, holder: list[Any]) -> tuple[Any, Any]:
    """Return a container inside `holder` and a key of it, by a random walk from the outside."""
    container: Any = holder
    key: Any = 0
    while isinstance(container[key], (dict, list)) and container[key] and rng.random() < 0.85:
        container = container[key]
        key = rng.choice(list(container)) if isinstance(container, dict) else rng.randrange(len(container))
    return container, key
