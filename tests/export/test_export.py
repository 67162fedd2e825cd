"""Exported files find what torch finds, say what they are, and run where torch is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sais.checkpoint import Checkpoint, add_prefix, load_checkpoint, save_checkpoint
from sais.cli import main
from sais.config import Experiment, ModelConfig
from sais.config import PostprocessConfig as Settings  # pytest would collect a class of that name
from sais.converters.fuse import for_inference
from sais.data.synthetic import make_scene
from sais.errors import SaisError
from sais.export import ExportOptions, export_model
from sais.export.graphs import DetectionsGraph
from sais.export.nms import batched_nms
from sais.export.parity import check_parity
from sais.inference.exported_predictor import ExportedPredictor
from sais.inference.predictor import Predictor
from sais.modeling.postprocess import postprocess
from sais.modeling.sais import STRIDES, build_model
from sais.ops.boxes import locations
from sais.ops.letterbox import group_by_canvas

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LEAST = 0.02
IMAGES = [
    make_scene(5, "valid", number, size=size).image for number, size in enumerate([(96, 128), (70, 50), (96, 128)])
]

Export = Callable[[str], Path]
OPTIONS = {
    "masks.onnx": ExportOptions(graph="masks"),
    "raw.onnx": ExportOptions(graph="raw", any_size=True),
    "fp16.onnx": ExportOptions(precision="fp16"),
    "int8.onnx": ExportOptions(graph="raw", precision="int8"),
    "detections.xml": ExportOptions(format="openvino"),
    "raw.pt2": ExportOptions(format="torch-export", graph="raw"),
}


@pytest.fixture(scope="module")
def exported(trained: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A file of `OPTIONS` by its name, made once from the tiny run."""
    folder = tmp_path_factory.mktemp("exported")

    def make(name: str) -> Path:
        path = folder / name
        if not path.is_file():
            calibration = sorted((shapes / "images" / "train").iterdir())
            export_model(trained / "model.safetensors", path, OPTIONS[name], calibration)
        return path

    return make


def random_graph(settings: Settings, masks: bool = True) -> tuple[DetectionsGraph, Any]:
    """A graph over a random network that finds much, and the network."""
    torch.manual_seed(1)
    config = ModelConfig(backbone="resnet18.a1_in1k", channels=32, tower_depth=1, prototype_channels=8, masks=masks)
    model = build_model(config, 3)
    model.head.class_logits.bias.data.fill_(-1.5)
    for module in (model.head.class_logits, model.head.centerness_logits, model.head.distances):
        module.weight.data.normal_(0, 0.15)
    model.head.distances.bias.data.fill_(2.5)
    prepared = for_inference(model)
    return DetectionsGraph(prepared, settings, masks=masks), prepared


