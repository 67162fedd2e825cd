"""`sais eval` of an exported model where torch cannot be imported, and its batches of images."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sais.config import InputConfig
from sais.data.formats import read_dataset
from sais.evaluation.image_batches import read_canvases, read_full_images

WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from sais.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(("mode", "size"), [("fixed", (64, 96)), ("keep_ratio", (64, 96))])
def test_read_canvases_equals_the_loader(shapes: Path, threads: int, mode: str, size: tuple[int, int]) -> None:
    from sais.data.loader import evaluation_loader

    settings = InputConfig(mode=mode, size=size)  # type: ignore[arg-type]
    split = read_dataset(shapes, "valid")
    broken = replace(split.images[1], source=Path("nothing.jpg"))
    split = replace(split, images=(split.images[0], broken, *split.images[2:]))
    batches = list(read_canvases(split, settings, 3, threads))
    loaded = list(evaluation_loader(split, settings, 3, 0))
    assert len(batches) == len(loaded)
    for batch, expected in zip(batches, loaded, strict=True):
        assert batch.unreadable_images == expected.unreadable_images
        assert expected.batch is not None
        assert batch.image_ids == expected.batch.image_ids
        assert batch.canvas_maps == expected.batch.canvas_maps
        np.testing.assert_array_equal(batch.canvases, expected.batch.images.numpy())
    items = [item for batch in read_full_images(split, 3, threads) for item in batch]
    assert [isinstance(item, str) for item in items] == [False, True, False, False]


@pytest.mark.slow
def test_eval_of_an_onnx_file_needs_no_torch(trained: Path, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from sais.evaluation.evaluate import evaluate
    from sais.export.exporter import export_model
    from sais.export.options import ExportOptions

    path = tmp_path / "model.onnx"
    export_model(trained, path, ExportOptions(graph="raw"))
    command = [sys.executable, "-c", WITHOUT_TORCH, "eval", str(path), "--data", str(shapes), "--json", "-"]
    for more in ([], ["--tiles", "64", "--workers", "0"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["images"] == 4
        assert report["metrics"]["box"]["AP"] > 0
        if not more:
            metrics = evaluate(path, read_dataset(shapes, "valid"), workers=0).metrics
            assert metrics is not None
            assert report["metrics"] == metrics.to_dict()
