"""Packages: what the folder and its model card contain, what never leaves the machine, and what is not replaced."""

from __future__ import annotations

import ast
import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import sais
from sais import cli
from sais.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sais.config import Experiment, from_dict
from sais.data.formats import read_dataset
from sais.errors import CheckpointError, ConfigError, InputError
from sais.inference.graph_checksum import ENTRY, placeholder, seal
from sais.inference.metadata import GraphMetadata
from sais.inference.model_info import read_model_info
from sais.sharing.model_card import CardFacts, check_license, model_card
from sais.sharing.package import package_files, package_model


@pytest.fixture(scope="module")
def package(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package of the tiny run with examples; copy it before changing it."""
    out = tmp_path_factory.mktemp("packages") / "shapes"
    package_model(trained, out, license="MIT", examples=2)
    return out


def metadata_of(card: str) -> dict[str, Any]:
    """Return the metadata at the start of a model card."""
    return yaml.safe_load(card.split("---\n")[1])  # type: ignore[no-any-return]


def test_package_predicts_as_the_run_without_a_network_and_has_no_training_state(
    package: Path, trained: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: pytest.fail("the network is used"))
    names = [file.relative_to(package).as_posix() for file in package_files(package)]
    assert names == [
        *("README.md", "examples/00.jpg", "examples/01.jpg", "experiment.json", "model.json", "model.safetensors"),
        "training_curve.png",
    ]
    image = next((shapes / "images" / "valid").iterdir())
    expected = sais.Predictor(trained, device="cpu")(image)
    found = sais.Predictor.from_pretrained(package, device="cpu")(image)
    np.testing.assert_array_equal(found.scores, expected.scores)
    checkpoint = load_checkpoint(package / "model.safetensors")
    assert all(name.startswith("model.") for name in checkpoint.tensors)
    assert checkpoint.state["license"] == "mit"
    assert "recent_losses" not in checkpoint.state
    run = load_checkpoint(trained / "model.safetensors")
    assert from_dict(Experiment, json.loads((package / "experiment.json").read_text()), "") == run.experiment
    info = json.loads((package / "model.json").read_text())
    assert (info["license"], info["thresholds"]) == ("mit", run.state["thresholds"])


def test_last_checkpoint_is_packaged_without_its_optimizer(trained: Path, tmp_path: Path) -> None:
    package_model(trained / "last.safetensors", tmp_path / "out")
    assert all(name.startswith("model.") for name in load_checkpoint(tmp_path / "out" / "model.safetensors").tensors)
    weights, state = tmp_path / "out" / "model.safetensors", trained / "last.safetensors"
    assert weights.stat().st_size < state.stat().st_size / 2


def test_nothing_in_the_package_names_this_machine(package: Path, trained: Path, shapes: Path) -> None:
    forbidden = [str(shapes).encode(), str(trained.parent).encode(), str(Path.home()).encode() + b"/"]
    for file in package_files(package):
        content = file.read_bytes()
        assert not [text for text in forbidden if text in content], file.name


def test_model_card_states_data_metrics_limits_and_license(package: Path, trained: Path, shapes: Path) -> None:
    card = (package / "README.md").read_text(encoding="utf-8")
    split = read_dataset(shapes, "train")
    metrics = load_checkpoint(trained / "model.safetensors").state["metrics"]
    data = load_checkpoint(trained / "model.safetensors").state["data"]
    for name, count in zip(split.class_names, data["objects_per_class"], strict=True):
        assert f"| {name} | {count} | {metrics['mask']['per_class'][name]:.3f} |" in card
    assert f"12 images, {data['objects']} objects. Digest of the labels: `{data['digest']}`" in card
    assert f"| mask | {metrics['mask']['AP']:.3f} |" in card
    smallest, median, largest = data["object_sizes"]
    assert f"{smallest:g} to {largest:g} pixels large (square root of the box area; median {median:g})" in card
    assert "Classes with fewer than 50 training objects: " in card
    assert 'Predictor.from_pretrained("shapes")' in card
    assert "## License\n\nmit." in card
    metadata = metadata_of(card)
    assert (metadata["license"], metadata["library_name"]) == ("mit", "sais")
    values = {item["type"]: item["value"] for item in metadata["model-index"][0]["results"][0]["metrics"]}
    assert values["mask_ap"] == pytest.approx(metrics["mask"]["AP"], abs=1e-4)
    for example in re.findall(r"!\[[^]]*\]\(([^)]*)\)", card):
        assert min(Image.open(package / example).size) > 50


def test_model_card_is_valid_for_the_hub(package: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    card = huggingface_hub.ModelCard.load(package / "README.md")
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "image-segmentation"
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["mask_ap"].dataset_name.endswith("(valid)")
    assert results.keys() == {"mask_ap", "mask_ap50", "box_ap", "box_ap50"}


def test_examples_only_if_asked_for_and_not_left_from_an_earlier_package(
    package: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shapes"
    shutil.copytree(package, out)
    package_model(trained, out)
    assert not list(out.glob("examples/*"))
    assert "Examples" not in (out / "README.md").read_text()


def test_an_edited_model_card_and_files_of_others_are_kept(package: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    shutil.copytree(package, out)
    (out / "README.md").write_text((out / "README.md").read_text().replace("## Limits", "## Limits\n\nOnly at noon."))
    with pytest.raises(InputError, match=r"README\.md: exists, and is not an earlier output"):
        package_model(trained, out)
    assert "Only at noon." in (out / "README.md").read_text()
    package_model(trained, out, overwrite=True)
    assert "Only at noon." not in (out / "README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match="not an earlier output"):
        package_model(trained, tmp_path / "mine")
    with pytest.raises(InputError, match="would replace a file that is read"):
        package_model(trained, trained, overwrite=True)


def test_a_killed_package_is_none_and_can_be_repeated(
    package: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sais.sharing import package as module

    for out in (tmp_path / "new", tmp_path / "shapes"):
        if out.name == "shapes":
            shutil.copytree(package, out)
        with monkeypatch.context() as patch:
            patch.setattr(module, "model_card", lambda facts: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                package_model(trained, out)
        assert (out / "model.safetensors").is_file()
        with pytest.raises(InputError, match="not a package"):
            package_files(out)
        assert out / "README.md" in package_model(trained, out)


def test_an_average_has_no_training_curve_of_the_run_in_whose_folder_it_is(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    checkpoint = load_checkpoint(trained / "model.safetensors")
    checkpoint.state["averaged"] = ["a.safetensors", "b.safetensors"]
    save_checkpoint(run / "mean.safetensors", checkpoint)
    names = {file.name for file in package_model(run / "mean.safetensors", tmp_path / "out")}
    assert names == {"README.md", "experiment.json", "model.json", "model.safetensors"}
    assert "average of a.safetensors, b.safetensors" in (tmp_path / "out" / "README.md").read_text()


def test_links_are_not_followed(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    shutil.copytree(package, out)
    secret = tmp_path / "secret"
    secret.write_text("token")
    (out / "training_curve.png").unlink()
    (out / "training_curve.png").symlink_to(secret)
    with pytest.raises(InputError, match="symbolic link"):
        package_files(out)


def write_graph(path: Path, checkpoint: Checkpoint) -> Path:
    """Write an ONNX file with the metadata of an export, whose graph returns its input."""
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, [1]) for name in ("images", "boxes")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["images"], ["boxes"])], "graph", *([e] for e in ends)
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    origin = {"iteration": checkpoint.state["iteration"]}
    names, ids = checkpoint.class_names, checkpoint.category_ids
    metadata = GraphMetadata("masks", checkpoint.experiment, names, ids, origin=origin).to_text()
    onnx.helper.set_model_props(model, metadata | {ENTRY: placeholder(".onnx")})
    path.write_bytes(model.SerializeToString())
    seal(path)
    return path


def test_a_graph_of_the_same_model_is_added_and_another_one_is_refused(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint = load_checkpoint(trained / "model.safetensors")
    graph = write_graph(tmp_path / "graph.onnx", checkpoint)
    package_model(trained, tmp_path / "out", onnx=graph)
    assert (tmp_path / "out" / "model.onnx").read_bytes() == graph.read_bytes()
    assert "needs no PyTorch" in (tmp_path / "out" / "README.md").read_text()
    names = tuple(name.upper() for name in checkpoint.class_names)
    for other in (replace(checkpoint, class_names=names), replace(checkpoint, state={"iteration": 1})):
        write_graph(tmp_path / "other.onnx", other)
        with pytest.raises(CheckpointError, match="not an export of"):
            package_model(trained, tmp_path / "other", onnx=tmp_path / "other.onnx")
    graph.write_bytes(graph.read_bytes().replace(b"Identity", b"identity"))
    with pytest.raises(CheckpointError, match="changed since it was exported"):
        package_model(trained, tmp_path / "other", onnx=graph)
    assert not (tmp_path / "other").exists()


def test_names_cannot_break_the_card() -> None:
    name = "a|b](http://evil)<script>`\n# title"
    info: dict[str, Any] = {
        "recipe": name,
        "backbone": name,
        "masks": True,
        "parameters": 1,
        "classes": [{"name": name, "id": 1}],
        "input": {"mode": "fixed", "size": [64, 64]},
        "settings": {},
        "thresholds": None,
        "iteration": None,
        "images": None,
        "seconds": None,
        "metrics": None,
        "data": None,
        "versions": None,
        "averaged": None,
    }
    card = model_card(CardFacts(name, info | {"license": "My: own\tlicense"}, "owner/name"))
    assert "<script" not in card.replace("\\<", "")
    assert metadata_of(card)["license_name"] == "My: own\tlicense"
    table = [line for line in card.splitlines() if line.startswith("| a")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [3]
    assert sum(line.startswith("# ") for line in card.splitlines()) == 1


def test_entries_of_a_stranger_cannot_break_the_card(trained: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained / "model.safetensors")
    evil = "\n# injected <script>"
    data = {"split": "a\n# b", "images": evil, "objects": evil, "digest": "`# x`", "objects_per_class": [evil, None]}
    scores = {"AP": float("nan"), "AP50": evil, "per_class": [1]}
    checkpoint.state |= {"data": data | {"object_sizes": ["a", "b", "c"]}, "metrics": {"images": evil, "mask": scores}}
    checkpoint.state |= {"iteration": evil, "images": evil, "seconds": float("nan"), "license": {"a": 1}}
    checkpoint.state |= {"versions": [evil], "averaged": evil}
    save_checkpoint(tmp_path / "evil.safetensors", checkpoint)
    package_model(tmp_path / "evil.safetensors", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "injected" not in card
    assert sum(line.startswith("# ") for line in card.splitlines()) == 1
    assert "sizes of the objects in training are not known" in card
    assert "The model was not evaluated" in card
    json.loads((tmp_path / "out" / "model.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_folder_names_are_quoted_in_the_code_of_the_card(package: Path) -> None:
    info = read_model_info(package)
    name = 'a"b\n```\n# c'
    code = re.search(r"```python\n(.*?)\n```", model_card(CardFacts("title", info, name)), re.DOTALL)
    assert code is not None
    call = ast.parse(code[1]).body[1].value  # type: ignore[attr-defined]
    assert ast.literal_eval(call.args[0]) == name


@pytest.mark.parametrize(
    ("text", "expected"), [("Apache-2.0", "apache-2.0"), (" CC-BY-4.0 ", "cc-by-4.0"), ("Ours", "Ours")]
)
def test_licenses_are_spelled_as_on_the_hub(text: str, expected: str) -> None:
    assert check_license(text) == expected


@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "x" * 101])
def test_licenses_that_are_no_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="license"):
        check_license(text)


def test_command_packages_and_info_shows_the_license(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["package", str(trained), str(out), "--data", str(tmp_path)]) == 2
    assert "--data has no effect without --examples" in capsys.readouterr().err
    assert cli.main(["package", str(trained), str(out)]) == 0
    assert "no license is given" in capsys.readouterr().out
    assert cli.main(["package", str(trained), str(out), "--license", "Apache-2.0"]) == 0
    assert "no license" not in capsys.readouterr().out
    assert cli.main(["info", str(out)]) == 0
    assert re.search(r"^license +apache-2\.0$", capsys.readouterr().out, re.MULTILINE)
    package_model(out, tmp_path / "again")  # the stored license is kept
    assert read_model_info(tmp_path / "again")["license"] == "apache-2.0"


def test_a_model_of_a_gpu_opens_where_there_is_none(trained: Path, tmp_path: Path) -> None:
    """The device and the precision of the training are settings of the run, not of the prediction."""
    checkpoint = load_checkpoint(trained / "model.safetensors")
    assert {tensor.device.type for tensor in checkpoint.tensors.values()} == {"cpu"}
    experiment = replace(checkpoint.experiment, run=replace(checkpoint.experiment.run, device="cuda", precision="fp16"))
    save_checkpoint(tmp_path / "model.safetensors", replace(checkpoint, experiment=experiment))
    assert sais.Predictor(tmp_path / "model.safetensors", device="cpu").class_names == checkpoint.class_names