@pytest.mark.parametrize("candidates", [7, 1000])
@torch.inference_mode()
def test_the_graph_keeps_what_detect_keeps(candidates: int) -> None:
    settings = Settings(score_threshold=0.1, pre_nms_topk=candidates, nms_iou=0.4, max_detections=60)
    graph, model = random_graph(settings)
    found_in_all = 0
    for seed in range(6):
        torch.manual_seed(seed)
        images = torch.randint(0, 256, (2, 3, 96, 160), dtype=torch.uint8)
        contents = [(96.0, 160.0), (70.5, 131.0)]
        outputs = model(images)
        points = locations(outputs.level_sizes, STRIDES)
        wanted = postprocess(outputs, points, contents, 0.1, candidates, 0.4, 60)
        boxes, scores, labels, coefficients, prototypes, logits = graph(images, torch.tensor(contents))
        torch.testing.assert_close(scores, wanted.scores)
        torch.testing.assert_close(boxes, wanted.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(coefficients, wanted.coefficients)
        assert torch.equal(labels, wanted.labels)
        torch.testing.assert_close(logits, torch.einsum("bdk,bkhw->bdhw", coefficients, prototypes))
        found_in_all += int((scores > 0).sum())
    assert found_in_all > 100


def test_suppression_takes_no_part_of_zeros_and_keeps_no_more_than_asked() -> None:
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [20, 0, 30, 9.0]]])
    scores = torch.tensor([[[0.5, 0.6, 0.3, 0.0], [0.0, 0.0, 0.0, 0.2]]])
    assert batched_nms(boxes, scores, 0.5, 10).tolist() == [
        [pytest.approx([0, 0.6, 0.3, 0]), pytest.approx([0, 0, 0, 0.2])]
    ]
    assert batched_nms(boxes, scores, 0.5, 1)[0, 0].tolist() == pytest.approx([0, 0.6, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks.onnx", "raw.onnx", "detections.xml"])
def test_finds_what_torch_finds(name: str, exported: Export, trained: Path) -> None:
    if name.endswith(".xml"):
        pytest.importorskip("openvino")
    difference = check_parity(trained / "model.safetensors", exported(name), IMAGES, score=LEAST)
    assert difference.images == 3
    assert difference.objects > 20
    assert difference.unmatched == 0
    assert difference.score < 1e-3
    assert difference.box < 0.1
    assert difference.mask_iou >= 0.995


@pytest.mark.slow
def test_a_batch_of_several_canvases_is_each_image_alone(exported: Export) -> None:
    predictor = ExportedPredictor(exported("masks.onnx"), score=LEAST)
    together = predictor.batch(IMAGES)
    for one, image in zip(together, IMAGES, strict=True):
        alone = predictor(image)
        assert one.image_size == image.shape[:2]
        assert len(one) == len(alone) > 3
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=0.01)
        np.testing.assert_array_equal(one.labels, alone.labels)
        assert (one.masks() ^ alone.masks()).mean() < 1e-4


@pytest.mark.slow
def test_another_size_where_it_was_left_open(exported: Export, trained: Path) -> None:
    predictor = ExportedPredictor(exported("raw.onnx"), score=LEAST)
    base = load_checkpoint(trained / "model.safetensors")
    model = build_model(base.experiment.model, len(base.class_names))
    model.load_state_dict(base.part("model"))
    settings = replace(base.experiment, input=replace(base.experiment.input, size=(96, 160)))
    ours = Predictor.of(model, settings, base.class_names, base.category_ids, "cpu", LEAST)
    predictor.experiment = settings
    wanted, found = ours(IMAGES[0]), predictor(IMAGES[0])
    assert len(wanted) == len(found) > 3
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


@pytest.mark.slow
def test_the_file_says_what_it_is(exported: Export, tiny: Experiment) -> None:
    path = exported("masks.onnx")
    session = onnxruntime.InferenceSession(str(path))
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "images": ["batch", 3, 64, 64],
        "contents": ["batch", 2],
        "boxes": ["batch", 100, 4],
        "scores": ["batch", 100],
        "labels": ["batch", 100],
        "coefficients": ["batch", 100, 32],
        "prototypes": ["batch", 32, 16, 16],
        "mask_logits": ["batch", 100, 16, 16],
    }
    said = session.get_modelmeta().custom_metadata_map
    assert said["class_names"] == '["ring", "star", "triangle", "crescent", "cross"]'
    assert (said["graph"], said["input_mode"], said["input_size"]) == ("masks", "fixed", "[64, 64]")
    assert "RGB" in said["input_rules"]
    assert ExportedPredictor(path).experiment == replace(tiny, schedule=replace(tiny.schedule, epochs=8))
    open_sides = onnxruntime.InferenceSession(str(exported("raw.onnx")))
    shapes = {value.name: value.shape for value in (*open_sides.get_inputs(), *open_sides.get_outputs())}
    assert shapes["images"] == ["batch", 3, "height", "width"]
    assert shapes["class_logits"] == ["batch", "locations", 5]
    assert shapes["prototypes"] == ["batch", 32, "grid_height", "grid_width"]


WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors", "onnx"):
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from sais.inference.backends import RuntimePredictor
found = RuntimePredictor(sys.argv[1], score=float(sys.argv[2]))(np.load(sys.argv[3]))
found.save(sys.argv[4])
from sais.cli import main
sys.exit(main(["predict", sys.argv[1], sys.argv[5], "--out", sys.argv[5] + ".out", "--score", sys.argv[2]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks.onnx", "raw.onnx", "detections.xml"])
def test_runs_where_torch_is_not_installed(name: str, exported: Export, trained: Path, tmp_path: Path) -> None:
    from sais.results.detections import Detections

    if name.endswith(".xml"):
        pytest.importorskip("openvino")
    np.save(tmp_path / "image.npy", IMAGES[0])
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    places = [str(tmp_path / name) for name in ("image.npy", "found.json", "image.png")]
    arguments = [str(exported(name)), str(LEAST), *places]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], check=True)
    found = Detections.load(tmp_path / "found.json")
    wanted = Predictor(trained, "cpu", LEAST)(IMAGES[0])
    assert len(found) == len(wanted) > 3
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.05)
    predictions = json.loads((tmp_path / "image.png.out" / "predictions.json").read_text())
    assert len(predictions["annotations"]) == len(wanted)
    assert (tmp_path / "image.png.out" / "image.jpg").is_file()


@pytest.mark.slow
def test_the_example_finds_the_same_with_numpy_alone(exported: Export, root: Path, tmp_path: Path) -> None:
    path = exported("masks.onnx")
    Image.fromarray(IMAGES[1]).save(tmp_path / "image.png")
    command = [sys.executable, str(root / "examples" / "onnx_numpy.py"), str(path), "image.png", str(LEAST)]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    wanted = ExportedPredictor(path, score=LEAST)(IMAGES[1])
    assert len(said.splitlines()) == len(wanted) > 3
    mask = np.zeros(wanted.image_size, np.uint8)
    for i in reversed(range(len(wanted))):
        mask[wanted.masks()[i]] = i + 1
    assert (np.asarray(Image.open(tmp_path / "masks.png")) != mask).mean() < 1e-3
    assert (mask > 0).mean() > 0.05


@pytest.mark.slow
def test_half_precision_and_eight_bits_stay_near(exported: Export, trained: Path) -> None:
    source = trained / "model.safetensors"
    half = check_parity(source, exported("fp16.onnx"), IMAGES, score=LEAST)
    assert half.objects > 20
    assert half.score < 0.02
    assert half.unmatched <= 0.1 * half.objects
    sizes = {name: exported(name).stat().st_size for name in ("raw.onnx", "fp16.onnx", "int8.onnx")}
    assert sizes["fp16.onnx"] < 0.6 * sizes["raw.onnx"]
    assert sizes["int8.onnx"] < 0.4 * sizes["raw.onnx"]
    settings = load_checkpoint(source).experiment.input
    (_, _, stacked) = next(iter(group_by_canvas(IMAGES[:1], settings.mode, settings.size)))
    inputs = {"images": np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))}
    exact, rough = (ExportedPredictor(exported(name)).session.run(inputs) for name in ("raw.onnx", "int8.onnx"))
    for name in exact:
        one, other = exact[name].ravel().astype(np.float64), rough[name].ravel().astype(np.float64)
        assert 0.9 < np.corrcoef(one, other)[0, 1] < 1 - 1e-9, name


