"""Reference pages that are made from the code: the API, the options of all commands, all error messages."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src"
API_SECTIONS: dict[str, tuple[str, ...]] = {
    "Training": ("train", "TrainResult", "TrainingEvent"),
    "Predicting": ("Predictor", "InferenceOptions", "load_model", "track"),
    "Detections": ("Detections",),
    "Evaluation": ("evaluate",),
    "Export": ("export",),
    "Sharing": ("package_model", "push_to_hub", "average_models"),
    "Data": ("read_dataset", "convert"),
    "Settings": ("Experiment", "recipes"),
    "Errors": (
        *("SaisError", "InputError", "ConfigError", "CheckpointError"),
        *("MissingDependencyError", "ResourceError"),
    ),
}
"""Section of the page "API" -> its names in `sais`."""
SETTINGS = (
    *("InputConfig", "AugmentConfig", "ModelConfig", "CriterionConfig", "PostprocessConfig", "OptimConfig"),
    *("ScheduleConfig", "RunConfig"),
)
"""Groups of settings in `sais.config`, shown with `sais.Experiment`."""
HELP_COLUMNS = 88
"""Width of the help of commands: options in one column."""
ERRORS = {
    "InputError": "Images, annotations, data sets, paths and arguments",
    "ConfigError": "Settings and options",
    "CheckpointError": "Models, checkpoints and runs",
    "MissingDependencyError": "Packages that are not installed",
    "ResourceError": "Memory, disk, devices and other processes",
    "OutOfMemoryError": "Memory while an image is read",
    "DivergedLossError": "Training that diverges",
    "RequestError": "Requests to sais serve",
}
"""Exception -> title of its section on the page "All error messages"."""


class Message(NamedTuple):
    """An error message of the code.

    Args:
        error: name of the exception.
        module: path of the module below src.
        text: the message; each value that is filled in is {}.
    """

    error: str
    module: str
    text: str


def api_page() -> str:
    """Return the page of all public names, for mkdocstrings."""
    lines = ["# API", "", "Every public name of `sais`, from its docstring. [Python](python.md) introduces them.", ""]
    for title, names in API_SECTIONS.items():
        lines += [f"## {title}", ""]
        for name in names:
            target = "sais.export.exporter.export_model" if name == "export" else f"sais.{name}"
            lines += [f"::: {target}", ""]
            if name == "export":
                lines += ["Also available as `sais.export`.", "", "::: sais.export.ExportOptions", ""]
            if name == "Experiment":
                lines += [line for group in SETTINGS for line in (f"::: sais.config.{group}", "")]
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page with the help of every command."""
    from sais.cli import COMMANDS, main

    lines = ["# Commands", "", "`sais COMMAND --help` prints the same. Every command accepts `--debug`.", ""]
    os.environ["COLUMNS"] = str(HELP_COLUMNS)
    for name in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            main([name, "--help"])
        lines += [f"## sais {name}", "", *_help_as_markdown(output.getvalue()), ""]
    return "\n".join(lines)


def _help_as_markdown(text: str) -> Iterator[str]:
    """Yield the help of a command as Markdown: the usage, its paragraphs, a list for each group of options."""
    usage, _, text = re.sub(r"\x1b\[[0-9;]*m", "", text).partition("\n\n")
    yield from ("```text", " ".join(usage.split()), "```", "")
    item = ""
    for line in [*text.splitlines(), ""]:
        indent, words = len(line) - len(line.lstrip()), line.strip()
        if item and indent > 2:
            item += " " + words
            continue
        if item:
            name, _, description = item.partition("  ")
            yield f"- `{name}`: {_as_text(description.strip().replace('``', '`'))}"
            item = ""
        if indent == 2:
            item = words if "  " in words else words + "  "
        elif indent == 0 and words and set(words) != {"-"}:
            yield _as_text(words)  # a line of a paragraph, which ends with an empty line
        elif set(words) != {"-"}:  # a line below the title of a group
            yield from ("", f"**{_as_text(words)}**" if indent == 1 and words else _as_text(words), "")


def messages_page() -> str:
    """Return the page of all error messages, by exception and module."""
    messages = list(error_messages())
    lines = [
        "# All error messages",
        "",
        (
            f"The {len(messages)} messages of the code. Each states where, what, and how to fix it; … is a value. "
            "[Error messages](errors.md) explains the frequent ones in more words."
        ),
        "",
    ]
    for error, title in ERRORS.items():
        lines += [f"## {title}", "", f"Exception `{error}`.", ""]
        chosen = [message for message in messages if message.error == error]
        for module in sorted({message.module for message in chosen}):
            lines += [f"**{module}**", ""]
            texts = sorted({message.text for message in chosen if message.module == module})
            lines += [f"- {_as_text(text)}" for text in texts]
            lines.append("")
    return "\n".join(lines)


def error_messages() -> Iterator[Message]:
    """Yield each message with which the code raises one of `ERRORS`, in the order of the source files."""
    for path in sorted((SOURCE / "sais").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                text = template(node.args[2 if node.func.id == "RequestError" else 0])
                if re.search(r"[a-z]{3}", text):
                    yield Message(node.func.id, path.relative_to(SOURCE).as_posix(), text)


def template(node: ast.expr) -> str:
    """Return the text of an expression of strings; each part that is known only when it runs is {}."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "{}"


def _as_text(message: str) -> str:
    """Return a text as Markdown in which only code between backticks is markup; {} becomes an ellipsis."""
    parts = re.sub(r"(\{\})+", "…", message.replace("\n", " ")).split("`")
    is_code = [number % 2 == 1 and number < len(parts) - 1 for number in range(len(parts))]
    escaped = [re.sub(r"([\\*_{}\[\]()#+!|<>~&])", r"\\\1", part) for part in parts]
    return "".join(f"`{part}`" if code else text for part, text, code in zip(parts, escaped, is_code, strict=True))
