"""`sais.export`: parity of exported files with PyTorch, their metadata, and prediction where torch is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sais
from sais.checkpoint import Checkpoint, add_prefix, load_checkpoint, save_checkpoint
from sais.cli import main
from sais.config import Experiment, PostprocessConfig
from sais.converters.fuse import for_inference
from sais.data.synthetic import make_scene
from sais.errors import CheckpointError, ConfigError, InputError
from sais.export import FORMATS, ExportOptions
from sais.export.exporter import EXPORTERS
from sais.export.graphs import DetectionsGraph, RawGraph, dense_output_names
from sais.export.nms import batched_nms
from sais.export.parity import check_parity
from sais.inference.backends.exported import open_exported
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.inference.trained_model import load_model
from sais.modeling.postprocess import postprocess
from sais.modeling.sais import build_model
from sais.ops.boxes import locations
from sais.ops.letterbox import group_by_canvas
from sais.results.detections import Detections
from sais.structures import STRIDES
from tests.conftest import Export
from tests.export.export_samples import random_model, with_maskness

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MIN_SCORE = 0.02
CPU = InferenceOptions(score=MIN_SCORE, device="cpu")
IMAGES = [
    make_scene(5, "valid", number, size=size).image for number, size in enumerate([(96, 128), (70, 50), (96, 128)])
]


def random_network(masks: bool = True, quality: str = "centerness") -> Any:
    """Return a prepared random network with many detections."""
    return for_inference(random_model(masks=masks, quality=quality).network)


@pytest.mark.parametrize(("topk", "quality"), [(7, "centerness"), (1000, "centerness"), (1000, "none")])
@torch.inference_mode()
def test_detections_graph_equals_postprocess(topk: int, quality: str) -> None:
    settings = PostprocessConfig(score_threshold=0.1, pre_nms_topk=topk, nms_iou=0.4, max_detections=60)
    network = random_network(quality=quality)
    graph = DetectionsGraph(network, settings, masks=True)
    objects = 0
    for seed in range(6):
        torch.manual_seed(seed)
        images = torch.randint(0, 256, (2, 3, 96, 160), dtype=torch.uint8)
        sizes = [(96.0, 160.0), (70.5, 131.0)]
        outputs = network(images)
        points = locations(outputs.level_sizes, STRIDES)
        expected = postprocess(outputs, points, sizes, 0.1, topk, 0.4, 60)
        boxes, scores, labels, coefficients, prototypes, logits = graph(images, torch.tensor(sizes))
        torch.testing.assert_close(scores, expected.scores)
        torch.testing.assert_close(boxes, expected.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(coefficients, expected.coefficients)
        assert torch.equal(labels, expected.labels)
        torch.testing.assert_close(logits, torch.einsum("bdk,bkhw->bdhw", coefficients, prototypes))
        objects += int((scores > 0).sum())
    assert objects > 100


def test_graphs_name_the_outputs_that_the_network_has() -> None:
    assert RawGraph(random_network()).outputs == (
        "class_logits",
        "quality_logits",
        "distances",
        "coefficients",
        "prototypes",
    )
    plain = random_network(masks=False, quality="none")
    assert RawGraph(plain).outputs == ("class_logits", "distances")
    assert DetectionsGraph(plain, PostprocessConfig()).outputs == ("boxes", "scores", "labels")
    with pytest.raises(ConfigError, match="Sequential does not return"):
        dense_output_names(torch.nn.Sequential(torch.nn.MaxPool2d(2)))
    with pytest.raises(ConfigError, match="Sequential does not return"):
        DetectionsGraph(torch.nn.Sequential(torch.nn.MaxPool2d(2)), PostprocessConfig())


def test_batched_nms_ignores_zeros_and_limits_the_boxes_of_a_class() -> None:
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [20, 0, 30, 9.0]]])
    scores = torch.tensor([[[0.5, 0.6, 0.3, 0.0], [0.0, 0.0, 0.0, 0.2]]])
    assert batched_nms(boxes, scores, 0.5, 10).tolist() == [
        [pytest.approx([0, 0.6, 0.3, 0]), pytest.approx([0, 0, 0, 0.2])]
    ]
    assert batched_nms(boxes, scores, 0.5, 1)[0, 0].tolist() == pytest.approx([0, 0.6, 0, 0])


def test_export_writes_a_format_of_the_users_own(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function of the user's own receives the graph and its metadata; it has no int8, and needs a file name."""
    code = "def write(graph, metadata, canvas, path):\n"
    code += "    path.write_text(f'{list(graph.outputs)} {metadata.graph} {canvas}')\n"
    (tmp_path / "own_format.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    options = ["--format", "own_format:write", "--graph", "raw", "--size", "64", "96"]
    assert main(["export", str(trained), *options, "--out", "model.txt"]) == 0
    outputs = ["class_logits", "quality_logits", "distances", "coefficients", "prototypes"]
    assert (tmp_path / "model.txt").read_text() == f"{outputs} raw (64, 96)"
    assert main(["export", str(trained), *options]) == 2
    assert "--out FILE" in capsys.readouterr().err
    assert main(["export", str(trained), "--format", "onix"]) == 2
    assert "did you mean 'onnx'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="int8"):
        sais.export(trained, tmp_path / "x", ExportOptions(format="own_format:write", precision="int8"))


def test_every_exporter_has_a_suffix() -> None:
    assert set(EXPORTERS) == set(FORMATS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks.onnx", "raw.onnx", "detections.xml"])
def test_exported_detections_equal_torch(name: str, exported: Export, trained: Path) -> None:
    if name.endswith(".xml"):
        pytest.importorskip("openvino")
    report = check_parity(trained, exported(name), IMAGES, CPU)
    assert report.images == 3
    assert report.objects > 20
    assert report.unmatched == 0
    assert report.max_score_difference < 1e-3
    assert report.max_box_difference < 0.1
    assert report.min_mask_iou >= 0.995


@pytest.mark.slow
def test_exported_batch_of_several_canvases_equals_single_images(exported: Export) -> None:
    predictor = Predictor(exported("masks.onnx"), CPU)
    for in_batch, image in zip(predictor.batch(IMAGES), IMAGES, strict=True):
        alone = predictor(image)
        assert in_batch.image_size == image.shape[:2]
        assert len(in_batch) == len(alone) > 3
        np.testing.assert_allclose(in_batch.boxes, alone.boxes, atol=0.01)
        np.testing.assert_array_equal(in_batch.labels, alone.labels)
        assert (in_batch.masks() ^ alone.masks()).mean() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"tta_scales": (1.5,)}, {"tta_flip": True, "tta_scales": (1.0, 1.5)}, {"tiles": 64, "tta_flip": True}]
)
def test_tta_and_tiles_of_a_dynamic_export_equal_torch(
    exported: Export, trained: Path, changes: dict[str, Any]
) -> None:
    options = replace(CPU, **changes)
    expected, actual = Predictor(trained, options)(IMAGES[0]), Predictor(exported("raw.onnx"), options)(IMAGES[0])
    assert len(expected) == len(actual) > 3
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-4)


