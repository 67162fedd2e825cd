"""A run starts from the weights of another model: checkpoints of sais and detectors of torchvision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import detection

from sais.checkpoint import Checkpoint, load_checkpoint
from sais.config import Experiment
from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.distributed import SINGLE_PROCESS
from sais.engine.fine_tuning import (
    InitialWeights,
    adopt_settings,
    check_source,
    initialize_from,
    read_initial_weights,
)
from sais.engine.trainer import train
from sais.errors import CheckpointError, ConfigError
from sais.modeling.architecture import find_architecture
from sais.modeling.sais import build_model
from sais.recipes import recipe

SAIS = find_architecture("sais")


def stored(experiment: Experiment, **model: object) -> Checkpoint:
    """Return a checkpoint of an experiment with other model settings, without tensors."""
    return Checkpoint(replace(experiment, model=replace(experiment.model, **model)), ("a",), (1,), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/model.safetensors", r"URLs are not supported\. Download the file"),
        ("https:/example.org/model.safetensors", r"URLs are not supported"),  # as pathlib spells it
        ("model.onnx", r"an exported model, which cannot be trained\. Give the run"),
        ("openvino/model.xml", r"an exported model"),
        ("fcos_resnet50_fpn", r"a detector of torchvision\. Write torchvision:fcos_resnet50_fpn"),
        ("fcos.pth", r"not a checkpoint of sais.*torchvision:fcos_resnet50_fpn=fcos\.pth"),
        ("nowhere/run", r"nowhere/run: no such model file\. Give a run folder"),
    ],
)
def test_check_source_names_the_replacement(source: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_source(source)


def test_check_source_suggests_a_similar_run(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with pytest.raises(CheckpointError, match=r"frist: no such model file\. Did you mean .*/first\?"):
        check_source(tmp_path / "frist")
    assert check_source(str(tmp_path / "first")) == tmp_path / "first"


def test_read_initial_weights_rejects_a_misspelled_detector() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'fcos_resnet50_fpn'"):
        read_initial_weights("torchvision:fcos_resnet50_fpm", recipe("sais-r50-640"), SINGLE_PROCESS)


def test_adopt_settings_keeps_the_meaning_of_the_weights(tiny: Experiment) -> None:
    checkpoint = stored(tiny, distance_unit="stride", quality_from="regression", pretrained=False)
    adopted, notes = adopt_settings(tiny, checkpoint, Path("run"))
    assert adopted.model == replace(tiny.model, distance_unit="stride", quality_from="regression")
    assert notes[0] == "model.distance_unit stride, as in run, instead of pixel"
    assert len(notes) == 2
    assert adopt_settings(tiny, stored(tiny), Path("run")) == (tiny, [])


def test_adopt_settings_names_the_settings_of_another_network(tiny: Experiment) -> None:
    checkpoint = stored(tiny, channels=32, backbone="resnet18.a1_in1k")
    with pytest.raises(CheckpointError, match=r"do not fit .*model\.backbone resnet18.* model\.channels 32, not 64"):
        adopt_settings(tiny, checkpoint, Path("run"))
    prototypes = stored(tiny, masks=False, prototypes=8)
    adopted, (note,) = adopt_settings(tiny, prototypes, Path("run"))
    assert adopted.model.prototypes == tiny.model.prototypes
    assert note == "run has no masks: the mask branch starts from random weights"


@pytest.mark.parametrize("masks", [False, True], ids=["from boxes to masks", "from masks to boxes"])
def test_initialize_from_accepts_a_missing_mask_branch(masks: bool, tiny: Experiment) -> None:
    torch.manual_seed(0)
    source = build_model(replace(tiny.model, masks=masks), 2)
    model = build_model(replace(tiny.model, masks=not masks), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    notes = initialize_from(model, InitialWeights("run", source.state_dict(), ("a", "b")), ("a", "b"), SAIS)
    assert notes == ["weights from run"]
    for name, value in model.state_dict().items():
        expected = source.state_dict().get(name, before[name])
        assert torch.equal(value, expected), name


def test_initialize_from_a_detector_leaves_all_else_new(tiny: Experiment) -> None:
    model = build_model(tiny.model, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shape = before["head.class_logits.weight"].shape[1:]
    tensors = {
        "backbone.network.conv_stem.weight": torch.full_like(before["backbone.network.conv_stem.weight"], 0.5),
        "head.class_logits.weight": torch.arange(4.0)[:, None, None, None].expand(4, *shape),
        "head.class_logits.bias": torch.arange(4.0),
    }
    weights = InitialWeights("torchvision:x", tensors, ("cat", "dog", "bus", "person"), ("backbone", "head"))
    (note,) = initialize_from(model, weights, ("person", "robot", "dog"), SAIS)
    assert "weights from torchvision:x (backbone, head; all else is new), trained for 4 classes" in note
    assert "classes that keep their weights: person, dog; new classes: robot" in note
    after = model.state_dict()
    assert after["head.class_logits.bias"].tolist() == pytest.approx([3, -float(np.log(99)), 1], abs=1e-5)
    assert (after["backbone.network.conv_stem.weight"] == 0.5).all()
    same = [name for name in after if name not in tensors]
    assert all(torch.equal(after[name], before[name]) for name in same)


def test_initialize_from_rejects_a_checkpoint_that_lacks_tensors(tiny: Experiment) -> None:
    model = build_model(tiny.model, 2)
    tensors = model.state_dict()
    del tensors["head.class_logits.bias"]
    with pytest.raises(CheckpointError, match="do not fit"):
        initialize_from(model, InitialWeights("run", tensors, ("a", "b")), ("a", "b"), SAIS)


@pytest.mark.slow
def test_train_starts_from_torchvision_and_records_the_head_variant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe with the paper's head becomes torchvision's; the class person keeps its row, and masks are trained."""
    torch.manual_seed(0)
    detector = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(detector.state_dict(), tmp_path / "fcos.pth")
    image = np.full((64, 64, 3), 70, np.uint8)
    objects = (make_annotation(1, 0, segmentation=[[8, 8, 40, 8, 40, 40, 8, 40]]),)
    split = DatasetSplit("train", ("person", "robot"), images=(ImageRecord(1, image, (64, 64), objects),))
    base = recipe("sais-r50-640")
    experiment = replace(
        base,
        input=replace(base.input, size=(64, 64)),
        optim=replace(base.optim, lr=1e-12, batch_size=1),
        run=replace(base.run, workers=0, device="cpu", loggers=()),
    )
    source = f"torchvision:fcos_resnet50_fpn={tmp_path / 'fcos.pth'}"
    train(experiment, out=tmp_path / "run", dataset=split, weights=source, max_iterations=1)
    assert "model.distance_activation relu instead of exp" in capsys.readouterr().out
    settings = json.loads((tmp_path / "run/experiment.json").read_text())["model"]
    assert (settings["distance_activation"], settings["tower_bias"]) == ("relu", True)
    tensors = load_checkpoint(tmp_path / "run/last.safetensors").part("model")
    expected = detector.state_dict()["head.classification_head.cls_logits.weight"]
    torch.testing.assert_close(tensors["head.class_logits.weight"][0], expected[1], rtol=0, atol=1e-6)
    tower = detector.state_dict()["head.regression_head.conv.9.bias"]
    torch.testing.assert_close(tensors["head.regression_tower.9.bias"], tower, rtol=0, atol=1e-6)
    again = replace(experiment, name="again")  # the run's own weights fit any R50 recipe: it adopts the head
    adopted, notes = read_initial_weights(tmp_path / "run", again, SINGLE_PROCESS)[1:]
    assert adopted.model.distance_activation == "relu"
    assert len(notes) == 5
