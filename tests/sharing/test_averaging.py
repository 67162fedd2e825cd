"""Averages of models: the mean of weights, what is refused, selection on a split, unrelated models."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sais
from sais import cli
from sais.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sais.data.annotations import DatasetSplit
from sais.data.formats import read_dataset
from sais.errors import CheckpointError, InputError
from sais.sharing import averaging
from sais.sharing.averaging import RELATED, average_models, mean_weights, relatedness


@pytest.fixture
def checkpoint(trained: Path) -> Checkpoint:
    """Return the checkpoint of the tiny run, which a test may change."""
    return load_checkpoint(trained / "model.safetensors")


def changed(checkpoint: Checkpoint, path: Path, noise: float, seed: int = 0) -> Path:
    """Write a copy of a model whose weights are multiplied by random factors around 1; 0 leaves them as they are."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor * (1 + noise * torch.randn(tensor.shape, generator=generator))
        if tensor.is_floating_point() and tensor.ndim > 1
        else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    save_checkpoint(path, replace(checkpoint, tensors=tensors))
    return path


def test_mean_is_that_of_each_weight_in_its_own_type() -> None:
    first = {"a": torch.tensor([1.0, 2.0]), "half": torch.tensor([1.0], dtype=torch.float16), "n": torch.tensor(3)}
    second = {"a": torch.tensor([3.0, 6.0]), "half": torch.tensor([2.0], dtype=torch.float16), "n": torch.tensor(5)}
    mean = mean_weights([first, second])
    torch.testing.assert_close(mean["a"], torch.tensor([2.0, 4.0]))
    assert (mean["half"].dtype, mean["half"].item()) == (torch.float16, 1.5)
    assert (mean["n"].dtype, mean["n"].item()) == (torch.int64, 5)
    torch.testing.assert_close(mean_weights([first, first, first]), first)


def test_running_statistics_of_batch_normalization_are_averaged() -> None:
    layers = [torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)]
    for factor, layer in enumerate(layers, 1):
        layer(factor * torch.arange(16.0).reshape(2, 2, 2, 2))
    mean = mean_weights([layer.state_dict() for layer in layers])
    for name in ("running_mean", "running_var"):
        expected = (getattr(layers[0], name) + getattr(layers[1], name)) / 2
        torch.testing.assert_close(mean[name], expected)
    assert mean["num_batches_tracked"].item() == 1


def test_average_is_a_model_that_states_its_origin(checkpoint: Checkpoint, tmp_path: Path) -> None:
    models = [changed(checkpoint, tmp_path / f"{seed}.safetensors", 0.05, seed) for seed in (1, 2)]
    result = average_models(models, tmp_path / "mean.safetensors")
    assert result.used == tuple(models)
    assert result.relatedness > 0.9
    stored = load_checkpoint(tmp_path / "mean.safetensors")
    expected = mean_weights([load_checkpoint(path).part("model") for path in models])
    torch.testing.assert_close(stored.part("model"), expected, rtol=0, atol=0)
    assert stored.state["averaged"] == ["1.safetensors", "2.safetensors"]
    assert stored.state["data"] == checkpoint.state["data"]
    assert stored.state.get("metrics") is None
    assert stored.state.get("thresholds") is None
    assert sais.Predictor(tmp_path / "mean.safetensors", device="cpu").class_names == checkpoint.class_names


