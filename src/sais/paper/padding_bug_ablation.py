"""The two halves of the padding slip taken apart: the same weights, tested with the slip and without.

Between two tests of one model there is no seed and no luck of training, so that the difference is the slip's alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sais.data.annotations import DatasetSplit
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.inference.trained_model import load_model
from sais.io.atomic import write_text
from sais.modeling.architecture import find_architecture
from sais.paper.padding_bug import PADDING_BUG, PADDING_BUG_ARCHITECTURE
from sais.paper.runs import RunResult, read_result
from sais.recipes.adjust import replace_settings

COLUMNS = ("trained", "tested", "seed", "box AP", "mask AP", "AP50", "AP75")
WORDS = "The slip's halves apart: the same weights, tested without the slip and with it."


def ablation_rows(
    results: Sequence[RunResult], valid: DatasetSplit, out: Path, device: str = "auto"
) -> list[list[str]]:
    """The rows of a table with `COLUMNS`, of the runs among `results` that keep the ratio and whose weights (or an
    earlier answer) lie in `out`."""
    rows = []
    for result in results:
        if result.experiment["input"]["mode"] != "keep_ratio":
            continue
        slipped = result.architecture == PADDING_BUG_ARCHITECTURE.name
        other = _other_way(result, "sais" if slipped else PADDING_BUG, valid, out, device)
        if other is None:
            continue
        for tested_slipped, one in sorted(((slipped, result), (not slipped, other)), key=lambda pair: pair[0]):
            words = ["with the slip" if yes else "right" for yes in (slipped, tested_slipped)]
            rows.append([*words, str(result.seed), *_figures(one.metrics)])
    return rows


def _other_way(
    result: RunResult, architecture: str, valid: DatasetSplit, out: Path, device: str
) -> RunResult | None:
    """The result of the same weights under `architecture`; kept beside the others, so that it is measured once."""
    path = out / "results" / "tested-otherwise" / f"seed{result.seed}-{result.digest}.json"
    known = read_result(path)
    models = sorted(out.glob(f"runs/*-seed{result.seed}-{result.digest}/model.safetensors"))
    if known is not None or not models:
        return known
    model = load_model(models[0])
    settings = replace_settings(model.experiment, "model", architecture=architecture)
    finder = Predictor(replace(model, experiment=settings), device=device)
    metrics = evaluate(finder, valid, settings.optim.batch_size, settings.run.workers, skip_broken=True).metrics
    assert metrics is not None
    other = replace(result, row=f"{result.row}-tested-otherwise", architecture=find_architecture(architecture).name, metrics=metrics.to_dict())
    write_text(path, json.dumps(asdict(other), indent=1) + "\n")
    return other


def _figures(metrics: dict[str, Any]) -> list[str]:
    wanted = (("box", "AP"), ("mask", "AP"), ("mask", "AP50"), ("mask", "AP75"))
    values = [(metrics.get(kind) or {}).get(name) for kind, name in wanted]
    return ["-" if value is None else f"{100 * value:.1f}" for value in values]
