"""`--quiet` and `--json` of every command: what is on which stream."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sais._version import __version__
from sais.cli import COMMANDS, arguments_of, main, prints_json
from sais.commands.arguments import with_json_file
from sais.commands.evaluate import EvalArguments
from sais.commands.runs import RunsArguments
from sais.config import to_dict
from sais.io.progress import Progress
from sais.recipes import RECIPES, recipe
from sais.text import is_quiet, print_json, print_text, quiet_output, text_to_stderr


def test_quiet_shows_documents_and_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_output():
        assert is_quiet()
        print_text("a line")
        print("another line")
        print_json({"a": 1})
        print_text("an error", file=sys.stderr)
    print_text("after")
    out, err = capsys.readouterr()
    assert (json.loads(out.removesuffix("after\n")), err) == ({"a": 1}, "an error\n")
    assert not is_quiet()


def test_text_to_stderr_leaves_documents_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with text_to_stderr():
        print_text("a line")
        print_json({"a": 1})
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"a": 1}, "a line\n")


def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        lines: list[str] = []

        def work(lines: list[str] = lines) -> None:
            with Progress("drawing", 2, line_interval=0, write_line=lines.append) as progress:
                progress.advance()

        if quiet:
            with quiet_output():
                work()
        else:
            work()
        assert ("drawing" in capsys.readouterr().err) is not quiet
        assert len(lines) == 1  # the log file of a run has its lines all the same


def test_a_quiet_command_prints_nothing_but_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shapes = str(tmp_path / "shapes")
    assert main(["make-shapes", shapes, "--train", "2", "--valid", "1", "--size", "64", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "shapes/annotations/train.json").is_file()
    assert main(["--quiet", "doctor", str(tmp_path / "absent")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sais: error: ")


def test_quiet_does_not_silence_listings_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("sais ")
    assert main(["split", "--help", "--quiet"]) == 0
    assert "usage: sais split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected", "is_printed"),
    [
        (["m", "--json", "a.json", "--workers", "0"], ["m", "--json=a.json", "--workers", "0"], False),
        (["m", "--json", "-"], ["m", "--json=-"], True),
        (["m", "--json", "--workers", "0"], ["m", "--json=-", "--workers", "0"], True),
        (["m", "--json"], ["m", "--json=-"], True),
        (["m", "--json=a.json"], ["m", "--json=a.json"], False),
    ],
)
def test_json_of_eval_is_a_file_or_the_output(words: list[str], expected: list[str], is_printed: bool) -> None:
    assert with_json_file(words) == expected
    assert prints_json(EvalArguments, words) is is_printed


def test_json_of_the_other_commands_is_a_flag() -> None:
    assert prints_json(RunsArguments, ["--json", "runs"])
    assert not prints_json(RunsArguments, ["runs"])
    kinds: dict[str, Any] = {command: getattr(arguments_of(command), "json", None) for command in COMMANDS}
    assert {command for command, default in kinds.items() if default == ""} == {"eval", "compare"}


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the JSON document that a command prints: nothing else is on the standard output."""
    assert main(list(words)) == 0
    return json.loads(capsys.readouterr().out)


def test_json_of_recipes_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    rows = document(capsys, "recipes", "--json")["recipes"]
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(row["description"] for row in rows)
    assert document(capsys, "recipes", "sais-lite", "--json") == json.loads(json.dumps(to_dict(recipe("sais-lite"))))
    versions = document(capsys, "version", "--json")
    assert versions["sais"] == __version__
    assert versions["packages"]["numpy"] == version("numpy")


def test_json_of_split(capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
    source = json.loads((shapes / "annotations/train.json").read_text())
    words = ["split", str(shapes / "annotations/train.json"), "--out", str(tmp_path), "--no-keep-similar"]
    rows = document(capsys, *words, "--json")["splits"]
    assert [row["name"] for row in rows] == ["train", "valid"]
    assert sum(row["images"] for row in rows) == len(source["images"])
    assert sum(row["objects"] for row in rows) == len(source["annotations"])
    assert all(Path(row["file"]).is_file() for row in rows)
    again = document(capsys, "split", str(shapes), "--out", str(tmp_path / "again"), "--no-keep-similar", "--json")
    assert [Path(row["file"]).is_file() for row in again["splits"]] == [True, True]
    assert sum(row["images"] for row in again["splits"]) > len(source["images"])


def test_json_of_predict_and_bench(
    capsys: pytest.CaptureFixture[str], trained: Path, shapes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions"
    words = ["predict", str(trained), str(shapes / "images/valid"), "--out", str(out), "--score", "0", "--no-draw"]
    summary = document(capsys, *words, "--json")
    content = json.loads((out / "predictions.json").read_text())
    assert (summary["images"], summary["objects"]) == (len(content["images"]), len(content["annotations"]))
    assert sum(summary["classes"].values()) == summary["objects"] > 0
    words = ["bench", "masks", "--objects", "3", "--image-size", "60", "80", "--repeats", "1", "--no-memory"]
    cases = document(capsys, *words, "--json")["cases"]
    assert [case["case"]["num_objects"] for case in cases] == [3, 3]
    assert all(row["milliseconds"] > 0 for case in cases for row in case["rows"])
