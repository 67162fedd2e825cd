"""Activation checkpointing: equal gradients, statistics that are updated once, fewer saved bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sais.benchmark.workload import make_workload, training_batch
from sais.config import Experiment, InputConfig, ModelConfig, RunConfig
from sais.converters.activation_checkpointing import (
    CHECKPOINTING_MODES,
    apply_activation_checkpointing,
    checkpointed,
)
from sais.converters.cpu.for_training import set_convolutions
from sais.converters.for_training import for_training
from sais.converters.fuse import for_inference
from sais.engine.activation_memory import SavedActivations, saved_bytes_per_image
from sais.engine.train_step import compute_losses
from sais.errors import ConfigError
from sais.modeling.criterion import build_criterion
from sais.modeling.sais import SAIS, build_model

SCENE = make_workload(30, (120, 160), 5)
RESNET = ModelConfig(backbone="resnet50.tv_in1k", channels=32, prototype_channels=32, prototypes=8)
LITE = ModelConfig(backbone="tf_efficientnet_lite0.in1k", channels=32, tower_depth=2, prototype_channels=32)
MODELS = {
    "the paper's": RESNET,
    "lite": LITE,
    "trained norms": replace(LITE, frozen_stages=0, frozen_batch_norm=False),
    "depthwise, batch-norm": replace(LITE, tower_kind="depthwise", norm="batch", coefficients_from="classification"),
    "boxes alone": replace(LITE, masks=False),
    "no towers": replace(LITE, tower_depth=0, prototype_depth=0),
    "norms in the ProtoNet": replace(LITE, prototype_norm="group", relative_coordinates=True),
    "a ProtoNet of one norm": replace(LITE, prototype_depth=0, prototype_norm="group"),
    "torchvision's head": replace(
        LITE,
        distance_unit="stride",
        distance_activation="relu",
        distance_origin="corner",
        quality_from="regression",
        tower_bias=True,
    ),
}


CPU = torch.device("cpu")


def experiment_of(
    model: ModelConfig, mode: str, side: int = 64, precision: str = "fp32", convolutions: str = "direct"
) -> Experiment:
    """A small experiment."""
    run = RunConfig(activation_checkpointing=mode, precision=precision, cpu_convolutions=convolutions, device="cpu")  # type: ignore[arg-type]
    return Experiment(input=InputConfig(size=(side, side)), model=model, run=run)


def build(model: ModelConfig) -> SAIS:
    """The same weights each time, frozen as `model` says. timm's last gammas of zero, which would block the gradients
    of all layers before them, are replaced."""
    torch.manual_seed(0)
    network = build_model(model, SCENE.num_classes)
    for name, tensor in network.state_dict().items():
        if name.endswith("bn3.weight"):
            tensor.fill_(0.5)
    return network


def built(model: ModelConfig, mode: str, precision: str = "fp32") -> SAIS:
    """The network, rewritten for training."""
    network = for_training(build(model), experiment_of(model, mode, precision=precision), CPU)
    assert isinstance(network, SAIS)
    return network.train()


def losses_of(network: nn.Module, experiment: Experiment, images: int, objects: int) -> dict[str, Tensor]:
    """The terms of one step on copies of an image."""
    batch = training_batch(SCENE, experiment.input.size, images, objects)
    return compute_losses(network, build_criterion(experiment), batch, experiment.run.precision)


def gradients(network: nn.Module, experiment: Experiment, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The gradients of one step on two images."""
    batch = training_batch(SCENE, experiment.input.size, 2, 8)
    batch.images = batch.images.to(dtype)
    terms = compute_losses(network, build_criterion(experiment), batch, experiment.run.precision)
    torch.stack(list(terms.values())).sum().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "the paper's" else ()) for n in MODELS]
)
def test_gradients_and_statistics_equal_those_of_saving_everything(name: str) -> None:
    results = {}
    for kind in CHECKPOINTING_MODES:
        network = built(MODELS[name], kind)
        results[kind] = gradients(network, experiment_of(MODELS[name], kind)), dict(network.named_buffers())
    wanted, buffers = results["none"]
    assert len(wanted) == sum(p.requires_grad for p in built(MODELS[name], "none").parameters())
    greatest = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert greatest > 0
    for kind in ("norms", "all"):
        assert results[kind][0].keys() == wanted.keys()
        for parameter, gradient in results[kind][0].items():
            assert float((gradient - wanted[parameter]).abs().max()) <= 1e-6 * greatest, (kind, parameter)
        for buffer, value in results[kind][1].items():
            assert torch.equal(value, buffers[buffer]), (kind, buffer)  # each batch-norm counted once


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp64", "bf16"])
def test_gradients_in_other_precisions(precision: str) -> None:
    by_kind = {}
    for kind in CHECKPOINTING_MODES:
        if precision == "fp64":
            by_kind[kind] = gradients(built(LITE, kind).double(), experiment_of(LITE, kind), torch.float64)
        else:
            experiment = experiment_of(LITE, kind, precision="bf16")
            by_kind[kind] = gradients(built(LITE, kind, "bf16"), experiment)
    greatest = max(float(gradient.abs().max()) for gradient in by_kind["none"].values())
    for kind in ("norms", "all"):
        for parameter, gradient in by_kind[kind].items():
            assert float((gradient - by_kind["none"][parameter]).abs().max()) <= 1e-6 * greatest, (kind, parameter)