def test_other_classes_settings_and_weights_are_refused(checkpoint: Checkpoint, trained: Path, tmp_path: Path) -> None:
    names = tuple(reversed(checkpoint.class_names))
    model = replace(checkpoint.experiment.model, quality="iou")
    size = replace(checkpoint.experiment.input, size=(128, 128))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if "coefficients" not in name}
    cases = {
        r"different classes \(another order\)": replace(checkpoint, class_names=names),
        r"different settings \(model\.quality iou, not centerness\)": replace(
            checkpoint, experiment=replace(checkpoint.experiment, model=model)
        ),
        r"different settings \(input\.size": replace(checkpoint, experiment=replace(checkpoint.experiment, input=size)),
        "different names or shapes": replace(checkpoint, tensors=tensors),
    }
    for number, (message, other) in enumerate(cases.items()):
        path = tmp_path / f"{number}.safetensors"
        save_checkpoint(path, other)
        with pytest.raises(CheckpointError, match=message):
            average_models([trained, path], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_frozen_layers_and_imagenet_weights_may_differ(checkpoint: Checkpoint, trained: Path, tmp_path: Path) -> None:
    model = replace(checkpoint.experiment.model, pretrained=False, frozen_stages=2)
    save_checkpoint(
        tmp_path / "a.safetensors", replace(checkpoint, experiment=replace(checkpoint.experiment, model=model))
    )
    assert len(average_models([trained, tmp_path / "a.safetensors"], tmp_path / "mean.safetensors").used) == 2


def test_one_model_or_the_same_twice_is_refused(trained: Path, tmp_path: Path) -> None:
    for models in ([], [trained], [trained, trained / "model.safetensors"]):
        with pytest.raises(InputError, match="not two or more different ones"):
            average_models(models, tmp_path / "mean.safetensors")
    with pytest.raises(InputError, match=r"ends with \.safetensors"):
        average_models([trained, trained / "last.safetensors"], tmp_path / "mean.pt")


def test_a_model_that_is_averaged_is_not_replaced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    models = [changed(checkpoint, tmp_path / f"{seed}.safetensors", 0.05, seed) for seed in (1, 2)]
    (tmp_path / "link.safetensors").symlink_to(models[0])
    content = models[0].read_bytes()
    for out in (models[0], tmp_path / "link.safetensors"):
        with pytest.raises(InputError, match="would replace a file that is read"):
            average_models(models, out)
    assert models[0].read_bytes() == content


def test_weights_that_are_not_finite_are_refused(checkpoint: Checkpoint, trained: Path, tmp_path: Path) -> None:
    name, tensor = next((name, tensor) for name, tensor in checkpoint.tensors.items() if tensor.ndim > 1)
    broken = replace(checkpoint, tensors=checkpoint.tensors | {name: torch.full_like(tensor, torch.nan)})
    save_checkpoint(tmp_path / "broken.safetensors", broken)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors: .* not finite"):
        average_models([trained, tmp_path / "broken.safetensors"], tmp_path / "mean.safetensors")


def test_relatedness_tells_noise_from_another_start() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"head.a": (32, 16, 3, 3), "head.b": (8, 32), "backbone.c": (64, 64), "head.bias": (2, 2)}

    def weights() -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    first, other = weights(), weights()
    similar = {name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in first.items()}
    shared_backbone = other | {"backbone.c": first["backbone.c"]}
    assert relatedness([first, first]) == 1
    assert relatedness([first, similar]) > 0.9
    assert abs(relatedness([first, shared_backbone])) < 0.2 < RELATED
    assert abs(relatedness([first, similar, shared_backbone])) < 0.2


def test_selection_keeps_only_models_that_do_not_lower_ap(
    checkpoint: Checkpoint, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AP is replaced by the closeness to the run: two opposite errors cancel out, a second one of a kind does not."""
    target = checkpoint.part("model")

    def closeness(candidate: Checkpoint, split: DatasetSplit, trust: bool) -> tuple[float, dict[str, Any]]:
        weights = candidate.part("model")
        distance = sum(float((weights[name].double() - target[name]).abs().sum()) for name in target)
        return 1 / (1 + distance), {"metrics": {"distance": distance}}

    monkeypatch.setattr(averaging, "_evaluate", closeness)
    factors = {"far": 3.0, "above": 1.09, "below": 0.9, "twin": 0.9}
    for name, factor in factors.items():
        tensors = {key: tensor * factor if tensor.ndim > 1 else tensor for key, tensor in checkpoint.tensors.items()}
        save_checkpoint(tmp_path / f"{name}.safetensors", replace(checkpoint, tensors=tensors))
    lines: list[str] = []
    models = [tmp_path / f"{name}.safetensors" for name in factors]
    result = average_models(models, tmp_path / "mean.safetensors", read_dataset(shapes, "valid"), lines.append)
    assert result.used == (tmp_path / "above.safetensors", tmp_path / "below.safetensors")
    assert result.scores["average"] > max(result.scores[str(path)] for path in models)
    assert [line.rpartition(", ")[2] for line in lines[4:]] == ["kept", "left out", "left out"]
    stored = load_checkpoint(tmp_path / "mean.safetensors")
    assert stored.state["metrics"]["distance"] == pytest.approx(1 / result.scores["average"] - 1)
    expected = mean_weights([load_checkpoint(path).part("model") for path in result.used])
    torch.testing.assert_close(stored.part("model"), expected, rtol=0, atol=0)


def test_command_warns_of_unrelated_models_and_of_selection(
    checkpoint: Checkpoint, trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.ndim > 1 else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    other, out = tmp_path / "other.safetensors", tmp_path / "mean.safetensors"
    save_checkpoint(other, replace(checkpoint, tensors=tensors))
    assert cli.main(["average", str(trained), str(other), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "note: the models are hardly related" in output
    assert "averaged 2 of 2 models" in output
    assert cli.main(["average", str(trained), str(other), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    near, out = changed(checkpoint, tmp_path / "near.safetensors", 0.0), tmp_path / "chosen.safetensors"
    words = ["average", str(trained), str(near), "--out", str(out), "--data", str(shapes)]
    assert cli.main(words) == 2
    assert "--data and --split" in capsys.readouterr().err
    assert cli.main([*words, "--split", "valid"]) == 0
    output = capsys.readouterr().out
    assert "hardly related" not in output
    assert "the split valid was used for selection: measure the final AP on another one" in output
    assert cli.main(["info", str(out)]) == 0
    assert re.search(r"^averaged +tiny/model\.safetensors, ", capsys.readouterr().out, re.MULTILINE)
