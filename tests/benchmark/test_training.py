"""`sais bench training` and `python -m peers training`: whom they measure, what they find, how they say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from peers.torchvision_peers.candidates import mask_rcnn_of
from peers.training import BARS, MASK_RCNN, ratios
from sais.benchmark import training
from sais.benchmark.candidates import Candidate
from sais.benchmark.memory import _as_tuples
from sais.benchmark.training import TrainingRequest, TrainingRow, training_candidates, training_table
from sais.commands.bench import run
from sais.errors import SaisError
from sais.recipes import recipe

MB = 10**6


def test_every_model_in_every_way() -> None:
    request = TrainingRequest(("sais-lite", "paper-lite0"), ("norms", "all"), ("fp32", "bf16"), input=(64, 64))
    assert [one.name for one in training_candidates(request)] == [
        f"{model}, {kind}{precision}"
        for model in ("sais-lite", "paper-lite0")
        for precision in ("", ", bf16")
        for kind in ("norms", "all")
    ]
    chosen = TrainingRequest(("sais-lite",), peers=("peers.training:peers",), only=(MASK_RCNN, "sais-lite, all"))
    assert [one.name for one in training_candidates(chosen)] == ["sais-lite, all", MASK_RCNN]


def test_a_wrong_name_or_size_is_said() -> None:
    with pytest.raises(SaisError, match="--only 'sais-lite': nobody of that name, did you mean 'sais-lite, all'"):
        training_candidates(TrainingRequest(("sais-lite",), only=("sais-lite",)))
    with pytest.raises(SaisError, match="multiples of 32"):
        training_candidates(TrainingRequest(("sais-lite",), input=(50, 50)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["training"], "needs a MODEL"),
        (["training", "sais-lite", "--precisions", "fp16"], "fp32 and bf16"),
        (["training", "sais-lite", "--batches", "4"], "here --batch"),
        (["training", "sais-lite", "--batch", "0"], "1 or more"),
        (["models", "sais-lite", "--recompute", "all"], "go with training"),
        (["masks", "--no-times"], "go with training"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(SaisError, match=said):
        run(arguments)


def rows() -> list[TrainingRow]:
    """Of four, invented."""
    return [
        TrainingRow(BARS[0].name, {"backbone": 300 * MB, "losses": 20 * MB}, 90 * MB, 500 * MB, 5.0, 4.0, 3.0),
        TrainingRow(BARS[2].name, {"backbone": 150 * MB, "losses": 10 * MB}, 60 * MB, None),
        TrainingRow(MASK_RCNN, {"backbone": 300 * MB, "rpn": 100 * MB}, 90 * MB, 900 * MB, 10.0, 5.0, 6.0),
        TrainingRow("other", {"backbone": 40 * MB}, 0, 100 * MB, 1.0, 1.0, 1.0),
    ]


def test_the_table_has_every_part_once() -> None:
    columns, lines = training_table(rows())
    assert columns[:5] == ["system", "backbone", "losses", "rpn", "all"]
    assert lines[0][1:7] == ["300.0", "20.0", "-", "320.0", "90.0", "500.0"]
    assert lines[2][1:5] == ["300.0", "-", "100.0", "400.0"]
    assert lines[1][-4:] == ["-"] * 4


def test_ratios_are_shares_of_mask_rcnns() -> None:
    found = ratios(rows())
    assert found[0] == [BARS[0].name, "0.800", "<= 0.80", "0.500", "0.800", "0.500", "<= 0.55"]
    assert found[1] == [BARS[2].name, "0.400", "<= 0.45", *["not measured"] * 3, "<= 0.30"]
    assert found[2][1:] == ["1.000", "-", *["1.000"] * 3, "-"]
    assert ratios(rows()[:2]) == []


def in_this_process(function: str, *arguments: Any) -> Any:
    """What else would take a process of its own, and the time to start it."""
    return json.loads(json.dumps(getattr(training, function.partition(":")[2])(*_as_tuples(list(arguments)))))


def small_peer() -> list[Candidate]:
    """A narrow Mask R-CNN on a small backbone and input."""
    return [mask_rcnn_of("mask-rcnn", recipe("paper-lite0"), 64)]


@pytest.mark.slow
def test_what_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "in_fresh_process", in_this_process)
    monkeypatch.setattr(training, "can_keep_big_blocks", lambda: False)  # which would stay for other tests
    options = ["--recompute", "none", "all", "--input", "64", "--repeats", "1", "--objects", "3"]
    peers = ["--peers", "tests.test_bench_training:small_peer"]
    assert run(["training", "paper-lite0", *options, *peers, "--out", str(tmp_path)]) == 0
    assert "paper-lite0, all" in capsys.readouterr().out
    found = [TrainingRow(**row) for row in json.loads((tmp_path / "training.json").read_text())["rows"]]
    plain, again, peer = found
    assert list(plain.per_image) == ["backbone", "fpn", "head", "protonet", "losses"]
    assert again.per_image["backbone"] < 0.5 * plain.per_image["backbone"]
    assert again.total < 0.5 * plain.total
    assert peer.per_image["mask head"] > MB
    assert all(row.seconds and row.processor_seconds is None for row in found)
