"""The command line: exit codes, one-line errors with the nearest names, help that names every option."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from sais import __version__, cli
from sais.commands.arguments import option_names
from sais.commands.bench import BenchArguments
from sais.commands.check import CheckArguments
from sais.commands.demo import DemoArguments
from sais.commands.draw_augmented import DrawAugmentedArguments
from sais.commands.draw_targets import DrawTargetsArguments
from sais.commands.evaluate import EvalArguments
from sais.commands.export import ExportArguments
from sais.commands.make_shapes import MakeShapesArguments
from sais.commands.predict import Found, PredictArguments, drawn_names
from sais.commands.recipes import RecipesArguments
from sais.commands.report import ReportArguments
from sais.commands.reproduce import ReproduceArguments
from sais.commands.run_folders import run_folder
from sais.commands.runs import RunsArguments
from sais.commands.split import SplitArguments
from sais.commands.train import TrainArguments, settle, split_recipe
from sais.commands.version import VersionArguments
from sais.data.paths import DataPaths, locate
from sais.errors import SaisError
from sais.recipes import RECIPES, recipe

ARGUMENTS = {
    "train": TrainArguments,
    "eval": EvalArguments,
    "predict": PredictArguments,
    "runs": RunsArguments,
    "report": ReportArguments,
    "export": ExportArguments,
    "check": CheckArguments,
    "split": SplitArguments,
    "shapes": MakeShapesArguments,
    "recipes": RecipesArguments,
    "reproduce": ReproduceArguments,
    "draw-targets": DrawTargetsArguments,
    "draw-augmented": DrawAugmentedArguments,
    "bench": BenchArguments,
    "demo": DemoArguments,
    "version": VersionArguments,
}


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must exit with 2 and print nothing else."""
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("sais: error: ")
    return err


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_overview_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    for name, (_, summary) in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert summary in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"{__version__}\nsais {__version__}, Python 3.")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_names_every_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    for option in option_names(ARGUMENTS[command]):
        assert option in out
    assert f"usage: sais {command}" in out