def saved(
    model: ModelConfig, recompute: str, objects: int = 8, precision: str = "fp32", side: int = 128
) -> SavedActivations:
    """What a step of the paper's recipe keeps."""
    experiment = experiment_of(model, recompute, side, precision, "auto")
    network = for_training(build_model(model, SCENE.num_classes), experiment, CPU).train()
    return kept_by(network, experiment, objects)


def kept_by(network: nn.Module, experiment: Experiment, objects: int) -> SavedActivations:
    """What a step of this network keeps."""

    def losses(images: int) -> dict[str, Tensor]:
        return losses_of(network, experiment, images, objects)

    return saved_bytes_per_image(network, losses, dict(network.named_children()))


@pytest.mark.slow
def test_saved_bytes_of_each_part() -> None:
    wide = replace(RESNET, channels=256, prototype_channels=256, prototypes=32)  # the paper's
    nothing, norms, everything = (saved(wide, kind, side=64).per_image for kind in CHECKPOINTING_MODES)
    assert norms["backbone"] == nothing["backbone"]
    # Of the maps between a tower's convolutions, before and behind norm and ReLU, and the sum of both towers, half go.
    assert norms["head"] < 0.52 * nothing["head"]
    locations = 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1
    assert norms["head"] > 8 * 256 * 4 * locations  # the outputs of eight convolutions stay
    assert norms["protonet"] == nothing["protonet"] - 256 * 16 * 16 * 4  # the doubled map
    assert everything["protonet"] == 32 * 16 * 16 * 4  # the prototypes
    assert everything["head"] < 0.1 * nothing["head"]
    assert everything["backbone"] < 0.4 * nothing["backbone"]
    assert sum(saved(wide, "norms", precision="bf16", side=64).per_image.values()) < 0.55 * sum(norms.values())


def test_a_frozen_backbone_saves_nothing() -> None:
    frozen = saved(replace(LITE, frozen_stages=4), "none").per_image
    trained = saved(LITE, "none").per_image
    assert frozen["backbone"] == 0
    # The pyramid then is the first to keep C3 and C4 (40 and 112 channels), as it is with C5 in any case.
    assert frozen["fpn"] - trained["fpn"] == 4 * (40 * 16 * 16 + 112 * 8 * 8)


def test_losses_save_the_same_for_any_number_of_objects() -> None:
    few, many = (saved(LITE, "norms", objects).total for objects in (2, 30))
    assert few < many < 1.01 * few  # a few numbers for each positive location


