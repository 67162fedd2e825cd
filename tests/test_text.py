"""Names from files in everything that people read: no control character reaches a terminal, a log or a page."""

from __future__ import annotations

import json
import re
import shutil
import time
import unicodedata
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais import text
from sais.cli import main
from sais.errors import ConfigError, InputError, SaisError
from sais.results.detections import Detections
from sais.results.draw import contact_sheet, draw

HOSTILE = "\x1b[31m\u202ered\u200b\x9b2J\nforged\r<script>alert(1)</script>\x07"
"""An escape sequence, a reversed order, an invisible space, line breaks, and HTML."""
LONG = "x" * 480
"""Almost the longest name that a data set may have."""
ALLOWED = {"\n"}


def controls(output: str) -> list[str]:
    """Return the control characters of an output, and its invisible ones."""
    return [c for c in output if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in ALLOWED]


@pytest.mark.parametrize(
    "name",
    [
        *("cat.jpg", "猫.jpg", "고양이", "قطة", "می‌خواهم", "क्‍ष", "ünïcode", "a\u3000b", "5.00\u202fPM.png", "a\u00a0b"),
        *("\U0001f468\u200d\U0001f469\u200d\U0001f467", "❤️‍🔥", "葛\U000e0100", "e\u0301"),
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    ],
)
def test_names_of_every_script_stay_as_they_are(name: str) -> None:
    assert text.printable(name) == name
    assert str(InputError(name)) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b2J\x7f\x00", r"\x9b2J\x7f\x00"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u2066b\u2069", r"a\u2066b\u2069"),
        ("a\u200bb\ufeff\u2060", r"a\u200bb\ufeff\u2060"),
        ("a\u200db", r"a\u200db"),  # joins nothing
        ("a\u2028b\x85", r"a\u2028b\x85"),
        ("caf\udce9.jpg", r"caf\udce9.jpg"),
        ("\U000e0041\U000e0042", r"\U000e0041\U000e0042"),  # invisible letters
    ],
)
def test_control_characters_are_escaped(name: str, expected: str) -> None:
    assert text.printable(name) == expected
    assert controls(text.printable(name)) == []


def test_long_texts_are_shortened_in_constant_time() -> None:
    assert len(text.short_name("a" * 3000)) == text.MAX_NAME
    assert text.short_name("b" * 60 + "c" * 60).startswith("b" * 60 + "c")
    assert text.short_name("b" * 60 + "c" * 60).endswith("...".ljust(3) + "c" * 32)
    huge = "x\x1b" * 20_000_000
    start = time.process_time()
    text.short_name(huge)
    InputError(f"class name {huge[:200]}")
    assert time.process_time() - start < 0.1
    assert len(str(ConfigError("z" * 1_000_000))) <= text.MAX_MESSAGE


def test_errors_are_one_line_without_control_characters() -> None:
    for kind in (SaisError, InputError, ConfigError):
        message = str(kind(f"{HOSTILE}: broken.\n  Restore it."))
        assert controls(message) == []
        assert "\n" not in message
        assert message.endswith(": broken. Restore it.")


def test_output_and_json_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    text.print_text("a\nb", HOSTILE, sep="\n")
    output = capsys.readouterr().out
    assert controls(output) == []
    assert output.count("\n") == 2
    text.print_lines("a\nb")
    assert capsys.readouterr().out == "a\nb\n"
    text.print_json({HOSTILE + "\x7f": [HOSTILE, "\x7f\udcff"]})
    output = capsys.readouterr().out
    assert controls(output) == []
    assert json.loads(output) == {HOSTILE + "\x7f": [HOSTILE, "\x7f\udcff"]}


def test_json_for_programs_has_null_for_numbers_that_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    text.print_json({"AP": float("nan"), "rows": ({"loss": float("-inf")}, 0.5), 3: [1, "NaN"]})
    output = capsys.readouterr().out
    assert json.loads(output, parse_constant=pytest.fail) == {
        "AP": None,
        "rows": [{"loss": None}, 0.5],
        "3": [1, "NaN"],
    }


def test_tables_align_letters_of_two_columns() -> None:
    assert text.text_width("猫cat") == 5
    assert text.pad("猫", 4) + "|" == "猫  |"


