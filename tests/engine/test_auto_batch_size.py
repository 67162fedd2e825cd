"""How many images fit: against what a step really takes, under limits of containers, and in words."""

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
    free_memory,
    is_out_of_memory,
    out_of_memory_error,
)
from sais.errors import SaisError

CPU = torch.device("cpu")
SMALL = Experiment(
    input=InputConfig(size=(64, 64)),
    model=ModelConfig(backbone="tf_efficientnet_lite0.in1k", channels=32, tower_depth=1, prototype_channels=32),
    optim=OptimConfig(batch_size=16),
    run=RunConfig(ema=None),
)
GIB = 2**30


def test_the_answer_is_the_greatest_batch_below_the_limit() -> None:
    fit = find_batch_size(SMALL, 3, CPU, share=0.5, free=GIB // 2)
    assert fit.fixed + fit.batch * fit.per_image <= GIB / 4 < fit.fixed + (fit.batch + 1) * fit.per_image
    twice = find_batch_size(SMALL, 3, CPU, share=1.0, free=GIB // 2)
    assert twice.batch == int((GIB // 2 - fit.fixed) // fit.per_image)
    assert find_batch_size(SMALL, 3, CPU, most=7, free=GIB // 2).batch == 7
    larger = replace(SMALL, input=InputConfig(mode="keep_ratio", size=(60, 120)))  # 128 x 128 at most
    assert find_batch_size(larger, 3, CPU, free=GIB // 2).per_image == pytest.approx(4 * fit.per_image, rel=0.1)


def test_bytes_alive_at_one_time_by_hand() -> None:
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


def test_settings_that_save_memory_fit_more() -> None:
    plain = find_batch_size(SMALL, 3, CPU, free=GIB // 2)
    again = find_batch_size(
        replace(SMALL, run=RunConfig(activation_checkpointing="all", ema=None)), 3, CPU, free=GIB // 2
    )
    averaged = find_batch_size(replace(SMALL, run=RunConfig(ema=0.99)), 3, CPU, free=GIB // 2)
    adam = find_batch_size(replace(SMALL, optim=OptimConfig(name="adamw")), 3, CPU, free=GIB // 2)
    assert again.per_image < 0.5 * plain.per_image
    assert averaged.per_image == adam.per_image == plain.per_image
    assert min(averaged.fixed, adam.fixed) > 1.1 * plain.fixed


def test_the_greatest_canvas_has_to_fit() -> None:
    plain = find_batch_size(SMALL, 3, CPU, free=GIB // 2)
    varied = find_batch_size(replace(SMALL, augment=AugmentConfig(multi_scale=(0.5, 2.0))), 3, CPU, free=GIB // 2)
    assert 3.5 * plain.per_image < varied.per_image < 4.5 * plain.per_image


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that computes in bf16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def test_images_of_both_directions_may_meet() -> None:
    kept = InputConfig(mode="keep_ratio", size=(64, 128))
    lying = find_batch_size(replace(SMALL, input=kept), 3, CPU, free=GIB // 2)
    square = find_batch_size(replace(SMALL, input=InputConfig(size=(128, 128))), 3, CPU, free=GIB // 2)
    assert lying.per_image == square.per_image


def test_where_not_one_image_fits_it_is_said_what_to_lower(bf16: None) -> None:
    with pytest.raises(SaisError, match=r"one image takes 0\.\d+ GiB, and 0\.00 GiB may be used on cpu") as caught:
        find_batch_size(SMALL, 3, CPU, free=1000)
    assert str(caught.value).endswith("try --run.activation-checkpointing all, --run.precision bf16, a smaller --size")


def test_an_answer_in_words() -> None:
    assert str(BatchSizeEstimate(12, 300 * 2**20, GIB // 2, 5 * GIB)) == (
        "batch 12: 300 MiB an image and 0.5 GiB besides, of 5.0 GiB that are free"
    )


def written(root: Path, files: dict[str, str]) -> Path:
    """A file system in which the system tells about itself."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 32000000 kB\nMemAvailable:   16000000 kB\n"}


def test_free_memory_of_the_system(tmp_path: Path) -> None:
    assert free_memory(CPU, written(tmp_path, MEMINFO)) == 16000000 * 1024
    assert 0 < free_memory(CPU) < 2**50  # here


def test_free_memory_under_a_limit_of_a_container(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod/one"
    files = MEMINFO | {
        "proc/self/cgroup": "0::/pod/one\n",
        f"{group}/memory.max": "max\n",
        f"{group}/memory.current": "3000000\n",
        "sys/fs/cgroup/pod/memory.max": "8000000000\n",  # of the one around it
        "sys/fs/cgroup/pod/memory.current": "5000000000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 3000\ninactive_file 1000000000\n",
    }
    assert free_memory(CPU, written(tmp_path, files)) == 4000000000


def test_free_memory_under_an_old_kind_of_limit(tmp_path: Path) -> None:
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


def test_exceptions_of_memory_are_told_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_what_to_lower_is_what_can_still_be_lowered(bf16: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(out_of_memory_error(SMALL, CPU)) == (
        "out of memory on cpu with 16 images of 64 x 64 in a step; try --optim.micro-batch 8 (with the same result), "
        "--run.activation-checkpointing all, --run.precision bf16, a smaller --size"
    )
    least = replace(SMALL, run=RunConfig(activation_checkpointing="all", precision="bf16"))
    assert str(out_of_memory_error(least, CPU, 1)) == (
        "out of memory on cpu with 1 image of 64 x 64 in a step; try a smaller --size"
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # ten times slower
    assert "bf16" not in str(out_of_memory_error(SMALL, CPU))
    assert "bf16" in str(out_of_memory_error(SMALL, torch.device("cuda")))