def test_checkpointed_repeats_random_numbers() -> None:
    weight = torch.ones(1000, requires_grad=True)
    dropout = nn.Dropout(0.5)
    output = checkpointed(lambda w: dropout(w * w).square(), weight, within=dropout, random=True)
    output.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad == 0, output == 0)


@pytest.mark.parametrize("kind", CHECKPOINTING_MODES)
def test_state_dict_names_and_inference_do_not_change(kind: str) -> None:
    plain, network = built(LITE, "none").eval(), built(LITE, kind).eval()
    assert list(network.state_dict()) == list(plain.state_dict())
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    wanted = plain(images)
    assert wanted.prototypes is not None
    for other in (network(images), for_inference(network)(images)):
        assert other.prototypes is not None
        torch.testing.assert_close(other.class_logits, wanted.class_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.prototypes, wanted.prototypes, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # training without gradients, as where statistics are gathered
        assert network.train()(images).class_logits.grad_fn is None


def test_statistics_are_updated_without_gradients() -> None:
    model = replace(LITE, frozen_stages=0, frozen_batch_norm=False, norm="batch")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    statistics = []
    for kind in CHECKPOINTING_MODES:
        network = built(model, kind)
        with torch.no_grad():
            network(images)
        statistics.append(dict(network.named_buffers()))
    for other in statistics[1:]:
        assert all(torch.equal(value, statistics[0][name]) for name, value in other.items())


def test_apply_activation_checkpointing_rejects_unknown_modes_and_backbones_without_stages() -> None:
    with pytest.raises(ConfigError, match="none, norms, all"):
        apply_activation_checkpointing(built(LITE, "none"), "some")
    hooked = build_model(replace(LITE, backbone="hrnet_w18_small.ms_in1k", frozen_stages=0), 3)
    with pytest.raises(ConfigError, match="hrnet_w18_small"):
        apply_activation_checkpointing(hooked, "all")
    apply_activation_checkpointing(hooked, "norms")


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["norms", "all"])
def test_distributed_training_has_the_same_gradients(kind: str, one_rank: None) -> None:
    model = replace(LITE, frozen_stages=0, frozen_batch_norm=False)
    experiment = experiment_of(model, kind)
    wanted = gradients(built(model, "none"), experiment)
    distributed = gradients(DistributedDataParallel(built(model, kind)), experiment)
    assert distributed.keys() == {f"module.{name}" for name in wanted}
    assert all(torch.allclose(distributed[f"module.{name}"], wanted[name], atol=1e-6) for name in wanted)


@pytest.mark.parametrize("kind", CHECKPOINTING_MODES)
def test_large_canvases_train_contiguous_with_the_same_gradients(kind: str) -> None:
    """From 512 x 512 on; the maps follow the weights, whatever is made again, and names stay."""
    experiment = experiment_of(LITE, kind)
    networks = []
    for canvas in ((480, 512), (512, 512)):
        network = for_training(build(LITE), experiment_of(LITE, "none"), CPU)
        assert isinstance(network, SAIS)
        set_convolutions(network, "direct", canvas)
        apply_activation_checkpointing(network, kind)
        networks.append(network.train())
    last, contiguous = networks
    weight = contiguous.head.class_logits.weight
    assert weight.is_contiguous()
    assert not last.head.class_logits.weight.is_contiguous()
    seen: list[bool] = []
    contiguous.head.class_logits.register_forward_pre_hook(lambda _, maps: seen.append(maps[0].is_contiguous()))
    contiguous_gradients, channels_last_gradients = gradients(contiguous, experiment), gradients(last, experiment)
    assert seen
    assert all(seen)
    assert contiguous_gradients.keys() == channels_last_gradients.keys()
    greatest = max(float(value.abs().max()) for value in channels_last_gradients.values())
    for name, gradient in channels_last_gradients.items():
        assert (contiguous_gradients[name] - gradient).abs().max() <= 1e-6 * greatest, name
    # No map is kept in both layouts.
    saved = [kept_by(network, experiment, 8).per_image for network in (contiguous, last)]
    assert saved[0] == saved[1]
