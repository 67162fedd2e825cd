"""`sais.checkpoint`: the round trip to the bit, an error for every file that is no checkpoint, atomic writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sais.checkpoint as checkpoints
from sais.checkpoint import (
    Checkpoint,
    add_prefix,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from sais.config import Experiment
from sais.engine.optim import build_optimizer, optimizer_tensors, restore_optimizer
from sais.errors import CheckpointError, ResourceError, SaisError
from sais.inference.predictor import Predictor
from sais.modeling.sais import build_model


def example() -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "model.weight": torch.randn(8, 4, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last),
        "model.half": torch.randn(7, generator=generator).to(torch.bfloat16),
        "model.count": torch.tensor(2**40 + 1),
        "raw.weight": torch.tensor([float("inf"), -0.0, 1e-45]),
        "model.empty": torch.zeros(0, 3),
    }
    experiment = replace(
        Experiment(), name="example", postprocess=replace(Experiment().postprocess, score_threshold=0.123)
    )
    state = {"iteration": 12, "best": 0.1 + 0.2, "metrics": None}
    return Checkpoint(experiment, ("cat", "dög", "a/b"), (3, 7, 90), tensors, state)


def assert_one_line(error: pytest.ExceptionInfo[SaisError], path: Path, fragment: str = "") -> None:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert fragment in message


def test_save_and_load_checkpoint_keep_every_bit(tmp_path: Path) -> None:
    path, written = tmp_path / "a.safetensors", example()
    save_checkpoint(path, written)
    read = load_checkpoint(path)
    assert (read.experiment, read.class_names, read.category_ids) == (
        written.experiment,
        written.class_names,
        written.category_ids,
    )
    assert read.state == written.state
    assert read.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        copy = read.tensors[name]
        assert copy.dtype == tensor.dtype
        assert copy.shape == tensor.shape
        assert bytes(copy.reshape(-1).view(torch.uint8)) == bytes(tensor.contiguous().view(-1).view(torch.uint8))
    assert set(read.part("model")) == {"weight", "half", "count", "empty"}
    assert add_prefix("raw", read.part("raw")).keys() == {"raw.weight"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_load_checkpoint_refuses_truncated_files(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, example())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert_one_line(error, path, "truncated")


@pytest.mark.parametrize("change", [lambda metadata: metadata.pop("checksum"), lambda m: m.update(state='{"best": 2}')])
def test_load_checkpoint_refuses_a_missing_or_wrong_checksum(tmp_path: Path, change: Any) -> None:
    from safetensors import safe_open

    path = tmp_path / "a.safetensors"
    save_checkpoint(path, example())
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert_one_line(error, path, "checksum")


def test_load_checkpoint_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert_one_line(error, path, "not a checkpoint of sais")
    path.write_text("just a text, and long enough to have a header's worth of bytes\n" * 5)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert_one_line(error, path, "not a safetensors file")
    path = tmp_path / "none.safetensors"
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert_one_line(error, path, "no such model file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError) as error:
        Predictor(tmp_path / "empty")
    assert_one_line(error, tmp_path / "empty", "no checkpoint")


def write_half_and_fail(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write half of a file (tensors of any shape), then fail as on a full disk."""
    save_file(tensors, path, metadata)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    raise OSError(28, "No space left on device")


def test_save_checkpoint_on_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, example())
    before = path.read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", write_half_and_fail)
    with pytest.raises(ResourceError) as error:
        save_checkpoint(path, replace(example(), class_names=("other",)))
    assert_one_line(error, path, "No space left")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_save_checkpoint_refuses_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "a.safetensors"
    with pytest.raises(ResourceError) as error:
        save_checkpoint(path, example())
    assert_one_line(error, path)


def test_load_weights_refuses_another_network(tiny: Experiment, tmp_path: Path) -> None:
    model = build_model(tiny.model, 3)
    deeper = build_model(replace(tiny.model, tower_depth=2), 3)
    with pytest.raises(CheckpointError) as error:
        load_weights(model, deeper.state_dict(), tmp_path / "a")
    assert_one_line(error, tmp_path / "a", "do not fit")
    more_classes = build_model(tiny.model, 4)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_weights(model, more_classes.state_dict(), tmp_path / "a")


def small_network() -> torch.nn.Module:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4))
    return network.to(memory_format=torch.channels_last)


def take_step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    """Take an optimizer step on images (B, 3, H, W)."""
    optimizer.zero_grad()
    network(images).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True)])
def test_restore_optimizer_continues_on_another_device(tiny: Experiment, name: Any, before: bool, after: bool) -> None:
    """On CUDA the optimizer is fused, and AdamW counts its steps there; a CPU has fused optimizers too, for tests."""

    def optimizer_of(model: torch.nn.Module, fused: bool) -> torch.optim.Optimizer:
        optimizer = build_optimizer(model, replace(tiny.optim, name=name))
        for group in optimizer.param_groups:
            group["fused"] = fused
        return optimizer

    model, copy = small_network(), small_network()
    optimizer, resumed = optimizer_of(model, before), optimizer_of(copy, after)
    first, second = torch.randn(2, 1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    take_step(model, optimizer, first)
    copy.load_state_dict(model.state_dict())
    restore_optimizer(resumed, copy, optimizer_tensors(optimizer, model))
    take_step(model, optimizer, second)
    take_step(copy, resumed, second)
    for original, restored in zip(model.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(original, restored, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("setting", "place"), [("fused", "meta"), ("capturable", "meta"), ("foreach", "cpu")])
def test_restore_optimizer_puts_steps_where_the_optimizer_counts(tiny: Experiment, setting: str, place: str) -> None:
    model = small_network()
    optimizer = build_optimizer(model, replace(tiny.optim, name="adamw"))
    take_step(model, optimizer, torch.ones(1, 3, 6, 6))
    tensors = optimizer_tensors(optimizer, model)
    other = small_network().to("meta")
    resumed = build_optimizer(other, replace(tiny.optim, name="adamw"))
    for group in resumed.param_groups:
        group[setting] = True
    restore_optimizer(resumed, other, tensors)
    for state in resumed.state.values():
        assert state["step"].device.type == place
        assert state["exp_avg"].device.type == "meta"


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_restore_optimizer_continues_to_the_bit(tiny: Experiment, tmp_path: Path, name: Any) -> None:
    settings = replace(tiny.optim, name=name)
    model = small_network()
    optimizer = build_optimizer(model, settings)
    first, second = torch.randn(2, 1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    take_step(model, optimizer, first)
    state = add_prefix("model", model.state_dict()) | add_prefix("optimizer", optimizer_tensors(optimizer, model))
    save_checkpoint(tmp_path / "a.safetensors", replace(example(), tensors=state))
    read = load_checkpoint(tmp_path / "a.safetensors")
    copy = small_network()
    load_weights(copy, read.part("model"), tmp_path)
    resumed = build_optimizer(copy, settings)
    restore_optimizer(resumed, copy, read.part("optimizer"))
    take_step(model, optimizer, second)
    take_step(copy, resumed, second)
    for original, restored in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(original, restored)
    actual, expected = optimizer_tensors(resumed, copy), optimizer_tensors(optimizer, model)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
