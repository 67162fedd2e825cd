"""Apple's MPS, which the tests do not have: its operators by PyTorch's own table, its data types, its errors.

A training step and a prediction run on the simulated device. Every operator that they launch there must have an
implementation for MPS, or one that consists of other operators, in `native_functions.yaml` of the installed PyTorch;
and no tensor may be float64, which MPS lacks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torchgen
from torch.utils._pytree import tree_leaves

from sais.cli import main
from sais.config import Experiment
from sais.engine.train_step import train_step
from sais.inference.trained_model import TrainedModel, prepare_network
from sais.modeling.architecture import find_architecture
from tests.engine.test_host_waits import batch_with, state_of
from tests.modeling.dense_samples import CANVAS, CLASSES
from tests.simulated_device import DEVICE, DeviceTensor, SimulatedDevice, module_to_device

IMPLEMENTED = {"MPS", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"}
TORCHVISION = {"torchvision.nms.default"}
"""Operators of torchvision with an implementation for MPS."""
MISSING = (
    "The operator 'aten::linalg_eig' is not currently implemented for the MPS device. If you want this op to be "
    "considered for addition please comment on an issue.\nAs a temporary fix, you can set the environment variable "
    "`PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op."
)


class RecordingDevice(SimulatedDevice):
    """A simulated device that records the data types of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation and record the types of its results."""
        result = super().__torch_dispatch__(function, types, args, kwargs)
        self.dtypes |= {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, DeviceTensor)}
        return result


@cache
def operator_table() -> dict[str, set[str]]:
    """Return the dispatch keys of every operator of PyTorch by name, such as add.Tensor."""
    from torchgen.gen import parse_native_yaml

    folder = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native"
    parsed = parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"))
    table: dict[str, set[str]] = {}
    for function in parsed.native_functions:
        kernels = {key.name for key, index in parsed.backend_indices.items() if index.has_kernel(function)}
        table[str(function.func.name)] = kernels | (
            {"CompositeExplicitAutograd"} if function.has_composite_implicit_autograd_kernel else set()
        )
    for function in parsed.native_functions:
        if function.structured_delegate is not None:
            table[str(function.func.name)] |= table[str(function.structured_delegate)]
    return table


def missing_operators(device: SimulatedDevice) -> list[str]:
    """Return the operators launched on a device that MPS lacks."""
    names = {name: name.removeprefix("aten.").removesuffix(".default") for name in device.launches}
    table = operator_table()
    return [n for n, key in names.items() if n not in TORCHVISION and not table.get(key, set()) & IMPLEMENTED]


def test_operator_table_knows_what_mps_lacks() -> None:
    table = operator_table()
    assert "MPS" in table["add.out"]
    assert table["add.Tensor"] & IMPLEMENTED
    assert not table["linalg_eig"] & IMPLEMENTED
    device = SimulatedDevice()
    device.launches.update(["aten.add.Tensor", "aten.linalg_eig.default", "aten.unheard_of.default"])
    assert missing_operators(device) == ["aten.linalg_eig.default", "aten.unheard_of.default"]


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 has no backward of GroupNorm on MPS")
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_training_step_uses_operators_of_mps(optimizer: str, tiny: Experiment) -> None:
    optim = replace(tiny.optim, name=optimizer, grad_clip_norm=1.0)
    experiment = replace(tiny, model=replace(tiny.model, pretrained=False), optim=optim)
    with RecordingDevice() as device:
        run = state_of(experiment, DEVICE)
        for _ in range(2):
            assert train_step(run, batch_with(5), 0, 1e-3) is not None
    assert len(device.launches) > 50
    assert missing_operators(device) == []
    assert torch.float32 in device.dtypes
    assert torch.float64 not in device.dtypes


def test_prediction_uses_operators_of_mps(tiny: Experiment) -> None:
    """On MPS the network and NMS run on the device, masks are assembled in host memory."""
    experiment = replace(tiny, model=replace(tiny.model, pretrained=False))
    architecture = find_architecture(experiment.model.architecture)
    torch.manual_seed(0)
    network = architecture.build(experiment, CLASSES).eval()
    prepared = prepare_network(TrainedModel(network, experiment, ("a", "b", "c"), (1, 2, 3)))
    settings = replace(experiment.postprocess, score_threshold=0.001)
    with RecordingDevice() as device, torch.no_grad():
        module_to_device(prepared)
        images = DeviceTensor(torch.randint(0, 256, (2, 3, *CANVAS), dtype=torch.uint8))
        assert architecture.postprocess is not None
        instances = architecture.postprocess(prepared(images), [CANVAS, CANVAS], settings)
        assert float(instances.scores.cpu().max()) > 0
    assert len(device.launches) > 30
    assert missing_operators(device) == []
    assert torch.float64 not in device.dtypes


def test_command_advises_the_fallback_for_a_missing_operator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise NotImplementedError(MISSING)

    monkeypatch.setattr("sais.commands.recipes.run", fail)
    assert main(["recipes"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("sais: error: sais recipes: this version of PyTorch has no aten::linalg_eig on MPS.")
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in message
    assert "--device cpu" in message
    assert message.count("\n") == 1
    monkeypatch.setattr("sais.commands.recipes.run", lambda argv: (_ for _ in ()).throw(NotImplementedError("other")))
    with pytest.raises(NotImplementedError, match="other"):
        main(["recipes"])
