"""Recipes: they build, survive JSON and have the paper's numbers."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from sais.config import AugmentConfig, Experiment, from_dict, to_dict
from sais.errors import ConfigError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import check_experiment, replace_settings, scale_lr, set_epochs

PAPER = {  # name -> (backbone, mode, size, masks, coefficients, assigner)
    "sais-r50-640": ("resnet50.tv_in1k", "fixed", (640, 640), True, "both", "center"),
    "sais-r50-768": ("resnet50.tv_in1k", "fixed", (768, 768), True, "both", "center"),
    "sais-r101-768": ("resnet101.tv_in1k", "fixed", (768, 768), True, "both", "center"),
    "sais-x101-768": ("resnext101_64x4d.gluon_in1k", "fixed", (768, 768), True, "both", "center"),
    "fcos-r50": ("resnet50.tv_in1k", "keep_ratio", (800, 1333), False, "both", "center"),
    "fcos-r50-area": ("resnet50.tv_in1k", "keep_ratio", (800, 1333), False, "both", "area"),
    "sais-r50-768-no-fusion": ("resnet50.tv_in1k", "fixed", (768, 768), True, "classification", "center"),
    "sais-r50-768-area": ("resnet50.tv_in1k", "fixed", (768, 768), True, "classification", "area"),
    "sais-r50-keep-ratio-area": ("resnet50.tv_in1k", "keep_ratio", (800, 1333), True, "classification", "area"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_json_and_has_its_name(name: str) -> None:
    experiment = recipe(name)
    assert experiment.name == name
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(experiment)))) == experiment


@pytest.mark.parametrize("name", RECIPES)
def test_docstring_has_command_cost_and_result(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"sais train {name} --data" in text
    assert "Cost:" in text
    assert "Expected:" in text


@pytest.mark.parametrize("name", ["sais-r50-plus", "sais-r50-plus-slim", "sais-lite-small-data", "sais-lite1"])
def test_recipes_beyond_the_paper_share_the_choices_of_sais_lite(name: str) -> None:
    lite, other = recipe("sais-lite"), recipe(name)
    assert (other.criterion, other.postprocess) == (lite.criterion, lite.postprocess)
    assert (other.optim.name, other.model.prototype_norm, other.model.distance_unit) == ("muon", "group", "stride")
    assert (other.augment.scale_jitter, other.augment.initial_size) == ((0.6, 1.5), 0.5)
    assert 0.7 < other.augment.size_growth_epochs / other.schedule.epochs < 0.85


def test_recipes_are_distinct() -> None:
    assert len(set(RECIPES.values())) == len(RECIPES)
    settings = [json.dumps(to_dict(recipe(name)) | {"name": ""}) for name in RECIPES]
    assert len(set(settings)) == len(RECIPES)


@pytest.mark.parametrize("name", PAPER)
def test_paper_recipes_have_the_papers_numbers(name: str) -> None:
    e = recipe(name)
    assert PAPER[name] == (
        e.model.backbone,
        e.input.mode,
        e.input.size,
        e.model.masks,
        e.model.coefficients_from,
        e.criterion.assigner,
    )
    assert (e.model.channels, e.model.tower_depth, e.model.tower_kind, e.model.norm) == (256, 4, "plain", "group")
    assert (e.model.prototypes, e.model.prototype_channels, e.model.prototype_depth) == (32, 256, 3)
    assert (e.model.pretrained, e.model.frozen_stages, e.model.frozen_batch_norm) == (True, 1, True)
    assert (e.model.distance_unit, e.model.prototype_norm, e.model.relative_coordinates) == ("pixel", "none", False)
    assert (e.optim.name, e.optim.lr, e.optim.batch_size, e.optim.momentum) == ("sgd", 0.01, 16, 0.9)
    assert (e.optim.weight_decay, e.optim.bias_lr_factor, e.optim.grad_clip_norm) == (1e-4, 2.0, None)
    assert e.optim.backbone_lr_factor == 1.0
    assert (e.schedule.epochs, e.schedule.kind, e.schedule.milestones, e.schedule.gamma) == (12, "steps", (8, 11), 0.1)
    assert (e.schedule.warmup, e.schedule.warmup_kind) == (500, "constant")
    assert e.schedule.warmup_factor == pytest.approx(1 / 3)
    assert (e.criterion.box_loss, e.criterion.mask_positives, e.criterion.mask_margin) == ("iou", 100, 0.0)
    assert (e.criterion.class_weight, e.criterion.box_weight, e.criterion.quality_weight) == (1.0, 1.0, 1.0)
    assert (
        e.postprocess.score_threshold,
        e.postprocess.pre_nms_topk,
        e.postprocess.nms_iou,
        e.postprocess.max_detections,
    ) == (0.05, 1000, 0.5, 100)
    assert (e.postprocess.mask_margin, e.postprocess.maskness, e.criterion.dice_weight) == (0.0, False, 0.0)
    assert not e.postprocess.boxes_from_masks
    assert e.augment == AugmentConfig()
    assert (e.augment.flip, e.augment.scale_jitter, e.augment.color_jitter) == (0.5, (1.0, 1.0), 0.0)
    assert e.run.ema is None


def test_paper_lite0_is_frozen() -> None:
    """These numbers never change: experiments are compared with this recipe."""
    e = recipe("paper-lite0")
    changed = {
        "backbone": "tf_efficientnet_lite0.in1k",
        "channels": 96,
        "prototype_channels": 96,
    }
    assert to_dict(e.model) == to_dict(Experiment().model) | changed
    assert e.postprocess == Experiment().postprocess
    assert to_dict(e.criterion) == to_dict(Experiment().criterion) | {"box_loss": "giou"}
    assert to_dict(e.input) == to_dict(Experiment().input) | {"size": [256, 256]}
    assert (e.optim.name, e.optim.lr, e.optim.batch_size) == ("adamw", 1e-3, 8)
    assert (e.optim.weight_decay, e.optim.backbone_lr_factor, e.optim.bias_lr_factor) == (0.05, 0.3, 1.0)
    assert (e.schedule.epochs, e.schedule.kind, e.schedule.warmup) == (15, "cosine", 100)
    assert (e.schedule.warmup_kind, e.schedule.warmup_factor, e.run.ema) == ("linear", 0.1, 0.998)


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith("sais-lite")])
def test_lite_inputs_are_multiples_of_32(name: str) -> None:
    e = recipe(name)
    assert all(side % 32 == 0 and 256 <= side <= 640 for side in e.input.size)
    assert e.model.backbone.startswith("tf_efficientnet_lite")


def test_recipe_of_unknown_name_suggests_similar_names() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'sais-r50-768'"):
        recipe("sais-r50-786")


def test_recipe_imports_a_function_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from sais.config import Experiment\ndef own():\n    return Experiment(name='own')\n"
    text += "def wrong():\n    return 3\n"
    (tmp_path / "users_own_recipe.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert recipe("users_own_recipe:own") == Experiment(name="own")
    for name, fragment in (
        ("users_own_recipe:wrong", "returns int, not"),
        ("users_own_recipe:absent", "absent"),
        ("no_such_module:own", "no_such_module"),
        (":own", ":own"),
    ):
        with pytest.raises(ConfigError, match=fragment):
            recipe(name)


def test_scale_lr_is_linear_for_sgd_only() -> None:
    sgd, other = recipe("sais-r50-768"), recipe("sais-lite")
    experiment, notes = scale_lr(sgd, replace_settings(sgd, "optim", batch_size=8))
    assert experiment.optim.lr == pytest.approx(0.005)
    assert len(notes) == 1
    experiment, notes = scale_lr(other, replace_settings(other, "optim", batch_size=32))
    assert experiment.optim.lr == pytest.approx(1e-3 * 8**0.5, rel=1e-3)
    assert scale_lr(sgd, sgd) == (sgd, [])


def test_set_epochs_moves_milestones_and_drops_those_outside() -> None:
    sgd = recipe("sais-r50-768")
    assert set_epochs(sgd, 24)[0].schedule.milestones == (16, 22)
    assert set_epochs(sgd, 1)[0].schedule.milestones == ()
    assert set_epochs(sgd, 12) == (sgd, [])
    cosine, notes = set_epochs(recipe("paper-lite0"), 3)
    assert (cosine.schedule.epochs, notes) == (3, [])
    assert set_epochs(sgd, 24, keep=["schedule.milestones"])[0].schedule.milestones == (8, 11)


def test_set_epochs_scales_the_growth_of_the_input() -> None:
    growing = replace_settings(recipe("sais-r50-768"), "augment", initial_size=0.5, size_growth_epochs=9)
    longer, notes = set_epochs(growing, 24)
    assert longer.augment.size_growth_epochs == 18
    assert notes == [
        "24 epochs instead of 12: milestones moved from 8, 11 to 16, 22; growth of the input ends after 18 instead of 9"
    ]
    assert set_epochs(growing, 1)[0].augment.size_growth_epochs == 1
    assert set_epochs(growing, 24, keep=["augment.size_growth_epochs"])[0].augment.size_growth_epochs == 9


@pytest.mark.parametrize(
    ("group", "values"),
    [("optim", {"lr": 0.0}), ("optim", {"lr": float("nan")}), ("input", {"size": (250, 256)}), ("run", {"seed": -1})],
)
def test_check_experiment_refuses_unusable_settings(group: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_experiment(replace_settings(recipe("sais-lite"), group, **values))
