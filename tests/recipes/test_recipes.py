"""Every recipe builds, survives JSON, and says what the paper says, by number."""

from __future__ import annotations

import inspect
import json

import pytest

from sais.config import AugmentConfig, Experiment, from_dict, to_dict
from sais.errors import SaisError
from sais.recipes import RECIPES, recipe

PAPER = {  # name -> (backbone, mode, size, masks, coefficients, rule)
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
def test_survives_json_and_keeps_its_name(name: str) -> None:
    experiment = recipe(name)
    assert experiment.name == name
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(experiment)))) == experiment


@pytest.mark.parametrize("name", RECIPES)
def test_docstring_gives_command_cost_and_result(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"sais train {name} --data" in text
    assert "Cost:" in text
    assert "Expected:" in text


def test_each_name_is_another_function_and_experiment() -> None:
    assert len(set(RECIPES.values())) == len(RECIPES)
    settings = [json.dumps(to_dict(recipe(name)) | {"name": ""}) for name in RECIPES]
    assert len(set(settings)) == len(RECIPES)


@pytest.mark.parametrize("name", PAPER)
def test_paper_by_number(name: str) -> None:
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
    assert e.model.distance_unit == "pixel"
    assert (e.optim.name, e.optim.lr, e.optim.batch_size, e.optim.momentum) == ("sgd", 0.01, 16, 0.9)
    assert (e.optim.weight_decay, e.optim.bias_lr_factor, e.optim.grad_clip_norm) == (1e-4, 2.0, None)
    assert e.optim.backbone_lr_factor == 1.0
    assert (e.schedule.epochs, e.schedule.kind, e.schedule.milestones, e.schedule.gamma) == (12, "steps", (8, 11), 0.1)
    assert (e.schedule.warmup, e.schedule.warmup_kind) == (500, "constant")
    assert e.schedule.warmup_factor == pytest.approx(1 / 3)
    assert (e.criterion.box_loss, e.criterion.mask_positives, e.criterion.mask_margin) == ("iou", 100, 0.0)
    assert (e.criterion.class_weight, e.criterion.box_weight, e.criterion.centerness_weight) == (1.0, 1.0, 1.0)
    assert (
        e.postprocess.score_threshold,
        e.postprocess.pre_nms_topk,
        e.postprocess.nms_iou,
        e.postprocess.max_detections,
    ) == (0.05, 1000, 0.5, 100)
    assert e.postprocess.mask_margin == 0.0
    assert e.augment == AugmentConfig()
    assert (e.augment.flip, e.augment.scale_jitter, e.augment.color_jitter) == (0.5, (1.0, 1.0), 0.0)
    assert e.run.ema is None


def test_paper_lite0_is_frozen() -> None:
    """These numbers never change: experiments are compared with what this recipe gave."""
    e = recipe("paper-lite0")
    changed = {
        "backbone": "tf_efficientnet_lite0.in1k",
        "channels": 96,
        "prototype_channels": 96,
    }
    assert to_dict(e.model) == to_dict(Experiment().model) | changed
    assert (e.criterion, e.postprocess) == (Experiment().criterion, Experiment().postprocess)
    assert to_dict(e.criterion) == to_dict(Experiment().criterion) | {"box": "giou"}
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


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(SaisError, match=r"unknown recipe 'sais-r50-786', did you mean 'sais-r50-768'"):
        recipe("sais-r50-786")


def test_a_users_own_recipe(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from sais.config import Experiment\ndef mine():\n    return Experiment(name='mine')\n"
    text += "def wrong():\n    return 3\n"
    (tmp_path / "users_own_recipe.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert recipe("users_own_recipe:mine") == Experiment(name="mine")
    for name, message in (
        ("users_own_recipe:wrong", "returns int, not"),
        ("users_own_recipe:absent", "has no function absent"),
        ("no_such_module:mine", "cannot import no_such_module"),
        (":mine", "cannot import"),
    ):
        with pytest.raises(SaisError, match=message):
            recipe(name)
