"""Push to a hub of this process: the files that are uploaded, the repository, errors, and the way back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sais
from sais import cli
from sais.errors import CheckpointError, ConfigError, ResourceError
from sais.sharing.package import package_model
from sais.sharing.push import push_to_hub
from tests.fake_hub import Hub, only_hub

pytest.importorskip("huggingface_hub")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub, which HF_ENDPOINT names."""
    with only_hub(monkeypatch, tmp_path) as running:
        yield running


def test_a_pushed_run_is_private_and_predicts_the_same_when_fetched(
    server: Hub, trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", str(trained), "owner/shapes", "--license", "mit"]) == 0
    output = capsys.readouterr().out
    assert f"pushed {trained} to {server.address}/owner/shapes" in output
    assert server.private == {"owner/shapes": True}
    files = server.files("owner/shapes")
    assert set(files) == {"README.md", "experiment.json", "model.json", "model.safetensors", "training_curve.png"}
    assert 'from_pretrained("owner/shapes")' in files["README.md"].decode()
    image = next((shapes / "images" / "valid").iterdir())
    expected = sais.Predictor(trained, device="cpu")(image)
    found = sais.Predictor.from_pretrained("owner/shapes", device="cpu")(image)
    np.testing.assert_array_equal(found.scores, expected.scores)
    sais.package_model("hf://owner/shapes", "again")
    assert "# shapes\n" in Path("again/README.md").read_text()


def test_a_package_is_pushed_as_it_is_with_nothing_else_in_its_folder(
    server: Hub, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "package"
    package_model(trained, folder)
    edited = (folder / "README.md").read_text().replace("## Limits", "## Limits\n\nOnly at noon.")
    (folder / "README.md").write_text(edited)
    (folder / ".env").write_text("SECRET=1")
    (folder / "notes.txt").write_text("private")
    (folder / "weights.pt").write_bytes(b"a pickle")
    (folder / "examples").mkdir(exist_ok=True)
    (folder / "examples" / "family.jpg").write_bytes(b"private")
    push_to_hub(folder, "owner/shapes", public=True, token="hf_write", message="First version")
    files = server.files("owner/shapes")
    assert set(files) == {"README.md", "experiment.json", "model.json", "model.safetensors", "training_curve.png"}
    expected = edited.replace('"package"', '"owner/shapes"').replace("sais-seg[train]", "sais-seg[train,hub]")
    assert files["README.md"].decode() == expected != edited
    assert (folder / "README.md").read_text() == edited
    assert server.private == {"owner/shapes": False}
    assert server.messages == ["First version"]
    uploads = [token for request, token in zip(server.requests, server.tokens, strict=True) if "PUT" in request]
    assert uploads == [""]  # the storage of large files is another server, which must not learn the token
    assert set(server.tokens) == {"hf_write", ""}
    with pytest.raises(ConfigError, match="a package is uploaded as it is"):
        push_to_hub(folder, "owner/shapes", license="mit")


def test_a_branch_is_created_and_the_repository_may_exist(
    server: Hub, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push_to_hub(trained, "owner/shapes")
    assert cli.main(["push", str(trained), "owner/shapes", "--revision", "v2", "--public"]) == 0
    assert "next: sais predict hf://owner/shapes@v2 YOUR_IMAGES" in capsys.readouterr().out
    assert "model.safetensors" in server.files("owner/shapes", "v2")
    assert server.private == {"owner/shapes": True}
    assert sais.Predictor.from_pretrained("owner/shapes", revision="v2", device="cpu").class_names


def test_errors_name_the_remedy_and_upload_nothing(
    server: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.write_token = "hf_write"
    with pytest.raises(CheckpointError, match=r"access denied \(HTTP 403\)\. Set HF_TOKEN"):
        push_to_hub(trained, "owner/shapes", token="hf_read")
    assert not server.repositories
    for name in ("shapes", "../shapes", "owner/a/b", "owner/..", "hf://owner/shapes"):
        with pytest.raises(ConfigError, match="Write owner/name"):
            push_to_hub(trained, name)
    assert cli.main(["push", "missing", "owner/shapes"]) == 2
    assert "no such model" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match="http://127.0.0.1:9 cannot be reached"):
        push_to_hub(trained, "owner/shapes")


def test_a_refused_model_card_is_reported(server: Hub, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    package_model(trained, folder)
    shutil.copy(folder / "README.md", tmp_path)
    (folder / "README.md").write_text("no metadata")
    with pytest.raises(ResourceError, match=r"Invalid metadata in README\.md"):
        push_to_hub(folder, "owner/shapes")
    assert not server.files("owner/shapes")