def test_drawings_of_hostile_and_endless_names_are_quick() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    boxes, scores = [[20, 40, 120, 160], [150, 40, 280, 160]], [0.9, 0.8]
    names = ("y" * 3000, HOSTILE)
    start = time.process_time()
    drawn = draw(image, Detections((200, 300), np.array(boxes), np.array(scores), np.array([0, 1]), names))
    assert (drawn != image).any()
    sheet = contact_sheet([image, image], captions=["y" * 1_000_000, HOSTILE])
    assert sheet.shape[2] == 3
    assert time.process_time() - start < 5


@pytest.fixture(scope="module")
def hostile(trained: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a model, a run folder and a data set in which every name is hostile, or nearly 500 letters long."""
    from dataclasses import replace

    from sais.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint

    base = tmp_path_factory.mktemp("hostile")
    names = [HOSTILE, LONG, "</style></title><img src=x onerror=alert(1)>", "\u2066e\u202e", "猫"]
    run = base / "runs" / "a\x1b[31m\u202e\nrun"
    shutil.copytree(trained, run)
    for path in run.glob("*.safetensors"):
        checkpoint = load_checkpoint(path)
        experiment = replace(checkpoint.experiment, name=HOSTILE)
        save_checkpoint(path, replace(checkpoint, class_names=tuple(names), experiment=experiment))
    log = run / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    data = base / "data\x1b[2J\u202e"
    for entry in entries:
        if entry["kind"] == "start":
            entry["experiment"]["name"], entry["data"] = HOSTILE, HOSTILE
            entry["paths"] = {key: str(data) if value else value for key, value in entry["paths"].items()}
            entry["notes"] = [HOSTILE]
            entry["machine"] = {
                key: HOSTILE if isinstance(value, str) else value for key, value in entry["machine"].items()
            }
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    shutil.copytree(shapes, data)
    for split in ("train", "valid"):
        path = data / "annotations" / f"{split}.json"
        content = json.loads(path.read_text())
        for category, name in zip(content["categories"], names, strict=True):
            category["name"] = name
        for i, record in enumerate(content["images"][:2]):
            renamed = f"{i}\x1b[31m\u202e\n{record['file_name']}"
            (data / "images" / split / record["file_name"]).rename(data / "images" / split / renamed)
            record["file_name"] = renamed
        if split == "train":
            content["images"].append(content["images"][0] | {"id": 9999, "file_name": "missing\x1b[31m\n.jpg"})
        path.write_text(json.dumps(content))
        (data / "images" / split / "broken\x1b[31m\n\u202e.jpg").write_bytes(b"no image")
    return {"run": run, "data": data, "model": find_checkpoint(find_checkpoint(run)), "runs": base / "runs"}


Command = Callable[[dict[str, Path], Path], Sequence[str]]
COMMANDS: dict[str, Command] = {
    "unknown command": lambda h, out: [HOSTILE],
    "unknown option": lambda h, out: ["predict", "--" + HOSTILE],
    "missing model": lambda h, out: ["predict", HOSTILE, "x.jpg"],
    "missing image": lambda h, out: ["predict", str(h["model"]), HOSTILE],
    "predict": lambda h, out: [
        *("predict", str(h["model"]), str(h["data"] / "images/valid"), "--out", str(out), "--score", "0.03")
    ],
    "predict into a hostile folder": lambda h, out: [
        *("predict", str(h["model"]), str(h["data"] / "images/train")),
        *("--out", str(out / "\x1b[1m\u202e\nforged"), "--no-draw"),
    ],
    "predict an unknown class": lambda h, out: [
        *("predict", str(h["model"]), str(h["data"] / "images/valid"), "--out", str(out), "--classes", HOSTILE[1:])
    ],
    "eval": lambda h, out: ["eval", str(h["model"]), "--data", str(h["data"]), "--skip-broken", "--workers", "0"],
    "eval as JSON": lambda h, out: [
        *("eval", str(h["model"]), "--data", str(h["data"]), "--skip-broken", "--workers", "0", "--json", "-")
    ],
    "doctor": lambda h, out: ["doctor", str(h["data"])],
    "doctor as JSON": lambda h, out: ["doctor", str(h["data"]), "--json"],
    "doctor missing data": lambda h, out: ["doctor", HOSTILE],
    "runs": lambda h, out: ["runs", str(h["runs"])],
    "runs as JSON": lambda h, out: ["runs", str(h["runs"]), "--json"],
    "runs without runs": lambda h, out: ["runs", str(out / HOSTILE.replace("/", ""))],
    "compare": lambda h, out: ["runs", "compare", str(h["run"]), str(h["run"])],
    "split": lambda h, out: [
        *("split", str(h["data"] / "annotations/valid.json"), "--out", str(out / "\x1b[1m\nforged"))
    ],
    "train": lambda h, out: ["train", HOSTILE, "--data", str(h["data"])],
    "train one step": lambda h, out: [
        *("train", "sais-lite", "--data", str(h["data"]), "--out", str(out / "\x1b[1m\nforged"), "--size", "64"),
        *("--epochs", "1", "--batch-size", "2", "--workers", "0", "--max-iterations", "1", "--skip-broken"),
    ],
    "train with a hostile setting": lambda h, out: [
        "train",
        "sais-lite",
        "--data",
        str(h["data"]),
        "--optim.name",
        HOSTILE,
    ],
    "export": lambda h, out: ["export", HOSTILE],
    "draw-augmented": lambda h, out: [
        "draw-augmented",
        "sais-lite",
        "--data",
        str(h["data"]),
        "--out",
        str(out / "a.jpg"),
    ],
    "report": lambda h, out: ["report", str(h["run"]), "--data", str(h["data"]), "--out", str(out / "report.html")],
}

SUCCESSFUL = {
    *("predict", "predict into a hostile folder", "eval", "eval as JSON", "runs", "runs as JSON", "compare", "split"),
    *("report", "train one step", "draw-augmented"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_no_command_prints_control_characters(
    case: str, hostile: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(COMMANDS[case](hostile, tmp_path))
    output, errors = capfd.readouterr()
    assert code == (0 if case in SUCCESSFUL else 2), errors
    assert output or errors
    assert controls(output) == []
    assert controls(errors) == []
    assert "\nforged" not in output + errors, "a line break in a name must not begin a line"
    assert "x" * 101 not in output + errors or case.endswith("as JSON")
    if case.endswith("as JSON"):
        json.loads(output)
    for log in tmp_path.rglob("log.txt"):
        assert controls(log.read_text(encoding="utf-8")) == []


class _Page(HTMLParser):
    """The tags of a page, and the attributes that could act."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy = ""
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""


def check_page(page: str) -> None:
    assert controls(page) == []
    assert "x" * 101 not in re.sub(r"data:image/[a-z]+;base64,[\w+/=]*", "", page)
    parser = _Page()
    parser.feed(page)
    assert parser.handlers == []
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(parser.tags)
    assert parser.tags.count("style") == 1 + page.count('<style type="text/css">*{')
    assert "default-src 'none'" in parser.policy
    assert "script" not in parser.policy
    assert "http:" not in parser.policy


def test_the_report_of_a_hostile_run_is_plain_text(hostile: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert main(["report", str(hostile["run"]), "--data", str(hostile["data"]), "--out", str(path)]) == 0
    page = path.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert "猫" in page
    check_page(page)


def test_the_page_of_reproduce_is_plain_text(tmp_path: Path) -> None:
    from sais.paper.page import Section, write_page
    from sais.reports.charts import Series, line_chart
    from sais.reports.html_tables import Table

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    svg = line_chart("c", [Series(HOSTILE, [(0, 1), (1, 2)])], HOSTILE, "x")
    section = Section(
        title=HOSTILE,
        intro=HOSTILE,
        tables=(Table([HOSTILE, "b"], [[HOSTILE, HOSTILE]], caption=HOSTILE),),
        plots=((svg, HOSTILE),),
        images=((tmp_path / "a.png", HOSTILE),),
        notes=((HOSTILE, HOSTILE),),
        commands=(HOSTILE, "second"),
        findings=(HOSTILE,),
    )
    page = write_page(tmp_path, [section], HOSTILE, HOSTILE).read_text(encoding="utf-8")
    check_page(page)
    assert "img-src 'self' file:" in page
    assert "\nsecond</code>" in page


def test_a_log_has_no_control_characters(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sais.engine.logging.run_log import RunLog

    with RunLog(tmp_path, 1, tiny) as log:
        log.print(f"skipped: {HOSTILE}")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert controls(lines[0] + capsys.readouterr().out) == []


def test_progress_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    from sais.io.progress import Progress

    with Progress(HOSTILE, 2, line_interval=0) as progress:
        progress.update(1, {HOSTILE: HOSTILE})
    output = capsys.readouterr().err
    assert "1/2" in output
    assert controls(output) == []
    assert controls(progress.line(100) + progress.plain_line()) == []