@pytest.mark.slow
def test_torch_export_says_the_same_and_carries_its_metadata(exported: Export, trained: Path) -> None:
    extra = {"sais.json": ""}
    program = torch.export.load(str(exported("raw.pt2")), extra_files=extra)
    assert '"graph": "raw"' in extra["sais.json"]
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    model = Predictor(trained, "cpu").model
    with torch.inference_mode():
        wanted = model(images)
    class_logits, _, distances, _, prototypes = program.module()(images)
    torch.testing.assert_close(class_logits, wanted.class_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(distances, wanted.distances, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(prototypes, wanted.prototypes, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_command_exports_checks_and_says_so(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "shapes.onnx"
    images = str(shapes / "images" / "valid")
    assert main(["export", str(trained), "--out", str(out), "--score", "0.15", "--check", images]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}" in said
    assert "objects on 4 images: 0 found by one and not by the other" in said
    found = ExportedPredictor(out)(IMAGES[0])
    assert (found.scores >= 0.15).all()


@pytest.mark.slow
def test_predict_and_eval_take_exported_files(
    exported: Export, trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, measured, found = str(shapes / "images" / "valid"), [], []
    for model in (trained, exported("raw.onnx")):
        out = tmp_path / "out"
        assert main(["predict", str(model), images, "--out", str(out), "--score", str(LEAST), "--no-draw"]) == 0
        found.append(json.loads((out / "predictions.json").read_text())["annotations"])
        capsys.readouterr()
        assert main(["eval", str(model), "--data", str(shapes), "--workers", "0", "--json", "-"]) == 0
        measured.append(json.loads(capsys.readouterr().out)["metrics"])
    assert [one["category_id"] for one in found[0]] == [one["category_id"] for one in found[1]]
    assert len(found[0]) > 10
    assert measured[1]["mask"]["AP"] == pytest.approx(measured[0]["mask"]["AP"], abs=1e-3)
    assert main(["predict", str(exported("raw.onnx")), images, "--flip"]) == 2
    assert "an exported graph has one input" in capsys.readouterr().err


@pytest.mark.slow
def test_openvino_opens_onnx_files_too(exported: Export) -> None:
    pytest.importorskip("openvino")
    path = exported("masks.onnx")
    wanted, found = (ExportedPredictor(path, LEAST, runtime)(IMAGES[0]) for runtime in ("onnx", "openvino"))
    assert len(found) == len(wanted) > 3
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.05)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What `sais export` prints when it refuses."""
    assert main(["export", *argv]) == 2
    return capsys.readouterr().err


def test_what_does_not_go_together(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such model" in refused(capsys, str(tmp_path / "nothing.safetensors"))
    assert "ends with .xml" in refused(capsys, str(trained), "--format", "openvino", "--out", str(tmp_path / "a.onnx"))
    assert "torch-export takes fp32" in refused(capsys, str(trained), "--format", "torch-export", "--precision", "int8")
    assert "drops nothing" in refused(capsys, str(trained), "--graph", "raw", "--score", "0.3")
    assert "multiples of 32" in refused(capsys, str(trained), "--size", "100", "100", "--out", str(tmp_path / "a.onnx"))
    assert not (tmp_path / "a.onnx").exists()
    base = load_checkpoint(trained / "model.safetensors")
    model = replace(base.experiment.model, masks=False)
    experiment = replace(base.experiment, model=model)
    boxes_only = tmp_path / "boxes.safetensors"
    tensors = add_prefix("model", build_model(model, len(base.class_names)).state_dict())
    save_checkpoint(boxes_only, Checkpoint(experiment, base.class_names, base.category_ids, tensors))
    assert "boxes only" in refused(capsys, str(boxes_only), "--graph", "masks")


def test_what_is_no_export_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SaisError, match="no such file"):
        ExportedPredictor(tmp_path / "a.onnx")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SaisError, match=r"neither \.onnx nor \.xml"):
        ExportedPredictor(tmp_path / "a.txt")
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(SaisError, match="cannot open it"):
        ExportedPredictor(tmp_path / "a.onnx")
    with pytest.raises(SaisError, match="computes as the file has it"):
        ExportedPredictor(tmp_path / "a.onnx", precision="bf16")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    foreign = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(foreign, str(tmp_path / "a.onnx"))
    with pytest.raises(SaisError, match="not a graph that `sais export` wrote"):
        ExportedPredictor(tmp_path / "a.onnx")
