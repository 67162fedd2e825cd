"""The vocabulary of code and documents: no banned words, no pronouns as variable names."""

from __future__ import annotations

import ast
import bisect
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORDS = ROOT / "tests/style/banned_words.txt"
EXEMPT = ("docs/log.md", "src/sais/commands/renamed.py")
"""Files that the list does not apply to: the log of experiments, and the former names of options."""
PRONOUNS = {
    *("it", "mine", "one", "ones", "ours", "some", "theirs", "there", "these", "they", "those", "who"),
    *("anew", "beside", "kept", "rest", "said", "told"),
}
"""Words that never name a variable, an argument or a field: a name says what the value is."""


@dataclass(frozen=True)
class Section:
    """One section of the word list.

    Args:
        name: the section's name.
        globs: the files it applies to, relative to the repository.
        patterns: regular expressions and the terms to write instead.
    """

    name: str
    globs: tuple[str, ...]
    patterns: tuple[tuple[re.Pattern[str], str], ...]

    def files(self) -> list[Path]:
        """Return the files that this section applies to."""
        paths = {path for glob in self.globs for path in ROOT.glob(glob) if path.is_file()}
        return sorted(path for path in paths if path.relative_to(ROOT).as_posix() not in EXEMPT)


def read_word_list(path: Path) -> list[Section]:
    """Return the sections of the word list at `path`."""
    sections: list[Section] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(\w+): (.+)\]", line):
            sections.append(Section(header[1], tuple(header[2].split()), ()))
            continue
        pattern, _, replacement = line.partition(" -> ")
        row = (re.compile(rf"(?<![^\W_])(?:{pattern})(?![^\W_])", re.IGNORECASE), replacement)
        last = sections.pop()
        sections.append(Section(last.name, last.globs, (*last.patterns, row)))
    return sections


def join_lines(text: str) -> tuple[str, list[int], list[int]]:
    """Join the words of `text` by single spaces, so that a phrase is found across line breaks.

    Returns:
        The joined text, the offset of each of its words, and the line number of each word in `text`.
    """
    words: list[str] = []
    offsets: list[int] = []
    numbers: list[int] = []
    offset = 0
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.split():
            if word == "#":  # a comment goes on
                continue
            words.append(word)
            offsets.append(offset)
            numbers.append(number)
            offset += len(word) + 1
    return " ".join(words), offsets, numbers


def banned_words(section: Section) -> list[str]:
    """Return a line for each banned word of `section`: file, line number, word and replacement."""
    findings = []
    for path in section.files():
        text, offsets, numbers = join_lines(path.read_text(encoding="utf-8"))
        matches = [(match, term) for pattern, term in section.patterns for match in pattern.finditer(text)]
        for match, term in sorted(matches, key=lambda row: row[0].start()):
            number = numbers[bisect.bisect_right(offsets, match.start()) - 1]
            findings.append(f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write {term!r}")
    return findings


def pronoun_names() -> list[str]:
    """Return a line for each variable, argument or field that is a pronoun: file, line number and name."""
    findings = []
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "peers").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            else:
                continue
            if name in PRONOUNS:
                findings.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name!r} names a value; use a noun")
    return findings


@pytest.mark.parametrize("section", read_word_list(WORDS), ids=lambda section: section.name)
def test_banned_words_are_absent(section: Section) -> None:
    findings = banned_words(section)
    assert not findings, f"{len(findings)} banned words (tests/style/banned_words.txt):\n" + "\n".join(findings)


def test_no_pronoun_names_a_variable() -> None:
    findings = pronoun_names()
    assert not findings, f"{len(findings)} pronouns as names:\n" + "\n".join(findings)


@pytest.mark.parametrize(
    ("text", "banned"),
    [
        ("weights are made anew", True),
        ("anew_names = 1", True),
        ("renewed", False),
        ("the greatest\n    # batch", True),
        ("at least one", False),
        ("at\nleast one", False),
        ("least squares", False),
        ("normalised", True),
        ("normalized", False),
        ("_colour", True),
        ("centred", True),
    ],
)
def test_word_list_matches_whole_words(text: str, banned: bool) -> None:
    patterns = [pattern for section in read_word_list(WORDS) for pattern, _ in section.patterns]
    assert any(pattern.search(join_lines(text)[0]) for pattern in patterns) == banned
