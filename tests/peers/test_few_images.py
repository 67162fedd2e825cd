"""`python -m peers few-images`: nested lists of training images, the settings that suit each, table and figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("torch")
pytest.importorskip("faster_coco_eval")
pytest.importorskip("matplotlib")

from peers import few_images
from peers.__main__ import main
from peers.few_images import Arguments, first_images, image_order
from peers.measured_runs import MeasuredData, MeasuredRun
from sais.config import to_dict
from sais.data.formats import read_dataset
from sais.errors import ConfigError, InputError
from sais.paper.runs import RunPlan, RunResult
from sais.recipes.recommendation import recommend_training


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunPlan, MeasuredData]]:
    """Replace training by a mask AP of 0.05 for each training image, 0.01 more with seed 1; returns the runs."""
    runs: list[tuple[RunPlan, MeasuredData]] = []

    def measure(plan: RunPlan, data: MeasuredData, out: Path, each_epoch: bool) -> MeasuredRun:
        assert not each_epoch
        runs.append((plan, data))
        description, seed = data.describe("cpu"), plan.experiment.run.seed
        score = 0.05 * len(data.train.images) + 0.01 * seed
        result = RunResult(
            *(plan.row, seed, "sais", to_dict(plan.experiment), description, 7),
            *({"box": {"AP": 0.5}, "mask": {"AP": score, "AP75": None}}, 90.0, description["machine"], "1a2b3c4d"),
        )
        return MeasuredRun(result, 120.0, 6.0, [])

    monkeypatch.setattr(few_images, "measure_run", measure)
    return runs


@pytest.fixture
def run(shapes: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function from further words to the text of the results."""

    def command(*words: str) -> str:
        shared = ["--data", str(shapes), "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "out")]
        assert main(["few-images", *shared, *words]) == 0
        return (tmp_path / "out" / "few-images.md").read_text()

    return command


def test_lists_are_nested_and_the_same_for_all_runs(
    run: Callable[..., str], fake_runs: list[tuple[RunPlan, MeasuredData]], tmp_path: Path
) -> None:
    run("--images", "8", "3", "5", "--recipes", "sais-lite", "paper-lite0", "--seeds", "0", "1")
    names = [[record.name for record in data.train.images] for _, data in fake_runs]
    stored = [image["name"] for image in json.loads((tmp_path / "out" / "training-images.json").read_text())]
    assert len(set(stored)) == 12
    assert names == [stored[:number] for number in (3, 3, 5, 5, 8, 8)] * 2
    assert [plan.row for plan, _ in fake_runs[:4]] == ["sais-lite-3", "paper-lite0-3", "sais-lite-5", "paper-lite0-5"]
    assert [plan.experiment.run.seed for plan, _ in fake_runs] == [0] * 6 + [1] * 6
    assert {len(data.valid.images) for _, data in fake_runs} == {4}
    assert {data.train.class_names for _, data in fake_runs} == {fake_runs[0][1].valid.class_names}


def test_settings_are_the_recommended_ones(
    run: Callable[..., str], fake_runs: list[tuple[RunPlan, MeasuredData]]
) -> None:
    run("--images", "3", "12", "--recipes", "sais-lite", "paper-lite0", "--seeds", "0")
    epochs = []
    for plan, data in fake_runs:
        experiment, advised = plan.experiment, recommend_training(data.train, [])
        assert advised is not None
        if experiment.name == "sais-lite":
            epochs.append(experiment.schedule.epochs)
            chosen = (experiment.input.size, experiment.schedule.epochs, experiment.optim.batch_size)
            assert chosen == (advised.size, advised.epochs, advised.batch_size)
        else:
            assert (experiment.schedule.epochs, experiment.optim.batch_size) == (15, 8)  # means the same for any data
    assert epochs == [200, 50]


def test_table_and_figure(
    run: Callable[..., str],
    fake_runs: list[tuple[RunPlan, MeasuredData]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = run("--images", "4", "12", "--recipes", "paper-lite0", "--seeds", "0", "1")
    assert text in capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| paper-lite0")]
    objects = [sum(len(record.annotations) for record in data.train.images) for _, data in fake_runs[:2]]
    scores = "{} | 0.0 (0.0-0.0) | 0.0 (0.0-0.0) | 50.0 (50.0-50.0) | 2.0 (2.0-2.0) | 1.5 (1.5-1.5) |"
    middle = "256x256 | 15 | 8 | 7 | 0 1"
    assert rows == [
        f"| paper-lite0 | 4 | {objects[0]} | {middle} | {scores.format('20.5 (20.0-21.0)')}",
        f"| paper-lite0 | 12 | {objects[1]} | {middle} | {scores.format('60.5 (60.0-61.0)')}",
    ]
    assert "![Mask AP over the number of training images](few-images.svg)" in text
    svg = (tmp_path / "out" / "few-images.svg").read_text()
    ElementTree.fromstring(svg)
    assert all(word in svg for word in ("paper-lite0", ">4<", ">12<", "mask AP", "training images of shapes"))
    state = json.loads((tmp_path / "out" / "few-images.json").read_text())
    assert [(entry["images"], entry["core_seconds"]) for entry in state["runs"]] == [(4, 120.0)] * 2 + [(12, 120.0)] * 2


def test_the_order_is_read_again_and_belongs_to_its_images(shapes: Path, tmp_path: Path) -> None:
    split, path = read_dataset(shapes, "train"), tmp_path / "training-images.json"
    order = image_order(split, path)
    assert sorted(order) == list(range(12))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line.rstrip(",") + "," for line in lines[12:0:-1])]).rstrip(",") + "\n]\n")
    assert image_order(split, path) == order[::-1]
    with pytest.raises(InputError, match="a list of other images than those of train"):
        image_order(first_images(split, order, 11), path)
    path.write_text("[")
    with pytest.raises(InputError, match=r"training-images\.json: not a list of images"):
        image_order(split, path)


def test_too_many_images(run: Callable[..., str], fake_runs: list[tuple[RunPlan, MeasuredData]]) -> None:
    with pytest.raises(InputError, match="13 images, but shapes has 12 training images"):
        run("--images", "4", "13")
    assert fake_runs == []


@pytest.mark.parametrize("name", ["recipes", "images", "seeds"])
def test_empty_lists_are_refused(shapes: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"no {name}. Give one or more"):
        few_images.few_images(Arguments(data=shapes, out=tmp_path, **{name: ()}))


@pytest.mark.slow
def test_few_images_trains_and_measures(run: Callable[..., str], tmp_path: Path) -> None:
    settings = {"name": "sais-lite", "size": 64, "epochs": 2, "batch_size": 2, "model.channels": 32}
    (tmp_path / "tiny.json").write_text(json.dumps(settings))
    words = ("--images", "4", "8", "--recipes", str(tmp_path / "tiny.json"), "--seeds", "0")
    text = run(*words)
    results = sorted((tmp_path / "out" / "results").glob("*.json"))
    documents = [json.loads(path.read_text()) for path in results]
    assert sorted(document["result"]["data"]["train"]["images"] for document in documents) == [4, 8]
    assert sorted(document["result"]["iterations"] for document in documents) == [4, 8]
    assert all(len(document["scores"]) == 1 and document["core_seconds"] > 0 for document in documents)
    assert run(*words) == text  # read from its files
