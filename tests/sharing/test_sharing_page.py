"""The page docs/sharing.md: its commands and its Python code run, with a hub of this process."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sais import cli
from sais.checkpoint import load_checkpoint, save_checkpoint
from tests.fake_hub import Hub, only_hub

pytest.importorskip("huggingface_hub")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub, which HF_ENDPOINT names."""
    with only_hub(monkeypatch, tmp_path) as running:
        yield running


@pytest.mark.slow
def test_commands_and_python_of_the_page_run(
    server: Hub, root: Path, trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (trained / "model.safetensors").read_bytes()
    for revision in ("main", "v1"):
        server.add("owner/name", revision, model_safetensors=weights)
    shutil.copytree(trained, "runs/first")
    shutil.copytree(shapes, "my_data")
    shutil.copytree(shapes / "images" / "valid", "photos")
    checkpoint = load_checkpoint(trained / "model.safetensors")
    for number in range(2):
        tensors = {name: tensor * (1 + number / 100) for name, tensor in checkpoint.tensors.items()}
        Path(f"runs/tuned_{number}").mkdir()
        save_checkpoint(Path(f"runs/tuned_{number}/model.safetensors"), replace(checkpoint, tensors=tensors))

    text = (root / "docs/sharing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    lines = [
        line.partition("#")[0] for language, block in blocks if language != "python" for line in block.splitlines()
    ]
    commands = [shlex.split(line) for line in lines if line.startswith("sais ")]
    assert [words[1] for words in commands] == ["predict", "package", "push", "average", "average"]
    for _, command, *words in commands:
        expanded = [str(path) for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
        overwrite = ["--overwrite"] if command == "average" else []
        assert cli.main([command, *expanded, *overwrite]) == 0, (words, capsys.readouterr().err)
    assert server.private == {"owner/shapes": True}
    for language, block in blocks:
        if language == "python":
            exec(block, {})
    assert Path("predictions/predictions.json").is_file()
    assert load_checkpoint(Path("mean.safetensors")).state["averaged"]
