"""Cases of command lines: every command, with odd values of its options, unknown paths, suffixes and devices."""

from __future__ import annotations

import shutil
import typing
from pathlib import Path
from random import Random
from typing import Any

from peers.fuzz.mutation import CODE_NAMES, ODD_TEXTS
from peers.fuzz.oracle import Case, run_command
from peers.fuzz.samples import Samples
from sais.cli import COMMANDS, arguments_of
from sais.commands.options import Option, options_of
from sais.config import Experiment

NUMBERS = (
    *(
        "-1",
        "0",
        "1",
        "2",
        "-0",
        "0.5",
        "-0.5",
        "1e-300",
        "1e400",
        "1_0",
        "0x10",
        "٣",
        "+2",
        "1e3",
        "nan",
        "-nan",
        "inf",
    ),
    *(
        "-inf",
        "1e9",
        str(10**9),
        str(2**31),
        str(2**63),
        str(-(2**63)),
        str(10**30),
        "9" * 5000,
        "",
        " ",
        "auto",
        "None",
    ),
)
"""Values of options that take a number. Values between are legitimate: they would measure the machine."""
PATHS = (
    *("", " ", ".", "..", "missing", "missing/file.json", "missing.onnx", "**", "**/*.jpg", "[", "[!a]*", "?", "*"),
    *("a" * 300, "a/" * 2000, "ü\u202e.jpg", "\x1b[31m", "\udcff", "-", "--", "~", "/dev/null", "/dev/full"),
    *("/proc/self/x", "name.unknown", "name.", ".jpg", "http://127.0.0.1:9/a.jpg", "file:///etc/passwd", "C:\\x"),
)
"""Paths, also of outputs: a case may not write outside its folder."""
TEXTS = tuple(
    text
    for text in ODD_TEXTS
    if not text.startswith(("/", "..")) and "\0" not in text and "\ud800" not in text and text not in CODE_NAMES
)
"""Texts that can be words of a command line and are no paths outside the folder; own code may raise what it wants."""
SLOW = ("bench", "demo", "push", "reproduce", "serve", "tune")
"""Commands that take minutes with valid options, do not end, or need a network: they get one option that is never
valid. Requests to `sais serve` are in `peers.serving.hostile`."""
KEPT = {"train": {"--max-iterations"}, "make-shapes": {"--train", "--valid"}, "predict-many": {"--engine"}}
"""Options that keep the value that makes a case fast, or without which Ray is started."""
NOT_VARIED = {"--compile", "--run.compile"}
"""Options with which torch.compile starts a compiler, writes to its cache and takes minutes."""


def command_lines(rng: Random, samples: Samples, folder: Path) -> Case:
    """A command line in this process: up to four options of a command with odd values."""
    data, run = folder / "data", folder / "run"
    shutil.copytree(samples.data, data)
    shutil.copytree(samples.run, run)
    name = rng.choice(list(COMMANDS))
    words = valid_words(name, data, run, samples)
    kind = arguments_of(name)
    options = [option for option in options_of(kind) if not option.positional]
    options += options_of(Experiment) if name == "train" else []
    options = [option for option in options if option.name not in KEPT.get(name, set()) | NOT_VARIED]
    if rng.random() < 0.15 and words:
        words[rng.randrange(len(words))] = rng.choice(PATHS)
    if rng.random() < 0.1 and words:
        del words[rng.randrange(len(words)) :]
    for option in rng.sample(options, min(len(options), rng.choice((1, 1, 2, 4)))):
        place = rng.choice((len(words), len(words), 0))
        words[place:place] = _given(rng, option, (data, run, folder))
    if name in SLOW:
        words += rng.choice((["--no-such-option"], ["--seed", "x"], ["--out"], ["--out", "/proc/self/x"]))
        words = words if rng.random() < 0.9 else ["--help"]
    argv = (
        [name, *words] if rng.random() < 0.98 else rng.choice(([], ["--help"], ["--version"], [name + "x"], ["\x1b"]))
    )
    work = 3 if name == "export" else 1  # torch's exporter takes 10 to 20 s for a valid model
    return Case(lambda: run_command(argv), f"sais {argv!r}"[:2000], may_add=True, may_ask=True, work=work)


def valid_words(name: str, data: Path, run: Path, samples: Samples) -> list[str]:
    """Return a valid command line of a command that takes less than a second or two."""
    graph, image = str(samples.graphs[0]), str(data / "images" / "valid")
    recipe = [str(samples.settings), "--data", str(data)]
    lines = {
        "train": [*recipe, "--out", "run", "--max-iterations", "1", "--random-init", "--workers", "0", "--no-report"],
        "eval": [graph, "--data", str(data), "--workers", "0"],
        "predict": [graph, image],
        "predict-many": ["--engine=local", graph, image, "many"],  # the first word is the last to be cut off
        "info": [graph],
        "compare": [graph, str(samples.graphs[1]), "--data", str(data), "--workers", "0", "--resamples", "10"],
        "average": [str(run), str(samples.run), "--out", "average.safetensors"],
        "package": [str(run), "packaged"],
        "push": [str(run), "owner/name"],
        "completion": ["bash"],
        "runs": [str(run)],
        "report": [str(run), "--out", "report.html", "--workers", "0"],
        "export": [str(run), "--graph", "raw"],
        "doctor": [str(data)],
        "show": [str(data), "--max-images", "2"],
        "convert": [str(data), "converted", "--to", "yolo"],
        "split": [str(data / "annotations" / "train.json"), "--out", "halves"],
        "make-shapes": ["shapes", "--train", "1", "--valid", "1", "--size", "64"],
        "draw-targets": ["--data", str(data), "--recipe", str(samples.settings)],
        "draw-augmented": recipe,
        "bench": ["masks"],
        "serve": [graph, "--port", "0"],
        "reproduce": ["table2"],
        "tune": recipe,
    }
    return lines.get(name, [])


def _given(rng: Random, option: Option, folders: tuple[Path, ...]) -> list[str]:
    """Return an option with values, of which some are odd."""
    if option.hint is bool:
        return [rng.choice((*option.names, option.name + "=maybe"))]
    count = rng.choice((1, 1, 1, 2, 0, 3))
    return [option.name, *(_value(rng, option.hint, folders) for _ in range(count))]


def _value(rng: Random, hint: Any, folders: tuple[Path, ...]) -> str:
    members = {member for member in _members(hint) if member is not type(None)}
    choices = [str(value) for value in members if isinstance(value, str)]
    if choices and rng.random() < 0.5:
        return rng.choice(sorted(choices))
    if members & {int, float} and rng.random() < 0.9:
        return rng.choice(NUMBERS)
    if rng.random() < 0.3:
        folder = rng.choice(folders)
        paths = sorted(path for path in folder.rglob("*"))
        return str(rng.choice([folder, *paths]))
    return rng.choice((*PATHS, *TEXTS, *NUMBERS[:6]))


def _members(hint: Any) -> list[Any]:
    """Return the types and literal values that a type hint consists of."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return list(arguments)
    return [member for argument in arguments for member in _members(argument)] if arguments else [hint]
