"""The client in examples/ against a real server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.pixel_model import encoded, noise, serving

KEY = "a-key-for-the-example"


@pytest.fixture
def example(root: Path) -> Any:
    """Return the example as a module."""
    pytest.importorskip("pycocotools")
    spec = importlib.util.spec_from_file_location("serve_client_example", root / "examples" / "serve_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_client_example_saves_the_masks(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAIS_API_KEY", KEY)
    Path("a.png").write_bytes(encoded(noise(1)))
    Path("broken.png").write_bytes(b"hello")
    with serving(api_keys=(KEY,)) as server:
        monkeypatch.setattr(sys, "argv", ["serve_client.py", "a.png", "--url", server.url, "--score", "0.1"])
        example.main()
        monkeypatch.setattr(sys, "argv", ["serve_client.py", "broken.png", "--url", server.url])
        with pytest.raises(SystemExit, match=r"broken.png: image 1: not an image"):
            example.main()
        masks = server.predictors["pixels"](noise(1)).masks()
    assert capsys.readouterr().out.startswith("a.png: dark 0.")
    changed = (np.asarray(Image.open("a_masks.png")) != noise(1)).any(2)
    assert changed[masks.any(0)].mean() > 0.9
    assert not changed[~masks.any(0)].any()


def test_client_example_is_short(root: Path) -> None:
    assert len((root / "examples" / "serve_client.py").read_text(encoding="utf-8").splitlines()) <= 60
