"""An ablation of the padding bug: the same weights evaluated without the bug and with it.

Both evaluations use one trained model, so that the difference between them is caused by the bug alone, not by seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sais.data.annotations import DatasetSplit
from sais.device import choose_device
from sais.engine.hardware import choose_workers
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.inference.trained_model import load_model
from sais.modeling.architecture import find_architecture
from sais.paper.padding_bug import PADDING_BUG, PADDING_BUG_ARCHITECTURE
from sais.paper.runs import RunResult, read_result, write_result
from sais.recipes.adjust import replace_settings

FOLDER = "padding-bug-ablation"
"""Folder of the additional results, in the folder of results."""
COLUMNS = ("training", "inference", "seed", "box AP", "mask AP", "AP50", "AP75")
CAPTION = "Ablation of the padding bug: the same weights, evaluated without the bug and with it."


def ablation_rows(
    results: Sequence[RunResult], valid_split: DatasetSplit, out: Path, device: str = "auto"
) -> list[list[str]]:
    """Format the rows of a table with `COLUMNS`.

    Args:
        results: results of runs. Runs with a fixed input are ignored, and runs with neither weights nor a kept
            additional result.
        valid_split: split to evaluate on.
        out: folder of runs and results.
        device: device of the evaluation.
    """
    rows = []
    for result in results:
        if result.experiment["input"]["mode"] != "keep_ratio":
            continue
        trained_with_bug = result.architecture == PADDING_BUG_ARCHITECTURE.name
        other = _evaluate_other(result, "sais" if trained_with_bug else PADDING_BUG, valid_split, out, device)
        if other is None:
            continue
        for bug, evaluated in sorted(((trained_with_bug, result), (not trained_with_bug, other)), key=lambda p: p[0]):
            modes = ["with the bug" if has_bug else "without" for has_bug in (trained_with_bug, bug)]
            rows.append([*modes, str(result.seed), *_format_metrics(evaluated.metrics)])
    return rows


def _evaluate_other(
    result: RunResult, architecture: str, valid_split: DatasetSplit, out: Path, device: str
) -> RunResult | None:
    """The result of the same weights with another architecture, kept as JSON; None without weights."""
    path = out / "results" / FOLDER / f"seed{result.seed}-{result.digest}.json"
    earlier = read_result(path)
    models = sorted(out.glob(f"runs/*-seed{result.seed}-{result.digest}/model.safetensors"))
    if earlier is not None or not models:
        return earlier
    model = load_model(models[0])
    settings = replace_settings(model.experiment, "model", architecture=architecture)
    predictor = Predictor(replace(model, experiment=settings), device=device)
    batch_size = settings.optim.batch_size
    workers = choose_workers(settings.run.workers, choose_device(device))
    metrics = evaluate(predictor, valid_split, batch_size, workers, skip_broken=True).metrics
    assert metrics is not None
    other = replace(
        result,
        row=f"{result.row}-ablation",
        architecture=find_architecture(architecture).name,
        metrics=metrics.to_dict(),
    )
    write_result(path, other)
    return other


def _format_metrics(metrics: dict[str, Any]) -> list[str]:
    columns = (("box", "AP"), ("mask", "AP"), ("mask", "AP50"), ("mask", "AP75"))
    values = [(metrics.get(kind) or {}).get(name) for kind, name in columns]
    return ["-" if value is None else f"{100 * value:.1f}" for value in values]
