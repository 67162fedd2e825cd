"""Models of the Hugging Face Hub, from a server of this process: names, files, errors, what is never fetched."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sais
from sais import cli, hub
from sais.checkpoint import load_checkpoint, save_checkpoint
from sais.errors import CheckpointError, ConfigError, InputError, MissingDependencyError, ResourceError
from sais.evaluation.score_thresholds import store_thresholds
from sais.inference.score_thresholds import ScoreThresholds
from sais.resolve import NAMED_MODULES
from tests.fake_hub import Hub, only_hub

pytest.importorskip("huggingface_hub")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub, which HF_ENDPOINT names; the cache and the working directory are empty folders."""
    with only_hub(monkeypatch, tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "repository", "revision", "file"),
    [
        ("owner/name", "owner/name", None, None),
        ("hf://owner/name", "owner/name", None, None),
        ("hf:/owner/name", "owner/name", None, None),
        ("hf://a-b/name.v2@v1.0", "a-b/name.v2", "v1.0", None),
        ("hf://owner/name/sub/model.onnx", "owner/name", None, "sub/model.onnx"),
        ("hf://owner/name@main/model.xml", "owner/name", "main", "model.xml"),
    ],
)
def test_addresses_are_parsed(text: str, repository: str, revision: str | None, file: str | None) -> None:
    assert hub.parse_address(text) == hub.HubAddress(repository, revision, file)
    assert hub.parse_address(Path(text)) == hub.parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *("hf://owner", "hf://owner/../secret", "hf://../name", "hf://owner/na me", "hf://owner/name@../x"),
        *("hf://owner/name/../../etc/model.onnx", "hf://owner/name//model.onnx", "hf://owner/name/a\\..\\model.onnx"),
        *("hf://owner/name/model.pt", "hf://owner/name/weights.bin", "hf://owner/name/pickle.pkl", "hf://owner/-name"),
        *("hf://owner/name/./model.onnx", "hf://", "hf://owner/name@", "hf://o--o/name", "hf://owner/" + "n" * 97),
    ],
)
def test_addresses_that_lead_outside_or_to_no_model_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="hf:/"):
        hub.parse_address(text)


def test_a_local_path_and_a_misspelled_one_are_no_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.is_repository("runs/frist")
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert not hub.is_repository("runs/first")
    assert not hub.is_repository("runs/frist")
    assert not hub.is_repository("owner/model.onnx")
    assert not hub.is_repository(tmp_path / "owner" / "name")


def test_predictor_from_the_hub_equals_the_local_one_and_fetches_one_file(
    server: Hub, trained: Path, shapes: Path
) -> None:
    weights = (trained / "model.safetensors").read_bytes()
    server.add("owner/shapes", model_safetensors=weights, pytorch_bin=b"a pickle", README_md=b"")
    image = next((shapes / "images" / "valid").iterdir())
    expected = sais.Predictor(trained, device="cpu", score=0.1)(image)
    assert len(expected)
    for predictor in (
        sais.Predictor.from_pretrained("owner/shapes", device="cpu", score=0.1),
        sais.Predictor("hf://owner/shapes", device="cpu", score=0.1),
        sais.Predictor(sais.load_model("hf://owner/shapes"), device="cpu", score=0.1),
    ):
        found = predictor(image)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
    fetched = {request.partition(" ")[2] for request in server.requests if "/resolve/" in request}
    assert {address.rsplit("/", 1)[-1] for address in fetched} == {"model.safetensors"}
    assert sum(request.startswith("GET") and "/resolve/" in request for request in server.requests) == 1


def test_revision_token_and_cache(server: Hub, trained: Path, tmp_path: Path) -> None:
    weights = (trained / "model.safetensors").read_bytes()
    server.add("owner/shapes", "v1", model_safetensors=weights)
    folder = tmp_path / "elsewhere"
    fetched = hub.fetch_model("hf://owner/shapes@v1", token="hf_secret", cache_dir=folder)
    assert fetched.path.is_relative_to(folder)
    assert fetched.path.read_bytes() == weights
    assert "hf_secret" in server.tokens
    assert "hf_secret" not in str(fetched)
    assert fetched.commit[:8] in str(fetched)
    with pytest.raises(CheckpointError, match="no such revision"):
        sais.Predictor.from_pretrained("owner/shapes", revision="v2")
    count = len(server.requests)
    again = hub.fetch_model("owner/shapes", "v1", cache_dir=folder, local_files_only=True)
    assert again.path == fetched.path
    assert len(server.requests) == count


