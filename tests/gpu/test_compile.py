"""`torch.compile` on the device. In a file of its own, because compilation takes about a minute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

import sais
from sais.data.synthetic import write_shapes
from sais.inference.trained_model import prepare_network
from sais.structures import DenseOutputs
from tests.gpu.exact import exact_arithmetic
from tests.gpu.test_network import MAX_DIFFERENCES, images_of, largest_difference, model_of, small
from tests.gpu.test_runs import BATCH_SIZE, IMAGE_SIZE, IMAGES, experiment_on, losses_of

pytestmark = pytest.mark.gpu


def test_compiled_network_equals_the_network(device: torch.device) -> None:
    """Without graph breaks; on a CPU without code generation, which would take a minute."""
    model = model_of(small("sais-lite"))
    images = images_of(model.experiment).to(device)
    network = prepare_network(model).to(device)
    backend = "aot_eager" if device.type == "cpu" else "inductor"
    if device.type == "cuda":
        pytest.importorskip("triton")
    with torch.inference_mode(), exact_arithmetic():
        expected = network(images)
        actual = torch.compile(network, backend=backend, fullgraph=True)(images)
    on_host = DenseOutputs(**{k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in vars(expected).items()})
    assert largest_difference(on_host, actual) <= MAX_DIFFERENCES["fp32"]


def test_compiled_run_has_the_losses_of_the_run(device: torch.device, tmp_path: Path) -> None:
    if device.type == "cpu":
        pytest.skip("compilation takes minutes on a CPU")
    pytest.importorskip("triton")
    write_shapes(tmp_path / "shapes", train=IMAGES, valid=8, size=IMAGE_SIZE)
    experiment = experiment_on(device, epochs=1)
    compiled = replace(experiment, run=replace(experiment.run, compile=True))
    for name, settings in (("plain", experiment), ("compiled", compiled)):
        sais.train(settings, tmp_path / "shapes", tmp_path / name, random_init=True)
    expected, actual = losses_of(tmp_path / "plain"), losses_of(tmp_path / "compiled")
    assert len(actual) == IMAGES // BATCH_SIZE
    assert actual == pytest.approx(expected, rel=0.02)