@pytest.mark.slow
def test_fixed_shape_export_supports_flip_and_tiles_but_not_scales(exported: Export, trained: Path) -> None:
    path = exported("masks.onnx")
    options = replace(CPU, tiles=64, tta_flip=True)
    expected, actual = Predictor(trained, options)(IMAGES[0]), Predictor(path, options)(IMAGES[0])
    assert len(expected) == len(actual) > 3
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-4)
    with pytest.raises(ConfigError, match="tta_scales: the exported model has a fixed input of 64 x 64"):
        Predictor(path, CPU, tta_scales=(1.0, 1.5))
    backend = open_exported(path, CPU)
    with pytest.raises(InputError, match="exported for canvases of 64 x 64, not 96 x 96"):
        backend.run(np.zeros((1, 3, 96, 96), np.uint8), [(96.0, 96.0)])


@pytest.mark.slow
def test_exported_file_stores_names_and_metadata(exported: Export, tiny: Experiment) -> None:
    path = exported("masks.onnx")
    session = onnxruntime.InferenceSession(str(path))
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "images": ["batch", 3, 64, 64],
        "image_sizes": ["batch", 2],
        "boxes": ["batch", 100, 4],
        "scores": ["batch", 100],
        "labels": ["batch", 100],
        "coefficients": ["batch", 100, 32],
        "prototypes": ["batch", 32, 16, 16],
        "mask_logits": ["batch", 100, 16, 16],
    }
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["class_names"] == '["ring", "star", "triangle", "crescent", "cross"]'
    assert (metadata["graph"], metadata["input_mode"], metadata["input_size"]) == ("masks", "fixed", "[64, 64]")
    assert (metadata["strides"], metadata["mask_stride"]) == ("[8, 16, 32, 64, 128]", "4")
    assert metadata["dynamic_shape"] == "false"
    assert "RGB" in metadata["input_rules"]
    assert Predictor(path).experiment == replace(tiny, schedule=replace(tiny.schedule, epochs=8))
    dynamic = onnxruntime.InferenceSession(str(exported("raw.onnx")))
    shapes = {value.name: value.shape for value in (*dynamic.get_inputs(), *dynamic.get_outputs())}
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
from sais import Predictor
detections = Predictor(sys.argv[1], score=float(sys.argv[2]))(np.load(sys.argv[3]))
detections.save(sys.argv[4])
from sais.cli import main
sys.exit(main(["predict", sys.argv[1], sys.argv[5], "--out", sys.argv[5] + ".out", "--score", sys.argv[2]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks.onnx", "raw.onnx", "detections.xml"])
def test_predictor_runs_exported_files_without_torch(
    name: str, exported: Export, trained: Path, tmp_path: Path
) -> None:
    if name.endswith(".xml"):
        pytest.importorskip("openvino")
    np.save(tmp_path / "image.npy", IMAGES[0])
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    paths = [str(tmp_path / name) for name in ("image.npy", "detections.json", "image.png")]
    arguments = [str(exported(name)), str(MIN_SCORE), *paths]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], check=True)
    actual, expected = Detections.load(tmp_path / "detections.json"), Predictor(trained, CPU)(IMAGES[0])
    assert len(actual) == len(expected) > 3
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.05)
    predictions = json.loads((tmp_path / "image.png.out" / "predictions.json").read_text())
    assert len(predictions["annotations"]) == len(expected)
    assert (tmp_path / "image.png.out" / "image.jpg").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("maskness", [False, True])
