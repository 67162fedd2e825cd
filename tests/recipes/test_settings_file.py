"""Settings files: every run's experiment.json can be read back; mistakes name file, setting and nearest name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sais.config import to_dict
from sais.errors import ConfigError, InputError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import replace_settings
from sais.recipes.settings_file import apply_settings, is_settings_file, read_settings


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes a settings file and returns its path."""

    def file(content: Any, name: str = "settings.json") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return file


@pytest.mark.parametrize("name", ["sais-lite", "sais-r50-768"])
def test_experiment_json_is_read_back(write: Any, name: str) -> None:
    experiment = replace_settings(recipe(name), "optim", lr=0.123, batch_size=3)
    assert recipe(str(write(to_dict(experiment), "experiment.json"))) == experiment


def test_experiment_json_of_an_own_recipe_needs_no_recipe(write: Any) -> None:
    settings = to_dict(recipe("sais-lite")) | {"name": "board-parts"}
    del settings["schedule"]["patience"]  # written before this setting was added
    assert recipe(str(write(settings, "experiment.json"))).name == "board-parts"


YAML = """
name: sais-lite
size: 512
lr: 1e-3               # YAML 1.1 reads this as a text
optim:
  batch_size: 4
schedule.epochs: 30
run: {ema: None, loggers: []}
"""


def test_yaml_takes_groups_short_and_dotted_names(write: Any) -> None:
    pytest.importorskip("yaml")
    experiment = recipe(str(write(YAML, "mine.yaml")))
    assert experiment.input.size == (512, 512)
    assert (experiment.optim.lr, experiment.optim.batch_size) == (1e-3, 4)
    assert (experiment.schedule.epochs, experiment.run.ema, experiment.run.loggers) == (30, None, ())
    assert experiment.model == recipe("sais-lite").model


def test_apply_settings_scales_and_moves_as_the_command_line() -> None:
    paper = recipe("sais-r50-768")
    changed, notes = apply_settings(paper, {"optim.batch_size": 8, "schedule.epochs": 24}, "file")
    assert changed.optim.lr == pytest.approx(0.005)
    assert changed.schedule.milestones == (16, 22)
    assert len(notes) == 2
    given = {"optim.batch_size": 8, "optim.lr": 0.01, "schedule.epochs": 24, "schedule.milestones": [20]}
    changed, notes = apply_settings(paper, given, "file")
    assert (changed.optim.lr, changed.schedule.milestones, notes) == (0.01, (20,), [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "sais-lite", "optim": {"lrr": 1}}, r"settings\.json: optim\.lrr: unknown setting, did you mean 'lr'"),
        ({"name": "sais-lite", "optm": {"lr": 1}}, r"settings\.json: optm\.lr: unknown setting, did you mean 'optim"),
        ({"sise": 512}, r"settings\.json: sise: unknown setting, did you mean 'size'"),
        ({"name": "sais-lite", "optim": 3}, r"settings\.json: optim: 3 is not a group"),
        ({"name": "sais-lite", "lr": "high"}, r"settings\.json: optim\.lr: expected float, got 'high'"),
        ({"name": "sais-lite", "size": [1, 2, 3]}, r"settings\.json: input\.size: expected 2 values"),
        ({"name": "sais-lite", "run": {"precision": "fp8"}}, r"settings\.json: run\.precision: 'fp8' is not one of"),
        ({"name": "sais-lite", "run": {"precision": "x" * 90}}, r"run\.precision: 'x{90}' is not one of"),
        ({"lr": 1, "optim": {"lr": 2}}, r"settings\.json: optim\.lr is given twice"),
        ({"lr": 0.1}, r"settings\.json: names no recipe"),
        ({"name": "sais-lit", "lr": 0.1}, r"settings\.json: name 'sais-lit' is not a recipe, did you mean 'sais-lite'"),
        ([1], r"settings\.json: not a group of settings"),
        ("{", r"settings\.json: not JSON \(line 1"),
        ("[" * 100_000, r"settings\.json: not settings"),
        ("1" * 5000, r"settings\.json: not settings"),
        ({"name": "sais-lite", "batch_size": 0}, r"settings\.json: optim\.batch_size 0: must be between"),
        ({"name": "sais-lite", "lr": 1e38}, r"settings\.json: optim\.lr 1e\+38: must be between 0 and 1000000000\."),
        ({"name": "sais-lite", "optim": {"name": "adamw", "batch_size": -1}}, r"settings\.json: optim\.batch_size -1"),
        ({"name": "sais-lite", "optim": {"lr": 10**400}}, r"settings\.json: optim\.lr: a number of 1329 bits"),
        ({"name": "shutil:rmtree"}, r"recipe 'shutil:rmtree': cannot be called with no arguments"),
        ({"name": "math:pi"}, r"recipe 'math:pi': cannot be called with no arguments"),
        ({"name": "x" * 10**6}, r"settings\.json: name 'x{100}' is not a recipe"),
        ({"name": "sais-lite", "augment": {"extra": ["a:b"] * 2000}}, r"settings\.json: augment\.extra: 2000 values"),
    ],
)
def test_read_recipe_names_the_mistake(write: Any, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(str(write(content)))


def test_read_settings_names_the_line_of_broken_yaml(write: Any) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(ConfigError, match=r"mine\.yml: not YAML \(line 3"):
        read_settings(write("optim:\n  lr: [1\n", "mine.yml"))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 10)}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)),
        "a: &a [*a]",
        "optim: &o {lr: *o}",
        "a: 2024-99-99",
        "[" * 5000,
        "optim: {lr: 0x" + "f" * 10_000 + "}",
        "1: {2: {3: 4}}",
        "!!python/object/apply:os.system [echo]",
    ],
)
def test_read_settings_bounds_what_yaml_can_describe(write: Any, text: str) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(ConfigError, match=r"mine\.yml: ") as caught:
        apply_settings(recipe("sais-lite"), read_settings(write(text, "mine.yml")), "mine.yml")
    assert len(str(caught.value)) < 2500  # with the names of all settings


@pytest.mark.parametrize("name", ["../../../outside", "/etc", "a/b", "..", "\0", "x" * 5000])
def test_the_name_in_a_settings_file_is_no_path(write: Any, name: str) -> None:
    import json

    from sais.commands.recipe_options import open_recipe
    from sais.config import to_dict

    content = to_dict(recipe("sais-lite")) | {"name": name}
    start, _ = open_recipe([str(write(json.dumps(content), "experiment.json"))])
    assert start.name == Path(start.name).name
    assert 0 < len(start.name) <= 100
    assert ".." not in start.name.split("-")


def test_read_settings_of_a_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: no such settings file"):
        read_settings(Path("nowhere.json"))


def test_no_recipe_has_the_name_of_a_settings_file() -> None:
    assert not any(is_settings_file(name) for name in RECIPES)
    assert is_settings_file("runs/first/experiment.json")
