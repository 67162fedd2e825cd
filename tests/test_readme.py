"""Run every command of the README in its order, and its Python code."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sais.cli import main
from sais.data.synthetic import write_shapes
from sais.io.images import read_image
from sais.io.video import VideoWriter
from tests.fake_hub import Hub, only_hub

QUICK = {
    "train": [
        *("--epochs", "2", "--size", "64", "--batch-size", "4", "--workers", "0"),
        *("--model.tower-depth", "1", "--model.prototype-depth", "1"),
    ],
    "bench": ["--image-size", "60", "80", "--objects", "5", "--repeats", "1", "--no-memory"],
    "predict-many": ["--engine", "local"],
    "reproduce": ["--epochs", "1", "--max-iterations", "1", "--size", "64", "--seeds", "0", "--workers", "0"],
}
"""Options added to a command so that the test is fast."""


def blocks(root: Path, language: str) -> list[str]:
    """Return the README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)


def environment(root: Path) -> dict[str, str]:
    """Return the environment of a process in another folder: this repository's package, one thread."""
    path = os.pathsep.join(p for p in (str(root / "src"), os.environ.get("PYTHONPATH")) if p)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub for `sais push`; tmp_path is the working directory."""
    pytest.importorskip("huggingface_hub")
    with only_hub(monkeypatch, tmp_path) as running:
        yield running


def ask_service(options: list[str], image: Path, root: Path) -> Any:
    """Run `sais serve` in a process of its own until it has answered; return the answer for an image."""
    from tests.serving.test_processes import wait_until_ready

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sais", "serve", *options, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment(root)) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            headers = {"Content-Type": "image/jpeg"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", image.read_bytes(), headers)
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_readme_commands_and_python_run(root: Path, server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(Path("my_data"), train=8, valid=4, size=(96, 96))
    image = next(Path("my_data/images/valid").iterdir())
    with VideoWriter("film.mp4") as writer:
        for _ in range(3):
            writer.write(read_image(image))
    commands = [shlex.split(line) for block in blocks(root, "bash") for line in block.splitlines() if line.strip()]
    wanted = [
        "doctor",
        "train",
        "train",
        "runs",
        "draw-augmented",
        "train",
        "train",
        "eval",
        "compare",
        "predict",
        "predict",
        "predict",
        "predict-many",
        "export",
        "predict",
        "bench",
        "serve",
        "push",
        "draw-targets",
        "reproduce",
    ]
    sais_commands = [words[words.index("sais") + 1 :] for words in commands]
    assert [words[0] for words in sais_commands] == wanted
    for words, (command, *options) in zip(commands, sais_commands, strict=True):
        added = QUICK.get(command, [])
        if words[0] == "torchrun":
            started = [sys.executable, "-m", "torch.distributed.run", *words[1:], *added]
            done = subprocess.run(started, capture_output=True, text=True, env=environment(root))
            assert done.returncode == 0, done.stderr
            continue
        if command == "serve":
            assert ask_service(options, image, root)["images"][0]["width"] == 96
            continue
        assert words[0] == "sais"
        assert main([command, *options, *added]) == 0, (command, capsys.readouterr().err)
    for written in (
        "runs/first/best.safetensors",
        "runs/first/report.html",
        "runs/two/model.safetensors",
        "runs/tuned/model.safetensors",
        "sheet.jpg",
        "runs/first/model.safetensors",
        "predictions/predictions.json",
        "in_tiles/predictions.json",
        "first.onnx",
        "by_onnx/predictions.json",
        "errors/index.html",
        "tracked/tracks.json",
        "results/manifest.json",
    ):
        assert Path(written).is_file()
    assert "model.safetensors" in server.files("owner/name")
    assert Path("targets.png").stat().st_size > 1000
    assert "Table II" in Path("runs/reproduce/index.html").read_text()

    shutil.copy(image, "image.jpg")
    (python,) = blocks(root, "python")
    names: dict[str, object] = {}
    exec(python, names)
    assert Path("image.json").is_file()
    assert len(names["detections"].rle()) == len(names["outlines"])  # type: ignore[attr-defined, arg-type]


def test_readme_names_existing_recipes(root: Path) -> None:
    from sais.recipes import RECIPES

    text = (root / "README.md").read_text()
    named = {n for n in re.findall(r"`((?:sais|fcos|paper)-[a-z0-9-]+)`", text) if n != "sais-seg"}
    assert named, "the README names no recipe"
    assert named <= set(RECIPES)


def test_install_lines_of_the_readme_can_be_typed(root: Path) -> None:
    """No placeholder, and only extras that exist."""
    import tomllib

    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installs = re.findall(r"pip install [^`\n]*", text)
    assert installs[0] == 'pip install -e ".[train,imagenet-lite]"'
    for install in installs:
        match = re.fullmatch(r'pip install -e "\.\[([\w,-]+)\]"', install)
        assert match is not None, install
        assert set(match[1].split(",")) <= extras.keys()


def test_names_of_functions_in_the_pages_exist(root: Path) -> None:
    pages = "".join(path.read_text() for path in root.glob("docs/*.md") if path.name != "log.md")
    packages = "|".join(path.parent.name for path in root.glob("src/sais/*/__init__.py"))
    names = set(re.findall(rf"`(?:sais\.)?((?:{packages})(?:\.[A-Za-z_]+)+)`", pages))
    assert len(names) > 20
    for name in sorted(names):
        pkgutil.resolve_name(f"sais.{name}")