def test_settings_are_options_with_the_recipes_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # one column, whose lines follow each other
    names = option_names(TrainArguments)
    assert {"--model.backbone", "--input.mode", "--optim.lr", "--criterion.assigner", "--model.no-masks"} <= set(names)
    assert cli.main(["train", "fcos-r50", "--help"]) == 0
    assert "(default: 800 1333)" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "unknown command 'trian', did you mean 'train'"),
        (["train", "sais-lit"], "unknown recipe 'sais-lit', did you mean 'sais-lite'"),
        (["train"], "needs a recipe first"),
        (["train", "--data", "x"], "needs a recipe first"),
        (["train", "sais-lite"], "no data: give --data DIR"),
        (
            ["train", "sais-lite", "--modl.backbone", "x"],
            "--modl.backbone, did you mean '--model.backbone'",
        ),
        (["train", "sais-lite", "--backbone", "x"], "'--model.backbone'"),
        (["train", "sais-lite", "--optim.lr", "fast"], "could not convert string to float: 'fast'"),
        (["train", "sais-lite", "--input.mode", "crop"], "invalid choice 'crop'"),
        (["train", "sais-lite", "--data", "/no/such"], "/no/such: no such data folder"),
        (["train", "sais-lite", "--data", "x", "--epochs", "0"], "--epochs 0: must be 1 or more"),
        (["train", "sais-lite", "--data", "x", "--size", "250"], "--size 250 250: a fixed input is a multiple of 32"),
        (["train", "sais-lite", "--train-images", "x", "--data", "y"], "go together"),
        (["eval"], "sais eval needs MODEL"),
        (["eval", "absent.safetensors", "--data", "x"], "absent.safetensors: no such model;"),
        (["eval", "m", "--batch"], "Missing value for argument '--batch'"),
        (["predict", "m"], "sais predict needs SOURCE"),
        (["predict", "absent.safetensors", "x.jpg"], "absent.safetensors: no such model;"),
        (["predict", "m", "s", "--tiles", "12x"], "--tiles 12x: give the side of a tile in pixels"),
        (["predict", "m", "s", "--tiles", "31"], "tiles of 31 pixels are too small"),
        (["predict", "m", "s", "--tiles", "auto", "--tile-overlap", "0.9"], "a tile overlap of 0.9 is not"),
        (["predict", "m", "s", "--tile-overlap", "0.3"], "--tile-overlap goes with --tiles"),
        (["predict", "m", "s", "extra"], "Unrecognized options: extra"),
        (["shapes"], "sais shapes needs"),
        (["shapes", "x", "--size", "8"], "64 or more"),
        (["draw-targets"], "needs --scene figure2, or --data DIR"),
        (["bench", "speed"], "invalid choice 'speed'"),
        (["recipes", "sais"], "unknown recipe 'sais'"),
        (["check", "/no/such"], "/no/such: no such data folder"),
    ],
)
def test_one_line_errors(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAIS_DATA", raising=False)
    assert said in fails(capsys, *argv)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `sais version` raise."""
    module = types.ModuleType("raising")

    def run(argv: list[str]) -> int:
        raise error

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "raising", module)
    monkeypatch.setitem(cli.COMMANDS, "version", ("raising", ""))


def test_errors_become_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAIS_DEBUG", raising=False)
    run_raising(monkeypatch, KeyboardInterrupt())
    assert cli.main(["version"]) == 130
    assert capsys.readouterr().err == "sais: version interrupted\n"
    run_raising(monkeypatch, SaisError("a.json: two\nlines"))
    assert fails(capsys, "version") == "sais: error: a.json: two lines\n"
    run_raising(monkeypatch, ModuleNotFoundError("no", name="torch.nn"))
    assert fails(capsys, "version") == 'sais: error: sais version needs PyTorch: pip install "sais-seg[train]"\n'
    run_raising(monkeypatch, PermissionError(13, "Permission denied", "/x/out"))
    assert "/x/out: Permission denied" in fails(capsys, "version")
    run_raising(monkeypatch, ModuleNotFoundError("no", name="sais.absent"))
    with pytest.raises(ModuleNotFoundError):  # a fault of ours is not dressed up
        cli.main(["version"])


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    run_raising(monkeypatch, SaisError("bad"))
    with pytest.raises(SaisError):
        cli.main(["version", "--debug"])
    monkeypatch.setenv("SAIS_DEBUG", "1")
    with pytest.raises(SaisError):
        cli.main(["version"])


def test_without_torch_a_command_names_the_extra(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    said = fails(capsys, "train", "sais-lite", "--data", str(tmp_path))
    assert said == 'sais: error: sais train needs PyTorch: pip install "sais-seg[train]"\n'


def test_recipe_is_found_wherever_it_stands() -> None:
    assert split_recipe(["sais-lite", "--data", "d"]) == ("sais-lite", ["--data", "d"])
    assert split_recipe(["--data", "d", "sais-lite"]) == ("sais-lite", ["--data", "d"])
    assert split_recipe(["--data", "d"]) == ("", ["--data", "d"])


def test_batch_scales_lr_and_says_so() -> None:
    sgd = recipe("sais-r50-768")
    settled, said = settle(sgd, TrainArguments(experiment=sgd, batch=2), given_lr=False)
    assert settled.optim.lr == pytest.approx(0.00125)
    assert said == ["batch 2 instead of 16: lr 0.01 -> 0.00125, scaled linearly (--lr overrides)"]
    adamw = recipe("sais-lite")
    settled, said = settle(adamw, TrainArguments(experiment=adamw, batch=32), given_lr=False)
    assert settled.optim.lr == pytest.approx(0.002)
    assert "by the square root" in said[0]
    settled, said = settle(sgd, TrainArguments(experiment=sgd, batch=2, lr=0.3), given_lr=True)
    assert (settled.optim.lr, settled.optim.batch_size, said) == (0.3, 2, [])


def test_short_options_change_the_experiment() -> None:
    start = recipe("sais-lite")
    arguments = TrainArguments(experiment=start, epochs=3, size=(320,), workers=0, seed=7, device="cpu")
    settled, _ = settle(start, arguments, given_lr=False)
    assert (settled.schedule.epochs, settled.input.size) == (3, (320, 320))
    assert (settled.run.workers, settled.run.seed, settled.run.device) == (0, 7, "cpu")
    keep = recipe("fcos-r50")
    with pytest.raises(SaisError, match="give height and width"):
        settle(keep, TrainArguments(experiment=keep, size=(800,)), given_lr=False)


def test_run_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder(None, "a-b", resume=False) == Path("runs/a-b")
    with pytest.raises(SaisError, match="no run to resume"):
        run_folder(None, "a-b", resume=True)
    (tmp_path / "runs/a-b").mkdir(parents=True)
    (tmp_path / "runs/a-b-extra-9").mkdir()  # another run's folder
    assert run_folder(None, "a-b", resume=False) == Path("runs/a-b-2")
    (tmp_path / "runs/a-b-2").mkdir()
    assert run_folder(None, "a-b", resume=False) == Path("runs/a-b-3")
    assert run_folder(None, "a-b", resume=True) == Path("runs/a-b-2")
    (tmp_path / "runs/a-b/log").touch()
    with pytest.raises(SaisError, match="is not empty"):
        run_folder(Path("runs/a-b"), "", resume=False)
    assert run_folder(Path("runs/a-b"), "", resume=True) == Path("runs/a-b")


def test_out_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a folder" in fails(capsys, "shapes", str(tmp_path / "file" / "below"))


def test_data_is_found_on_the_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shelf/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAIS_DATA", str(tmp_path / "shelf"))
    assert locate(Path("mine")) == tmp_path / "shelf/mine"
    assert DataPaths(data=Path("mine")).name == "mine"
    (tmp_path / "mine").mkdir()
    assert locate(Path("mine")) == Path("mine")  # what lies here comes first
    (tmp_path / "a.json").touch()
    with pytest.raises(SaisError, match="is a file"):
        locate(Path("a.json"))
    with pytest.raises(SaisError, match="nor in SAIS_DATA"):
        locate(Path("absent"))


def test_real_data_by_split_and_by_file(real_data) -> None:
    folder = real_data("breadboard")
    by_split = DataPaths(data=folder)
    by_file = DataPaths(
        train_annotations=folder / "annotations/train.json",
        train_images=folder / "images/train",
    )
    assert len(by_split.train_index().images) == len(by_file.train_index().images) == 80
    valid = by_split.valid_index()
    assert valid is not None
    assert len(valid.images) == 10
    assert by_file.valid_index() is None
    assert DataPaths(data=folder, valid="").valid_index() is None
    coco = DataPaths(data=real_data("coco_mini")).valid_index()
    assert coco is not None
    assert len(coco.images) == 206


def test_recipes_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in RECIPES)
    assert cli.main(["recipes", "sais-r50-768"]) == 0
    assert '"backbone": "resnet50.tv_in1k"' in capsys.readouterr().out


def test_drawings_keep_their_place_and_never_collide() -> None:
    paths = [Path("s/a.jpg"), Path("s/a.png"), Path("s/b.tif"), Path("t/a.jpg")]
    assert [str(n) for n in drawn_names(paths, Path("*")).values()] == ["a.jpg", "a-2.jpg", "b.jpg", "a-3.jpg"]


def test_predictions_file_is_coco(tmp_path: Path) -> None:
    import json

    import numpy as np

    from sais.results.cropped_mask import CroppedMask
    from sais.results.detections import Detections

    found = Found(("cat", "dog"))
    bits = np.ones((2, 3), bool)
    found.add(Detections((10, 20), np.zeros((0, 4)), np.zeros(0), np.zeros(0), ("cat", "dog")), file_name="empty.jpg")
    one = Detections(
        (10, 20), np.array([[1, 2, 4, 4]]), np.array([0.5]), np.array([1]), ("cat", "dog"), [CroppedMask(1, 2, bits)]
    )
    found.add(one, file_name="one.jpg")
    found.write(tmp_path / "out/predictions.json")
    read = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [image["file_name"] for image in read["images"]] == ["empty.jpg", "one.jpg"]
    assert read["images"][1] == {"id": 2, "width": 20, "height": 10, "file_name": "one.jpg"}
    (entry,) = read["annotations"]
    assert (entry["id"], entry["image_id"], entry["category_id"]) == (1, 2, 2)
    assert entry["bbox"] == [1, 2, 3, 2]
    assert entry["segmentation"]["size"] == [10, 20]
    assert read["categories"][1] == {"id": 2, "name": "dog"}
    assert found.counts == {"dog": 1}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]


@pytest.mark.slow
def test_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Demo, check, eval and predict, on a run far too short to learn anything."""
    import json

    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--out", "d", "--train", "8", "--valid", "3", "--epochs", "1"]) == 0
    assert "open d/report.html" in capsys.readouterr().out
    report = (tmp_path / "d/report.html").read_text()
    assert "AP75" in report
    assert (tmp_path / "d/predictions.jpg").stat().st_size > 10_000
    shapes = "d/shapes-8-3-0"
    assert cli.main(["check", shapes]) == 0
    assert "== valid" in capsys.readouterr().out
    evaluate = ["eval", "d/run-1", "--data", shapes, "--workers", "0", "--score", "0"]
    assert cli.main([*evaluate, "--json", "-", "--results", "r.json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    results = json.loads((tmp_path / "r.json").read_text())
    assert figures["detections"] == len(results)
    assert set(figures["metrics"]["mask"]) >= {"AP", "AP50", "APs", "AR100", "per_class"}
    assert {"image_id", "category_id", "bbox", "score", "segmentation"} <= set(results[0])
    (tmp_path / f"{shapes}/images/valid/broken.jpg").write_bytes(b"no image")
    predict = ["predict", "d/run-1", f"{shapes}/images/valid", "--score", "0", "--batch", "2"]
    assert "broken.jpg" in fails_after_output(capsys, *predict, "--out", "p")
    assert not (tmp_path / "p/predictions.json").exists()
    assert cli.main([*predict, "--out", "q", "--skip-broken"]) == 0
    assert "left out 1 images" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "q/predictions.json").read_text())["images"]) == 3
    assert len(list((tmp_path / "q").glob("*.jpg"))) == 3


def fails_after_output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that exits with 2, whatever it said before."""
    assert cli.main(list(argv)) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_run_killed_before_its_first_checkpoint_is_no_dead_end(tmp_path: Path) -> None:
    from sais.commands.run_folders import run_folder, stopped_early

    out = tmp_path / "run"
    out.mkdir()
    (out / "experiment.json").write_text("{}")
    (out / "log.jsonl").write_text("")
    assert stopped_early(out)
    assert run_folder(out, "name", resume=False) == run_folder(out, "name", resume=True) == out
    (out / "last.safetensors").write_bytes(b"x")
    assert not stopped_early(out)
    with pytest.raises(SaisError, match="is not empty"):
        run_folder(out, "name", resume=False)
