"""Training with torch.compile and with deterministic algorithms: the same numbers, and nothing left behind."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import sais.engine.compiled as compiled
from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.converters.for_training import for_training
from sais.data.paths import DataPaths
from sais.engine.callbacks import TrainingEvent
from sais.engine.hardware import training_settings
from sais.engine.trainer import train
from sais.errors import MissingDependencyError
from sais.modeling.losses import focal_loss
from sais.modeling.sais import build_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as `torch.compile` does, but run torch's operations: quick, with equal results."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    torch._dynamo.reset()


def with_run(experiment: Experiment, **settings: object) -> Experiment:
    return replace(experiment, run=replace(experiment.run, **settings))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_network_is_one_graph_in_training(tiny: Experiment) -> None:
    """Frozen batch-norm is folded, norms are recomputed, and nothing interrupts the graph."""
    experiment = with_run(tiny, activation_checkpointing="norms", cpu_convolutions="direct")
    network = for_training(build_model(experiment.model, 3), experiment, CPU).train()
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled_network = torch.compile(network, backend=count, fullgraph=True)
    for seed in (0, 1):
        images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
        assert torch.equal(compiled_network(images).class_logits, network(images).class_logits)
    assert len(graphs) == 1


def test_the_classification_loss_is_one_graph() -> None:
    logits = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(-1, 3, (2, 50), generator=torch.Generator().manual_seed(1))
    compiled_loss = torch.compile(focal_loss, backend="eager", fullgraph=True)
    (expected,) = torch.autograd.grad(focal_loss(logits, labels), logits)
    (gradient,) = torch.autograd.grad(compiled_loss(logits, labels), logits)
    assert torch.equal(gradient, expected)


@pytest.mark.slow
def test_compile_trains_the_same_weights_and_resumes(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    """With the moving average and an evaluation, whose copies of the network are not compiled."""
    plain = replace(with_run(tiny, ema=0.9), schedule=replace(tiny.schedule, epochs=1))
    own = with_run(plain, compile=True)
    train(plain, DataPaths(shapes), tmp_path / "plain")
    train(own, DataPaths(shapes), tmp_path / "compiled", max_iterations=2)
    train(own, DataPaths(shapes), tmp_path / "compiled", resume=True)
    expected, actual = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("plain", "compiled"))
    assert actual.experiment.run.compile
    assert expected.tensors.keys() == actual.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(actual.tensors[name], tensor), name


def test_compile_training_changes_neither_names_nor_copies(tiny: Experiment) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    names = list(model.state_dict())
    experiment = with_run(tiny, compile=True)
    criterion = compiled.compile_training(model, compiled.SaisCriterion(), experiment, CPU)
    assert criterion.classification_loss is not focal_loss  # type: ignore[attr-defined]
    assert model._compiled_call_impl is not None
    assert copy.deepcopy(model)._compiled_call_impl is None
    assert list(model.state_dict()) == names


def test_compile_needs_a_compiler(tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependencyError, match=r"C\+\+ compiler"):
        compiled.compile_training(nn.Linear(1, 1), compiled.SaisCriterion(), tiny, CPU)


def test_training_settings_time_algorithms_only_for_fixed_canvases(tiny: Experiment) -> None:
    cuda = torch.device("cuda")
    for experiment, fixed in (
        (tiny, True),
        (replace(tiny, input=replace(tiny.input, mode="keep_ratio")), False),
        (replace(tiny, augment=replace(tiny.augment, multi_scale=(0.5, 1.0))), False),
    ):
        with training_settings(experiment, cuda):
            assert torch.backends.cudnn.benchmark == fixed
            assert torch.backends.cudnn.allow_tf32
    with training_settings(with_run(tiny, tf32=False), cuda):
        assert not torch.backends.cudnn.allow_tf32


def test_deterministic_runs_train_the_same_weights_and_leave_no_setting(
    shapes: Path, tiny: Experiment, tmp_path: Path
) -> None:
    seen: list[bool] = []

    def observe(event: TrainingEvent) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())

    def fail(event: TrainingEvent) -> None:
        raise ZeroDivisionError

    own = with_run(tiny, deterministic=True)
    train(tiny, DataPaths(shapes), tmp_path / "plain", max_iterations=2)
    train(own, DataPaths(shapes), tmp_path / "deterministic", max_iterations=2, callbacks=[observe])
    assert set(seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ZeroDivisionError):
        train(own, DataPaths(shapes), tmp_path / "failed", max_iterations=1, callbacks=[fail])
    assert not torch.are_deterministic_algorithms_enabled()
    expected, actual = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("plain", "deterministic"))
    for name, tensor in expected.tensors.items():
        assert torch.equal(actual.tensors[name], tensor), name