def test_numpy_example_gives_the_predictors_masks(maskness: bool, exported: Export, root: Path, tmp_path: Path) -> None:
    path = with_maskness(exported("masks.onnx"), tmp_path) if maskness else exported("masks.onnx")
    Image.fromarray(IMAGES[1]).save(tmp_path / "image.png")
    command = [sys.executable, str(root / "examples" / "onnx_numpy.py"), str(path), "image.png", str(MIN_SCORE)]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    expected = Predictor(path, CPU, trust=True)(IMAGES[1])
    scores = [float(line.partition(",")[0].split()[-1]) for line in output.splitlines()]
    np.testing.assert_allclose(scores[::-1], expected.scores, atol=0.0051)
    assert len(expected) > 3
    mask = np.zeros(expected.image_size, np.uint8)
    for i in reversed(range(len(expected))):
        mask[expected.masks()[i]] = i + 1
    assert (np.asarray(Image.open(tmp_path / "masks.png")) != mask).mean() < 1e-3
    assert (mask > 0).mean() > 0.01


@pytest.mark.slow
def test_fp16_and_int8_are_smaller_and_close(exported: Export, trained: Path) -> None:
    half = check_parity(trained, exported("fp16.onnx"), IMAGES, CPU)
    assert half.objects > 20
    assert half.max_score_difference < 0.02
    assert half.unmatched <= 0.1 * half.objects
    sizes = {name: exported(name).stat().st_size for name in ("raw.onnx", "fp16.onnx", "int8.onnx")}
    assert sizes["fp16.onnx"] < 0.65 * sizes["raw.onnx"]  # 0.63 with torch 2.6, whose constants remain fp32
    assert sizes["int8.onnx"] < 0.4 * sizes["raw.onnx"]
    settings = load_model(trained).experiment.input
    (_, _, stacked) = next(iter(group_by_canvas(IMAGES[:1], settings.mode, settings.size)))
    canvases = stacked.transpose(0, 3, 1, 2)
    exact, quantized = (
        open_exported(exported(name), CPU).forward(canvases, [(64.0, 64.0)]) for name in ("raw.onnx", "int8.onnx")
    )
    for name in exact:
        first, second = exact[name].ravel().astype(np.float64), quantized[name].ravel().astype(np.float64)
        assert 0.9 < np.corrcoef(first, second)[0, 1] < 1 - 1e-9, name


