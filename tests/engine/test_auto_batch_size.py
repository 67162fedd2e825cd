"""The largest batch size: compared with the memory of a real step, with limits of containers, and its messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from sais.config import AugmentConfig, Experiment, InputConfig, ModelConfig, OptimConfig, RunConfig
from sais.engine.activation_memory import peak_bytes
from sais.engine.auto_batch_size import (
    BatchSizeEstimate,
    find_batch_size,
)
from sais.engine.free_memory import free_memory
from sais.engine.out_of_memory import is_out_of_memory, out_of_memory_error
from sais.errors import ResourceError

CPU = torch.device("cpu")
SMALL = Experiment(
    input=InputConfig(size=(64, 64)),
    model=ModelConfig(backbone="tf_efficientnet_lite0.in1k", channels=32, tower_depth=1, prototype_channels=32),
    optim=OptimConfig(batch_size=16),
    run=RunConfig(ema=None),
)
GIB = 2**30


def test_find_batch_size_returns_the_largest_batch_below_the_limit() -> None:
    fit = find_batch_size(SMALL, 3, CPU, memory_fraction=0.5, free_bytes=GIB // 2)
    assert fit.fixed + fit.batch_size * fit.per_image <= GIB / 4 < fit.fixed + (fit.batch_size + 1) * fit.per_image
    twice = find_batch_size(SMALL, 3, CPU, memory_fraction=1.0, free_bytes=GIB // 2)
    assert twice.batch_size == int((GIB // 2 - fit.fixed) // fit.per_image)
    assert find_batch_size(SMALL, 3, CPU, max_batch_size=7, free_bytes=GIB // 2).batch_size == 7
    larger = replace(SMALL, input=InputConfig(mode="keep_ratio", size=(60, 120)))  # 128 x 128 at most
    assert find_batch_size(larger, 3, CPU, free_bytes=GIB // 2).per_image == pytest.approx(4 * fit.per_image, rel=0.1)


def test_peak_bytes_counts_tensors_alive_at_one_time() -> None:
    weight = torch.ones(1000, requires_grad=True)

    def step() -> None:
        first = weight * 2  # 4000 bytes
        second = first.exp()  # 8000
        del first
        third = second + 1  # 12000, since exp keeps its result and the product is gone: 8000
        third.view(10, 100).sum().backward()

    peak = peak_bytes(step)
    assert 12000 <= peak <= 16100
    assert peak_bytes(lambda: None) == 0
    assert peak_bytes(lambda: [weight.detach().view(10, 100).zero_()].clear()) == 0  # nothing new


def test_find_batch_size_respects_settings_that_save_memory() -> None:
    plain = find_batch_size(SMALL, 3, CPU, free_bytes=GIB // 2)
    again = find_batch_size(
        replace(SMALL, run=RunConfig(activation_checkpointing="all", ema=None)), 3, CPU, free_bytes=GIB // 2
    )
    averaged = find_batch_size(replace(SMALL, run=RunConfig(ema=0.99)), 3, CPU, free_bytes=GIB // 2)
    adam = find_batch_size(replace(SMALL, optim=OptimConfig(name="adamw")), 3, CPU, free_bytes=GIB // 2)
    assert again.per_image < 0.5 * plain.per_image
    assert averaged.per_image == adam.per_image == plain.per_image
    assert min(averaged.fixed, adam.fixed) > 1.1 * plain.fixed


def test_find_batch_size_measures_the_largest_canvas() -> None:
    plain = find_batch_size(SMALL, 3, CPU, free_bytes=GIB // 2)
    varied = find_batch_size(replace(SMALL, augment=AugmentConfig(multi_scale=(0.5, 2.0))), 3, CPU, free_bytes=GIB // 2)
    assert 3.5 * plain.per_image < varied.per_image < 4.5 * plain.per_image


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bf16 arithmetic."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def test_find_batch_size_expects_portrait_and_landscape_in_one_batch() -> None:
    keep_ratio = InputConfig(mode="keep_ratio", size=(64, 128))
    landscape = find_batch_size(replace(SMALL, input=keep_ratio), 3, CPU, free_bytes=GIB // 2)
    square = find_batch_size(replace(SMALL, input=InputConfig(size=(128, 128))), 3, CPU, free_bytes=GIB // 2)
    assert landscape.per_image == square.per_image


def test_find_batch_size_names_settings_to_change_if_no_image_fits(bf16: None) -> None:
    with pytest.raises(ResourceError, match=r"one image needs 0\.\d+ GiB, but 0\.00 GiB can be used") as caught:
        find_batch_size(SMALL, 3, CPU, free_bytes=1000)
    message = str(caught.value)
    assert message.endswith("Try run.activation_checkpointing all, run.precision bf16, a smaller input.size.")


def test_batch_size_estimate_as_text() -> None:
    assert str(BatchSizeEstimate(12, 300 * 2**20, GIB // 2, 5 * GIB)) == (
        "batch size 12: 300 MiB per image plus 0.5 GiB, of 5.0 GiB free memory"
    )


def written(root: Path, files: dict[str, str]) -> Path:
    """Write the files in which the system reports its memory."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 32000000 kB\nMemAvailable:   16000000 kB\n"}


def test_free_memory_reads_the_free_memory_of_the_system(tmp_path: Path) -> None:
    assert free_memory(CPU, written(tmp_path, MEMINFO)) == 16000000 * 1024
    assert 0 < free_memory(CPU) < 2**50


def test_free_memory_respects_control_groups_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod/one"
    files = MEMINFO | {
        "proc/self/cgroup": "0::/pod/one\n",
        f"{group}/memory.max": "max\n",
        f"{group}/memory.current": "3000000\n",
        "sys/fs/cgroup/pod/memory.max": "8000000000\n",  # of the outer group
        "sys/fs/cgroup/pod/memory.current": "5000000000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 3000\ninactive_file 1000000000\n",
    }
    assert free_memory(CPU, written(tmp_path, files)) == 4000000000


def test_free_memory_respects_control_groups_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/job"
    files = MEMINFO | {
        "proc/self/cgroup": "4:cpu:/job\n3:memory:/job\n0::/\n",
        f"{group}/memory.limit_in_bytes": "2000000000\n",
        f"{group}/memory.usage_in_bytes": "500000000\n",
        f"{group}/memory.stat": "total_inactive_file 100\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "700000000\n",
    }
    assert free_memory(CPU, written(tmp_path, files)) == 1500000100


def test_is_out_of_memory_recognizes_errors_of_all_devices() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_out_of_memory_error_names_settings_not_yet_used(bf16: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(out_of_memory_error(SMALL, CPU)) == (
        "cpu: out of memory with 16 images of 64 x 64 in a step. Try optim.micro_batch 8 (same result), "
        "run.activation_checkpointing all, run.precision bf16, a smaller input.size."
    )
    smallest = replace(SMALL, run=RunConfig(activation_checkpointing="all", precision="bf16"))
    assert str(out_of_memory_error(smallest, CPU, 1)) == (
        "cpu: out of memory with 1 image of 64 x 64 in a step. Try a smaller input.size."
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # ten times slower
    assert "bf16" not in str(out_of_memory_error(SMALL, CPU))
    assert "bf16" in str(out_of_memory_error(SMALL, torch.device("cuda")))