@pytest.mark.parametrize("revision", ["../../outside", "/tmp/outside", "a/../../b", "a\\..\\b", "v1\n", "a//b", "-x"])
def test_revisions_that_lead_out_of_the_cache_are_refused(server: Hub, revision: str) -> None:
    server.add("owner/shapes", revision, model_safetensors=b"weights")
    with pytest.raises(ConfigError, match="is not a revision"):
        hub.fetch_model("owner/shapes", revision)
    with pytest.raises(ConfigError, match="is not a revision"):
        hub.upload_files("owner/shapes", [], revision=revision)
    assert not server.requests


def test_credentials_of_the_server_are_not_printed(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("owner/shapes", model_safetensors=b"weights")
    monkeypatch.setenv("HF_ENDPOINT", server.address.replace("://", "://ann:pa55@"))
    fetched = hub.fetch_model("owner/shapes")
    messages = [str(fetched), repr(fetched)]
    for name, error in (("owner/missing", CheckpointError), ("owner/refused", ResourceError)):
        if error is ResourceError:
            monkeypatch.setenv("HF_ENDPOINT", "http://ann:pa55@127.0.0.1:9")
        with pytest.raises(error) as raised:
            hub.fetch_model(name)
        messages.append(str(raised.value))
    assert all("http://127.0.0.1" in message for message in messages)
    assert not [message for message in messages if "pa55" in message]


def test_a_cache_that_cannot_be_written_is_no_failure_of_the_server(server: Hub, tmp_path: Path) -> None:
    server.add("owner/shapes", model_safetensors=b"weights")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be read or written on this machine \(.*HF_HOME"):
        hub.fetch_model("owner/shapes", cache_dir=tmp_path / "file" / "cache")


def test_a_local_folder_wins_and_needs_no_server(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(trained.parent.parent)
    name = trained.relative_to(trained.parent.parent).as_posix()
    assert sais.Predictor.from_pretrained(name, device="cpu").class_names
    assert sais.Predictor.from_pretrained(trained / "model.safetensors", device="cpu").class_names
    with pytest.raises(CheckpointError, match="no such file or folder"):
        sais.Predictor.from_pretrained("a/b/c")


def test_errors_of_the_server_name_the_remedy(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("owner/empty", notes_txt=b"nothing")
    server.add("owner/gated", model_safetensors=b"")
    cases = {
        "owner/missing": "no such model on http.*HF_TOKEN",
        "hf://owner/gated": "access needs the owner's permission",
        "owner/empty": r"contains neither model\.safetensors nor model\.onnx",
        "hf://owner/empty/other.onnx": "no such file in the repository",
    }
    for name, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            sais.Predictor.from_pretrained(name)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match="cannot be fetched from http://127.0.0.1:9"):
        sais.Predictor.from_pretrained("owner/other")


def test_files_of_others_are_no_models_and_their_code_is_not_run(server: Hub, trained: Path, tmp_path: Path) -> None:
    server.add("owner/broken", model_safetensors=b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        sais.Predictor.from_pretrained("owner/broken")
    NAMED_MODULES.discard("shutil")  # of other tests
    checkpoint = load_checkpoint(trained / "model.safetensors")
    model = replace(checkpoint.experiment.model, head="shutil:rmtree")
    checkpoint.experiment = replace(checkpoint.experiment, model=model)
    save_checkpoint(tmp_path / "evil.safetensors", checkpoint)
    server.add("owner/evil", model_safetensors=(tmp_path / "evil.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"'shutil:rmtree', code outside of sais"):
        sais.Predictor.from_pretrained("owner/evil")


def test_without_pytorch_the_graph_is_fetched(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("owner/both", model_safetensors=b"weights", model_onnx=b"graph")
    server.add("owner/weights", model_safetensors=b"weights")
    assert hub.fetch_model("owner/both").path.name == "model.safetensors"
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    assert hub.fetch_model("owner/both").path.name == "model.onnx"
    assert hub.fetch_model("owner/weights").path.name == "model.safetensors"


def test_without_a_network_the_file_in_the_cache_is_used(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("owner/graph", model_onnx=b"graph")
    path = hub.fetch_model("owner/graph").path
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch_model("owner/graph").path == path
    assert hub.fetch_model("owner/graph", local_files_only=True).path == path


def test_hf_hub_offline_asks_no_server(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    server.add("owner/graph", model_onnx=b"graph")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="is not in the cache"):
        hub.fetch_model("owner/graph")
    with pytest.raises(ResourceError, match="while HF_HUB_OFFLINE is set"):
        hub.upload_files("owner/graph", [])
    assert not server.requests


def test_an_openvino_model_is_fetched_with_its_weights(server: Hub) -> None:
    server.add("owner/vino", model_xml=b"<net/>", model_bin=b"weights")
    path = hub.fetch_model("hf://owner/vino/model.xml").path
    assert path.with_suffix(".bin").read_bytes() == b"weights"


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "huggingface_hub" else find_spec(name)
    )
    with pytest.raises(MissingDependencyError, match=r"sais-seg\[hub\]"):
        sais.Predictor("hf://owner/name")


def test_commands_fetch_the_model_and_say_so(
    server: Hub, trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add("owner/shapes", model_safetensors=(trained / "model.safetensors").read_bytes())
    image = str(next((shapes / "images" / "valid").iterdir()))
    for name in ("owner/shapes", "hf://owner/shapes"):
        out = tmp_path / name.replace("/", "_")
        assert cli.main(["predict", name, image, "--out", str(out), "--device", "cpu"]) == 0
        assert (out / "predictions.json").is_file()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "fetched" in line]
        assert line.startswith("note: fetched hf://owner/shapes/model.safetensors (")
    assert cli.main(["info", "hf://owner/shapes"]) == 0
    assert "classes (5)" in capsys.readouterr().out
    data = ["--data", str(shapes), "--device", "cpu"]
    assert cli.main(["eval", "hf://owner/shapes", "--workers", "0", *data]) == 0
    assert "fetched hf://owner/shapes" in capsys.readouterr().err
    for words in (["predict", "owner/nothing", image], ["info", "hf://owner/nothing"], ["serve", "hf://owner/nothing"]):
        assert cli.main(words) == 2
        error = capsys.readouterr().err
        assert "no such model on" in error
        assert ("owner/nothing: no such file or folder, and not on the Hub" in error) == (words[1] == "owner/nothing")


def test_the_cache_is_not_changed(server: Hub, trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.add("owner/shapes", model_safetensors=(trained / "model.safetensors").read_bytes())
    path = hub.fetch_model("owner/shapes").path
    content, folder = path.read_bytes(), sorted(path.parent.iterdir())
    words = ["eval", "hf://owner/shapes", "--data", str(shapes), "--save-thresholds", "--device", "cpu"]
    for command, message in ((words, "which is not changed"), (["export", "hf://owner/shapes"], "--out FILE")):
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
    for model in (path, Path("hf://owner/shapes")):
        with pytest.raises(InputError, match="which is not changed"):
            store_thresholds(model, ScoreThresholds(0.5, 0.5, "valid"))
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == (content, folder)


@pytest.mark.parametrize(
    "words",
    [
        *(
            "predict MODEL a.jpg",
            "eval MODEL --data d",
            "export MODEL",
            "package MODEL o",
            "push MODEL o/n",
            "info MODEL",
            "serve MODEL",
            "serve n=MODEL",
        ),
        *("compare MODEL MODEL --data d", "average MODEL MODEL --out o.safetensors", "predict-many MODEL d o"),
        *("doctor d --model MODEL", "bench models MODEL", "train sais-lite --data d --weights MODEL"),
    ],
)
def test_every_command_that_takes_a_model_looks_on_the_hub(
    words: str, server: Hub, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d").symlink_to(shapes)
    assert cli.main(words.replace("MODEL", "hf://owner/nothing").split()) == 2
    assert "hf://owner/nothing/model.safetensors: no such model on" in capsys.readouterr().err
    assert any("/owner/nothing/resolve/" in request for request in server.requests)