@pytest.mark.slow
def test_torch_export_equals_the_network_and_stores_metadata(exported: Export, trained: Path) -> None:
    extra = {"sais.json": ""}
    program = torch.export.load(str(exported("raw.pt2")), extra_files=extra)
    assert '"graph": "raw"' in extra["sais.json"]
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    network = for_inference(load_model(trained).network)
    with torch.inference_mode():
        expected = network(images)
    class_logits, _, distances, _, prototypes = program.module()(images)
    torch.testing.assert_close(class_logits, expected.class_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(distances, expected.distances, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(prototypes, expected.prototypes, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_export_command_reports_parity(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "shapes.onnx"
    images = str(shapes / "images" / "valid")
    assert main(["export", str(trained), "--out", str(out), "--score", "0.15", "--check", images]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}" in printed
    assert "objects on 4 images, 0 unmatched" in printed
    assert (Predictor(out)(IMAGES[0]).scores >= 0.15).all()


@pytest.mark.slow
def test_predict_and_eval_commands_accept_exported_files(
    exported: Export, trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, metrics, annotations = str(shapes / "images" / "valid"), [], []
    for model in (trained, exported("raw.onnx")):
        out = tmp_path / "out"
        assert main(["predict", str(model), images, "--out", str(out), "--score", str(MIN_SCORE), "--no-draw"]) == 0
        annotations.append(json.loads((out / "predictions.json").read_text())["annotations"])
        capsys.readouterr()
        assert main(["eval", str(model), "--data", str(shapes), "--workers", "0", "--json", "-"]) == 0
        metrics.append(json.loads(capsys.readouterr().out)["metrics"])
    assert [a["category_id"] for a in annotations[0]] == [a["category_id"] for a in annotations[1]]
    assert len(annotations[0]) > 10
    assert metrics[1]["mask"]["AP"] == pytest.approx(metrics[0]["mask"]["AP"], abs=1e-3)


@pytest.mark.slow
def test_openvino_opens_onnx_files(exported: Export) -> None:
    pytest.importorskip("openvino")
    path = exported("masks.onnx")
    expected, actual = (Predictor(path, CPU, runtime=runtime)(IMAGES[0]) for runtime in ("onnxruntime", "openvino"))
    assert len(actual) == len(expected) > 3
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.05)


def export_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the error of `sais export`."""
    assert main(["export", *argv]) == 2
    return capsys.readouterr().err


def test_export_command_refuses_options_that_do_not_fit(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(trained), str(tmp_path / "a.onnx")
    assert "no such model" in export_error(capsys, str(tmp_path / "nothing.safetensors"))
    assert "ends with .xml" in export_error(capsys, model, "--format", "openvino", "--out", out)
    pt2 = ("--format", "torch-export", "--precision", "int8", "--calibrate", str(tmp_path))
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    assert "not available in format torch-export" in export_error(capsys, model, *pt2)
    assert "--calibrate" in export_error(capsys, model, "--precision", "int8", "--out", out)
    assert "drops nothing" in export_error(capsys, model, "--graph", "raw", "--score", "0.3")
    assert "multiples of 32" in export_error(capsys, model, "--size", "100", "--out", out)
    assert not Path(out).exists()
    base = load_checkpoint(trained / "model.safetensors")
    config = replace(base.experiment.model, masks=False)
    experiment = replace(base.experiment, model=config)
    boxes_only = tmp_path / "boxes.safetensors"
    tensors = add_prefix("model", build_model(config, len(base.class_names)).state_dict())
    save_checkpoint(boxes_only, Checkpoint(experiment, base.class_names, base.category_ids, tensors))
    assert "boxes only" in export_error(capsys, str(boxes_only), "--graph", "masks")


def test_predictor_refuses_files_that_are_no_exports(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with pytest.raises(CheckpointError, match="no such file"):
        Predictor(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no checksum of sais"):
        Predictor(path)
    with pytest.raises(CheckpointError, match="cannot open it"):
        Predictor(path, trust=True)
    with pytest.raises(ConfigError, match="precision bf16"):
        Predictor(path, precision="bf16", trust=True)
    with pytest.raises(ConfigError, match="compile"):
        Predictor(path, compile=True)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    foreign = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(foreign, str(path))
    with pytest.raises(CheckpointError, match="not a graph exported by sais"):
        Predictor(path, trust=True)
