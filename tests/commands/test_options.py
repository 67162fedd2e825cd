"""Options read from a dataclass of arguments, and the check of a command line against them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from sais.commands.arguments import parse
from sais.commands.options import (
    FLAT,
    Count,
    Maximum,
    Minimum,
    Seed,
    Side,
    check_command_line,
    option_names,
    options_of,
)
from sais.errors import ConfigError


@dataclass(frozen=True)
class Shared:
    """Options of two commands."""

    score: float | None = None
    """Minimum score."""
    tiles: int | Literal["auto"] | None = None
    """Side of a tile."""
    scales: tuple[float, ...] = (1.0,)
    """Scales."""


@dataclass(frozen=True)
class Group:
    """Settings with a prefix."""

    masks: bool = True
    """Predict masks."""
    size: tuple[int, int] = (64, 64)
    """Height and width."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of a command."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file."""
    others: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="OTHER")] = ()
    """Further files."""
    shared: Annotated[Shared, FLAT] = field(default_factory=lambda: Shared(score=0.3))
    """Shared options."""
    group: Group = field(default_factory=Group)
    """Group."""
    workers: Annotated[int, Minimum(0)] = 2
    """Processes."""
    max_images: Count | None = None
    """Images."""
    skip_broken: bool = False
    """Skip unreadable images."""
    kind: Literal["steps", "cosine"] = "steps"
    """Kind."""
    split: Annotated[str, tyro.conf.arg(aliases=["--train-split"])] = "train"
    """Split."""


def test_options_of_flat_fields_have_no_prefix() -> None:
    options = {option.name: option for option in options_of(Arguments)}
    assert list(options) == [
        *("MODEL", "OTHER", "--score", "--tiles", "--scales", "--group.masks", "--group.size"),
        *("--workers", "--max-images", "--skip-broken", "--kind", "--split"),
    ]
    assert options["--score"].default == 0.3  # of the instance, not of the class
    assert options["--workers"].minimum == 0
    assert options["--max-images"].minimum == 1
    assert options["MODEL"].default is dataclasses.MISSING
    assert {"--group.no-masks", "--no-skip-broken", "--train-split"} <= set(option_names(Arguments))


def test_options_of_take_defaults_from_an_instance() -> None:
    default = Arguments(Path("m"), shared=Shared(score=0.7), group=Group(masks=False))
    options = {option.name: option.default for option in options_of(Arguments, default)}
    assert (options["--score"], options["--group.masks"]) == (0.7, False)


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("m", "model"),
        ("m a b", "model others"),
        ("--score 0.5 m", "score model"),
        ("m --score None --tiles auto --tiles 640", "model score tiles"),
        ("m --scales 0.5 1 2 --group.size 3 4 --group.no-masks", "model scales group.size group.masks"),
        ("m --scales", "model scales"),
        ("m --max_images=3 --skip_broken", "model max_images skip_broken"),
        ("m --train-split x --kind cosine", "model split kind"),
        ("m --score -1 --scales -.5 -2e3", "model score scales"),
    ],
)
def test_check_command_line_returns_the_fields_given_and_tyro_agrees(words: str, fields: str) -> None:
    argv = words.split()
    assert check_command_line(Arguments, argv, "sais test") == tuple(fields.split())
    assert isinstance(parse(Arguments, argv, "sais test MODEL"), Arguments)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("", "MODEL missing"),
        ("m --scor 1", "did you mean '--score'"),
        ("m -x", "unknown option -x"),
        ("m --score", "--score: the value is missing"),
        ("m --score high", "Give a number"),
        ("m --tiles big", "Give a whole number or auto"),
        ("m --scales 1 two", "Give numbers"),
        ("m --group.size 3", "Give 2 whole numbers"),
        ("m --kind linear", "Give one of steps, cosine"),
        ("m --workers -1", "Give 0 or more"),
        ("m --max-images 0", "Give 1 or more"),
        ("m --skip-broken=yes", "takes no value"),
        ("m a --score 1 2", "unexpected argument '2'"),
        ("m a --score 1 b", "unexpected argument 'b'"),
        ("m --compiled", "unknown option --compiled"),
    ],
)
def test_check_command_line_refuses(words: str, fragment: str) -> None:
    with pytest.raises(ConfigError, match="sais test: ") as caught:
        check_command_line(Arguments, words.split(), "sais test")
    assert fragment in str(caught.value)


def test_parse_builds_the_nested_dataclasses() -> None:
    words = ["m", "--tiles", "auto", "--group.size", "3", "4", "--scales", "2"]
    arguments: Any = parse(Arguments, words, "sais test MODEL")
    assert arguments.shared == Shared(score=0.3, tiles="auto", scales=(2.0,))
    assert arguments.group == Group(size=(3, 4))


@dataclass(frozen=True)
class Limited:
    """Arguments with limits."""

    sizes: tuple[Side, ...] = (64,)
    """Sides."""
    seed: Seed = 0
    """Seed."""
    share: Annotated[float, Minimum(0), Maximum(1)] = 0.5
    """Fraction."""
    number: int = 0
    """Any number."""
    out: Path | None = None
    """File."""
    folders: tuple[Path, ...] = ()
    """Folders."""
    text: str = ""
    """Any text."""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sizes 64 0", "less than the minimum. Give 1 or more"),
        ("--sizes 64 16385", "more than the maximum. Give 16384 or less"),
        ("--seed -1", "less than the minimum. Give 0 or more"),
        ("--seed 4294967296", "more than the maximum. Give 4294967295 or less"),
        ("--share nan", "less than the minimum"),
        ("--share inf", "more than the maximum"),
        ("--share -0.5", "less than the minimum"),
        ("--number 9223372036854775808", "at most 18 digits"),
        ("--number " + "9" * 5000, "at most 18 digits"),
        ("--out=", "not a valid value. Give a path"),
        ("--folders=", "not a valid value. Give any number of a path"),
        ("--text=\0", "not a valid value"),
        ("--text=\t", "not a valid value"),
    ],
)
def test_values_beyond_limits_are_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_command_line(Limited, words.split(" "), "sais limited")
    assert str(caught.value).startswith("sais limited: --")


def test_blank_paths_are_refused_and_limits_are_allowed() -> None:
    """An empty path is the working directory, and usually a variable of the shell that is not set."""
    with pytest.raises(ConfigError, match="--out  : not a valid value"):
        check_command_line(Limited, ["--out", " "], "sais limited")
    words = ["--sizes", "1", "16384", "--seed", "0", "--share", "1", "--number", "-5", "--text", "", "--out", "a b"]
    assert parse(Limited, words, "sais limited") == Limited((1, 16384), 0, 1.0, -5, Path("a b"), (), "")


@pytest.mark.parametrize(
    "words",
    [
        "train sais-lite --config _ --data x",
        "draw-augmented --data x --config=_",
        "bench scaling --object-counts 1000000000",
    ],
)
def test_commands_name_the_option_of_an_odd_value(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Spaces once were the name of a settings file, and the number allocated 15 GB."""
    from sais import cli

    assert cli.main([word.replace("_", " ") for word in words.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--config" in err or "--object-counts" in err
