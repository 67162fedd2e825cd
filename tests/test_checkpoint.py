"""Checkpoints: the round trip bit by bit, one line for everything that is none, a failing write that harms nothing."""

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
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from sais.config import Experiment
from sais.engine.optim import build_optimizer
from sais.errors import SaisError
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
        Experiment(), name="mine", postprocess=replace(Experiment().postprocess, score_threshold=0.123)
    )
    state = {"iteration": 12, "best": 0.1 + 0.2, "metrics": None}
    return Checkpoint(experiment, ("cat", "dög", "a/b"), (3, 7, 90), tensors, state)


def one_line(error: pytest.ExceptionInfo[SaisError], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_everything_comes_back(tmp_path: Path) -> None:
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
        other = read.tensors[name]
        assert other.dtype == tensor.dtype
        assert other.shape == tensor.shape
        assert bytes(other.reshape(-1).view(torch.uint8)) == bytes(tensor.contiguous().view(-1).view(torch.uint8))
    assert set(read.part("model")) == {"weight", "half", "count", "empty"}
    assert add_prefix("raw", read.part("raw")).keys() == {"raw.weight"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, example())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SaisError) as error:
        load_checkpoint(path)
    assert "cut short" in one_line(error, path)


def test_other_kinds_of_file(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(SaisError) as error:
        load_checkpoint(path)
    assert "not a checkpoint of sais" in one_line(error, path)
    path.write_text("just a text, and long enough to have a header's worth of bytes\n" * 5)
    with pytest.raises(SaisError) as error:
        load_checkpoint(path)
    assert "not a safetensors file" in one_line(error, path)
    with pytest.raises(SaisError) as error:
        load_checkpoint(tmp_path / "none.safetensors")
    assert "no such model file" in one_line(error, tmp_path / "none.safetensors")
    with pytest.raises(SaisError) as error:
        Predictor(tmp_path)
    assert "give a trained run" in one_line(error, tmp_path)


def half_then_full_disk(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file(tensors, path, metadata)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    raise OSError(28, "No space left on device")


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, example())
    before = path.read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", half_then_full_disk)
    with pytest.raises(SaisError) as error:
        save_checkpoint(path, replace(example(), class_names=("other",)))
    assert "No space left" in one_line(error, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_save_checkpoint_refuses_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "a.safetensors"
    with pytest.raises(SaisError) as error:
        save_checkpoint(path, example())
    one_line(error, path)


def test_weights_of_another_network(tiny: Experiment, tmp_path: Path) -> None:
    model = build_model(tiny.model, 3)
    other = build_model(replace(tiny.model, tower_depth=2), 3)
    with pytest.raises(SaisError) as error:
        load_weights(model, other.state_dict(), tmp_path / "a")
    assert "do not fit" in one_line(error, tmp_path / "a")
    more_classes = build_model(tiny.model, 4)
    with pytest.raises(SaisError, match="do not fit"):
        load_weights(model, more_classes.state_dict(), tmp_path / "a")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimizers_state_comes_back(tiny: Experiment, tmp_path: Path, name: Any) -> None:
    """A step after the round trip equals a step without it, to the bit."""
    settings = replace(tiny.optim, name=name)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4)).to(
        memory_format=torch.channels_last
    )
    optimizer = build_optimizer(model, settings)
    generator = torch.Generator().manual_seed(1)

    def step(network: torch.nn.Module, through: torch.optim.Optimizer, data: torch.Tensor) -> None:
        through.zero_grad()
        network(data).square().mean().backward()
        through.step()

    first, second = torch.randn(2, 1, 3, 6, 6, generator=generator)
    step(model, optimizer, first)
    state = add_prefix("model", model.state_dict()) | add_prefix("optimizer", optimizer_tensors(optimizer, model))
    save_checkpoint(tmp_path / "a.safetensors", replace(example(), tensors=state))
    read = load_checkpoint(tmp_path / "a.safetensors")
    copy = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4)).to(memory_format=torch.channels_last)
    load_weights(copy, read.part("model"), tmp_path)
    resumed = build_optimizer(copy, settings)
    restore_optimizer(resumed, copy, read.part("optimizer"))
    step(model, optimizer, second)
    step(copy, resumed, second)
    for a, b in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)
    after, wanted = optimizer_tensors(resumed, copy), optimizer_tensors(optimizer, model)
    assert after.keys() == wanted.keys()
    assert all(torch.equal(after[key], wanted[key]) for key in wanted)
