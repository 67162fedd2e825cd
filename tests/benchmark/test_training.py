"""Tests of `sais bench training` and `python -m peers training`: candidates, measurements and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from peers.torchvision_peers.candidates import mask_rcnn_of
from peers.training import MASK_RCNN, TARGETS, ratios
from sais.benchmark import training
from sais.benchmark.candidates import Candidate
from sais.benchmark.memory import _as_tuples
from sais.benchmark.training import TrainingRequest, TrainingRow, training_candidates, training_table
from sais.commands.bench import run
from sais.errors import InputError, SaisError
from sais.recipes import recipe

MB = 10**6


def test_training_candidates_covers_modes_and_precisions() -> None:
    request = TrainingRequest(("sais-lite", "paper-lite0"), ("norms", "all"), ("fp32", "bf16"), input_size=(64, 64))
    assert [candidate.name for candidate in training_candidates(request)] == [
        f"{model}, {kind}{precision}"
        for model in ("sais-lite", "paper-lite0")
        for precision in ("", ", bf16")
        for kind in ("norms", "all")
    ]
    chosen = TrainingRequest(("sais-lite",), peers=("peers.training:peers",), only=(MASK_RCNN, "sais-lite, all"))
    assert [candidate.name for candidate in training_candidates(chosen)] == ["sais-lite, all", MASK_RCNN]


def test_training_candidates_rejects_names_and_sizes() -> None:
    with pytest.raises(InputError, match="did you mean 'sais-lite, all'"):
        training_candidates(TrainingRequest(("sais-lite",), only=("sais-lite",)))
    with pytest.raises(SaisError, match="multiples of 32"):
        training_candidates(TrainingRequest(("sais-lite",), input_size=(50, 50)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training"], "no MODEL"),
        (["training", "sais-lite", "--precisions", "fp16"], "fp32 or bf16"),
        (["training", "sais-lite", "--batch-sizes", "4"], "--batch-sizes has no effect"),
        (["training", "sais-lite", "--batch-size", "0"], "1 or more"),
        (["models", "sais-lite", "--activation-checkpointing", "all"], "belongs to training"),
        (["masks", "--no-time"], "belongs to training"),
    ],
)
def test_bench_training_rejects_invalid_options(arguments: list[str], message: str) -> None:
    with pytest.raises(SaisError, match=message):
        run(arguments)


def rows() -> list[TrainingRow]:
    """Return invented measurements of four candidates."""
    return [
        TrainingRow(TARGETS[0].name, {"backbone": 300 * MB, "losses": 20 * MB}, 90 * MB, 500 * MB, 5.0, 4.0, 3.0),
        TrainingRow(TARGETS[2].name, {"backbone": 150 * MB, "losses": 10 * MB}, 60 * MB, None),
        TrainingRow(MASK_RCNN, {"backbone": 300 * MB, "rpn": 100 * MB}, 90 * MB, 900 * MB, 10.0, 5.0, 6.0),
        TrainingRow("other", {"backbone": 40 * MB}, 0, 100 * MB, 1.0, 1.0, 1.0),
    ]


def test_training_table_has_one_column_per_part() -> None:
    columns, cells = training_table(rows())
    assert columns[:5] == ["system", "backbone", "losses", "rpn", "total"]
    assert cells[0][1:7] == ["300.0", "20.0", "-", "320.0", "90.0", "500.0"]
    assert cells[2][1:5] == ["300.0", "-", "100.0", "400.0"]
    assert cells[1][-4:] == ["-"] * 4


def test_ratios_are_relative_to_mask_rcnn() -> None:
    cells = ratios(rows())
    assert cells[0] == [TARGETS[0].name, "0.800", "<= 0.80", "0.500", "0.800", "0.500", "<= 0.55"]
    assert cells[1] == [TARGETS[2].name, "0.400", "<= 0.45", *["not measured"] * 3, "<= 0.30"]
    assert cells[2][1:] == ["1.000", "-", *["1.000"] * 3, "-"]
    assert ratios(rows()[:2]) == []


def in_this_process(function: str, *arguments: Any) -> Any:
    """Call a function of `training` without starting a process."""
    return json.loads(json.dumps(getattr(training, function.partition(":")[2])(*_as_tuples(list(arguments)))))


def small_peer() -> list[Candidate]:
    """Return a narrow Mask R-CNN with a small backbone and input."""
    return [mask_rcnn_of("mask-rcnn", recipe("paper-lite0"), 64)]


@pytest.mark.slow
def test_bench_training_measures_models_and_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "in_fresh_process", in_this_process)
    monkeypatch.setattr(training, "can_keep_big_blocks", lambda: False)  # it would affect later tests
    options = ["--activation-checkpointing", "none", "all", "--input-size", "64", "--repeats", "1", "--objects", "3"]
    peers = ["--peers", "tests.benchmark.test_training:small_peer"]
    assert run(["training", "paper-lite0", *options, *peers, "--out", str(tmp_path)]) == 0
    assert "paper-lite0, all" in capsys.readouterr().out
    measured = [TrainingRow(**row) for row in json.loads((tmp_path / "training.json").read_text())["rows"]]
    plain, checkpointed, peer = measured
    assert list(plain.per_image) == ["backbone", "fpn", "head", "protonet", "losses"]
    assert checkpointed.per_image["backbone"] < 0.5 * plain.per_image["backbone"]
    assert checkpointed.total_per_image < 0.5 * plain.total_per_image
    assert peer.per_image["mask head"] > MB
    assert all(row.seconds and row.cpu_seconds is None for row in measured)
