"""The public names of the package and the options of every command, compared with a committed list.

After an intended change, update the list with ``SAIS_UPDATE_SNAPSHOT=1 pytest tests/test_public_names.py``, read its
diff, and describe the change in CHANGELOG.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sais
from sais import cli
from sais.commands.options import options_of

SNAPSHOT = Path(__file__).parent / "snapshots/public_names.txt"
SUBCOMMANDS = {"runs compare": ("sais.commands.runs", "CompareArguments")}
"""Commands within commands: name -> module and dataclass of arguments."""


def public_names() -> Iterator[str]:
    """Yield a line for each public name, with the parameters of functions and the attributes of classes."""
    for name in sais.__all__:
        value = getattr(sais, name)
        if inspect.isfunction(value):
            yield f"sais.{name}({', '.join(inspect.signature(value).parameters)})"
            continue
        yield f"sais.{name}"
        if inspect.isclass(value):
            yield from (f"sais.{name}.{attribute}" for attribute in class_attributes(value))
        elif inspect.ismodule(value):
            yield from (f"sais.{name}.{attribute}" for attribute in sorted(getattr(value, "__all__", ())))


def class_attributes(kind: type) -> list[str]:
    """Return the public fields, methods and properties of a class, in alphabetical order."""
    fields = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    return sorted({name for name in (*fields, *vars(kind)) if not name.startswith("_")})


def command_options() -> Iterator[str]:
    """Yield a line for each option and positional argument of each command, with its default."""
    kinds = {name: cli.arguments_of(name) for name in cli.COMMANDS}
    for name, (module, kind) in SUBCOMMANDS.items():
        kinds[name] = getattr(importlib.import_module(module), kind)
    for command, kind in kinds.items():
        for option in options_of(kind):
            yield f"sais {command} {', '.join(option.names) or option.name}{default_of(option.default)}"


def default_of(value: Any) -> str:
    """Return the default of an option as text: " = 0.3", or "" for a required argument."""
    if value is dataclasses.MISSING:
        return ""
    return f" = {value.as_posix() if isinstance(value, Path) else value!r}"


def test_public_names_and_options_are_those_of_the_snapshot() -> None:
    pytest.importorskip("torch")
    lines = [*public_names(), *command_options()]
    if os.environ.get("SAIS_UPDATE_SNAPSHOT"):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    expected = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    difference = list(difflib.unified_diff(expected, lines, "snapshot", "now", lineterm="", n=0))
    assert not difference, "update the snapshot if this is intended (see the file's docstring):\n" + "\n".join(
        difference
    )


def test_all_names_have_a_home() -> None:
    assert {*sais._HOMES, "__version__", "export", "recipes"} == set(sais.__all__)
    assert sais.__all__ == sorted(sais.__all__)
    assert dir(sais) == sorted(sais.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Absent'"):
        sais.Absent  # noqa: B018


def test_experiment_detections_and_errors_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nimport sais\n"
        "for name in ('Detections', 'Experiment', 'InferenceOptions', 'SaisError', 'read_dataset', 'recipes'):\n"
        "    getattr(sais, name)\n"
        "print(sais.recipes.recipe('sais-lite').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "sais-lite", done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import sais\nassert callable(sais.export)\nimport sais.export.onnx",
        "import sais.export.onnx\nassert callable(sais.export)",
        "from sais import export\nassert callable(export)\nfrom sais.export import onnx",
    ],
)
def test_export_is_a_function_and_a_package(code: str) -> None:
    pytest.importorskip("torch")
    check = "\nimport sais.export.onnx\nassert sais.export.onnx.__name__ == 'sais.export.onnx'\n"

    def execute() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sais"]:
            del sys.modules[name]
        exec(code + check, {})

    process = multiprocessing.get_context("fork").Process(target=execute)  # a copy of this one, which has torch
    process.start()
    process.join(120)
    assert process.exitcode == 0


def test_export_calls_export_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("sais.export.exporter.export_model", lambda *arguments: calls.append(arguments))
    sais.export("model.safetensors", "model.onnx")  # type: ignore[arg-type, call-arg]
    assert calls == [("model.safetensors", "model.onnx")]
