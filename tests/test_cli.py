"""The command line: exit codes, one-line errors with similar names, help that names every option."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from sais import __version__, cli
from sais.commands.options import option_names
from sais.commands.recipe_options import RecipeOptions, split_recipe
from sais.commands.renamed import RENAMED_COMMANDS, RENAMED_OPTIONS
from sais.commands.run_folders import run_folder
from sais.commands.table import Command
from sais.commands.train import TrainArguments, settle
from sais.commands.version import VersionArguments
from sais.config import Experiment
from sais.data.paths import DataPaths, locate
from sais.engine.lock import LOCK_FILE
from sais.engine.run_folder import is_unstarted
from sais.errors import ConfigError, SaisError
from sais.recipes import RECIPES, recipe


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the line on stderr of a command that must exit with 2 and print nothing else."""
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("sais: error: ")
    return err


def test_help_has_no_line_breaks_of_the_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["predict", "--help"]) == 0
    text = capsys.readouterr().out
    lines = [line.strip(" │") for line in text.splitlines()]
    assert any("its threshold of each class. None, and auto" in line for line in lines), text


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_overview_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert command.summary in out


def test_version_is_printed_by_option_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert cli.main(["version"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{__version__}\nsais {__version__}, Python 3.")
    assert all(f"\n{package} " in output for package in ("torch", "onnxruntime", "openvino"))


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_names_every_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    for option in option_names(cli.arguments_of(command)):
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
    ("argv", "fragment"),
    [
        (["trian"], "did you mean 'train'"),
        (["shapes", "x"], "Use sais make-shapes"),
        (["train", "sais-lit"], "did you mean 'sais-lite'"),
        (["train"], "RECIPE missing"),
        (["train", "--data", "x"], "RECIPE missing"),
        (["train", "sais-lite"], "--data"),
        (["train", "sais-lite", "--modl.backbone", "x"], "did you mean '--model.backbone'"),
        (["train", "sais-lite", "--backbone", "x"], "'--model.backbone'"),
        (["train", "sais-lite", "-x"], "unknown option -x"),
        (["train", "sais-lite", "--optim.clip", "3"], "Use --optim.grad-clip-norm"),
        (["train", "sais-lite", "--optim.lr", "fast"], "Give a number"),
        (["train", "sais-lite", "--optim.lr=fast"], "Give a number"),
        (["train", "sais-lite", "--epochs", "2.5"], "Give a whole number"),
        (["train", "sais-lite", "--input.mode", "crop"], "Give one of fixed, keep_ratio"),
        (["train", "sais-lite", "--input.size", "320"], "Give 2 whole numbers"),
        (["train", "sais-lite", "--skip-broken=yes"], "takes no value"),
        (["train", "sais-lite", "--data", "/no/such"], "/no/such: "),
        (["train", "sais-lite", "--data", "x", "--epochs", "0"], "--schedule.epochs 0"),
        (["train", "sais-lite", "--data", "x", "--max-iterations", "0"], "--max-iterations 0"),
        (["train", "sais-lite", "--data", "x", "--size", "250"], "--input.size 250 250"),
        (["train", "sais-lite", "--train-images", "x", "--data", "y"], "--train-annotations"),
        (["eval"], "MODEL missing"),
        (["eval", "absent.safetensors", "--data", "x"], "absent.safetensors: "),
        (["eval", "m", "--batch-size"], "--batch-size: the value is missing"),
        (["eval", "m", "--batch", "3"], "Use --batch-size"),
        (["predict", "m"], "SOURCE missing"),
        (["predict", "absent.safetensors", "x.jpg"], "absent.safetensors: "),
        (["predict", "m", "s", "--flip"], "Use --tta-flip"),
        (["predict", "m", "s", "--tiles", "12x"], "--tiles 12x"),
        (["predict", "m", "s", "--tiles", "31"], "--tiles"),
        (["predict", "m", "s", "--tiles", "auto", "--tile-overlap", "0.9"], "--tile-overlap"),
        (["predict", "m", "s", "--tile-overlap", "0.3"], "--tile-overlap"),
        (["eval", "m", "extra"], "unexpected argument 'extra'"),
        (["predict", "m", "s", "--pages", "2"], "--pages 2"),
        (["make-shapes"], "DIR missing"),
        (["convert", "a", "b"], "sais convert: --to missing"),
        (["convert", "a"], "DST and --to missing"),
        (["make-shapes", "x", "--size", "8"], "Give 64 or more"),
        (["draw-targets"], "--scene figure2"),
        (["bench", "speed"], "'speed'"),
        (["recipes", "sais"], "recipe 'sais'"),
        (["doctor", "/no/such"], "/no/such: "),
    ],
)
def test_mistakes_are_reported_in_one_line(
    argv: list[str], fragment: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAIS_DATA", raising=False)
    assert fragment in fails(capsys, *argv)
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_every_renamed_option_leads_to_an_option() -> None:
    names = {command: set(option_names(cli.arguments_of(command))) for command in cli.COMMANDS}
    for old, new in RENAMED_OPTIONS.items():
        assert any(new in options and old not in options for options in names.values()), (old, new)
    assert set(RENAMED_COMMANDS.values()) <= set(cli.COMMANDS)
    assert not set(RENAMED_COMMANDS) & set(cli.COMMANDS)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("optim.lr 0: not positive.", "--optim.lr 0: not positive."),
        ("lr: too large", "--lr: too large"),
        ("the lr of a run", "the lr of a run"),
        ("a.jpg: unreadable. Set skip_broken=True.", "a.jpg: unreadable. Set --skip-broken."),
        ("runs/optim.lr/x and 'optim.lr' and optim.lr.x", "runs/optim.lr/x and 'optim.lr' and optim.lr.x"),
        ("my_file.jpg: missing", "my_file.jpg: missing"),
    ],
)
def test_name_options_translates_settings(message: str, expected: str) -> None:
    assert cli.name_options(message, TrainArguments) == expected


def test_name_options_leaves_files_named_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = "weights: not a model; train_images is empty."
    assert cli.name_options(message, TrainArguments) == "--weights: not a model; --train-images is empty."
    for argv in (["--weights", "weights", "--out", "train_images"], ["--weights=weights", "--out=train_images"]):
        assert cli.name_options(message, TrainArguments, argv) == message
    (tmp_path / "weights").mkdir()  # a path made of a parent folder ".", which is not on the command line
    assert cli.name_options(message, TrainArguments) == "weights: not a model; --train-images is empty."
    assert cli.name_options("use skip_broken=True", TrainArguments, ["skip_broken"]) == "use --skip-broken"


def test_errors_about_a_folder_named_like_an_option_name_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fails(capsys, "train", "sais-lite", "--data", "weights").startswith(
        "sais: error: weights: no such data folder"
    )


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `sais version` raise."""
    module = types.ModuleType("raising")

    def run(argv: list[str]) -> int:
        raise error

    module.run = run  # type: ignore[attr-defined]
    module.Arguments = VersionArguments  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sais.commands.raising", module)
    monkeypatch.setitem(cli.COMMANDS, "version", Command("raising", "Arguments", ""))


def test_errors_become_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAIS_DEBUG", raising=False)
    run_raising(monkeypatch, KeyboardInterrupt())
    assert cli.main(["version"]) == 130
    assert capsys.readouterr().err == "sais: version interrupted\n"
    run_raising(monkeypatch, SaisError("a.json: two\nlines"))
    assert fails(capsys, "version") == "sais: error: a.json: two lines\n"
    run_raising(monkeypatch, ModuleNotFoundError("no", name="torch.nn"))
    assert (
        fails(capsys, "version")
        == 'sais: error: sais version: PyTorch is not installed. Run pip install "sais-seg[train]".\n'
    )
    run_raising(monkeypatch, PermissionError(13, "Permission denied", "/x/out"))
    assert "/x/out: Permission denied" in fails(capsys, "version")
    run_raising(monkeypatch, ModuleNotFoundError("no", name="sais.absent"))
    with pytest.raises(ModuleNotFoundError):  # a bug of sais keeps its traceback
        cli.main(["version"])


def test_lack_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_raising(monkeypatch, MemoryError())
    assert fails(capsys, "version").startswith("sais: error: sais version: memory does not suffice. ")
    with pytest.raises(MemoryError):
        cli.main(["version", "--debug"])
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    run_raising(monkeypatch, caught.value)
    assert "memory does not suffice" in fails(capsys, "version")
    run_raising(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["version"])


def test_torchvision_of_another_build_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_raising(monkeypatch, RuntimeError("operator torchvision::nms does not exist"))
    message = fails(capsys, "version")
    assert message.startswith("sais: error: sais version: torch and torchvision do not fit together: ")
    assert "Install both again in one pip command" in message
    with pytest.raises(RuntimeError, match="nms"):
        cli.main(["version", "--debug"])


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
    assert 'Run pip install "sais-seg[train]"' in fails(capsys, "train", "sais-lite", "--data", str(tmp_path))


def test_split_recipe_finds_the_recipe_anywhere() -> None:
    assert split_recipe(["sais-lite", "--data", "d"]) == ("sais-lite", ["--data", "d"])
    assert split_recipe(["--data", "d", "sais-lite"]) == ("sais-lite", ["--data", "d"])
    assert split_recipe(["--data", "d"]) == ("", ["--data", "d"])


def settled(start: Experiment, keep_lr: bool = False, **values: Any) -> tuple[Experiment, list[str]]:
    """Settle the arguments of `sais train` with the short options `values`."""
    shared = {name: values.pop(name) for name in ("size", "seed") if name in values}
    arguments = TrainArguments(recipe=RecipeOptions(experiment=start, **shared), **values)
    return settle(start, arguments, keep_lr)


def test_settle_scales_lr_with_the_batch() -> None:
    sgd = recipe("sais-r50-768")
    experiment, notes = settled(sgd, batch_size=2)
    assert experiment.optim.lr == pytest.approx(0.00125)
    assert len(notes) == 1
    assert "linearly from 0.01 to 0.00125" in notes[0]
    experiment, notes = settled(recipe("sais-lite"), batch_size=32)
    assert experiment.optim.lr == pytest.approx(0.001 * 8**0.5, rel=1e-3)
    assert "by the square root" in notes[0]
    experiment, notes = settled(sgd, keep_lr=True, batch_size=2, lr=0.3)
    assert (experiment.optim.lr, experiment.optim.batch_size, notes) == (0.3, 2, [])


def test_settle_moves_the_milestones_with_the_epochs() -> None:
    experiment, notes = settled(recipe("sais-r50-768"), epochs=6)
    assert (experiment.schedule.epochs, experiment.schedule.milestones) == (6, (4, 5))
    assert len(notes) == 1


def test_settle_applies_short_options() -> None:
    experiment, _ = settled(recipe("sais-lite"), epochs=3, size=(320,), workers=0, seed=7, device="cpu")
    assert (experiment.schedule.epochs, experiment.input.size) == (3, (320, 320))
    assert (experiment.run.workers, experiment.run.seed, experiment.run.device) == (0, 7, "cpu")
    with pytest.raises(ConfigError, match="Give height and width"):
        settled(recipe("fcos-r50"), size=(800,))


def test_run_folder_numbers_new_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_output_below_a_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a folder" in fails(capsys, "make-shapes", str(tmp_path / "file" / "below"))


def test_locate_searches_the_folder_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAIS_DATA", str(tmp_path / "sets"))
    assert locate(Path("mine")) == tmp_path / "sets/mine"
    assert DataPaths(data=Path("mine")).name == "mine"
    (tmp_path / "mine").mkdir()
    assert locate(Path("mine")) == Path("mine")  # the current folder comes first
    (tmp_path / "a.json").touch()
    with pytest.raises(SaisError, match="a.json: a file"):
        locate(Path("a.json"))
    with pytest.raises(SaisError, match="absent.*SAIS_DATA"):
        locate(Path("absent"))


def test_data_paths_by_split_and_by_file(real_data) -> None:
    folder = real_data("breadboard")
    by_split = DataPaths(data=folder)
    by_file = DataPaths(
        train_annotations=folder / "annotations/train.json",
        train_images=folder / "images/train",
    )
    assert len(by_split.read_train().images) == len(by_file.read_train().images) == 80
    valid = by_split.read_valid()
    assert valid is not None
    assert len(valid.images) == 10
    assert by_file.read_valid() is None
    assert DataPaths(data=folder, valid="").read_valid() is None
    coco = DataPaths(data=real_data("coco_mini")).read_valid()
    assert coco is not None
    assert len(coco.images) == 206


def test_recipes_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in RECIPES)
    assert cli.main(["recipes", "sais-r50-768"]) == 0
    assert '"backbone": "resnet50.tv_in1k"' in capsys.readouterr().out


@pytest.mark.slow
def test_demo_doctor_eval_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run demo, doctor, eval and predict with a run that is too short to learn anything."""
    import json

    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--out", "d", "--train", "8", "--valid", "3", "--epochs", "1"]) == 0
    assert "open d/report.html" in capsys.readouterr().out
    report = (tmp_path / "d/report.html").read_text()
    assert "AP75" in report
    assert (tmp_path / "d/predictions.jpg").stat().st_size > 10_000
    shapes = "d/shapes-8-3-0"
    assert cli.main(["doctor", shapes]) == 0
    assert "== valid" in capsys.readouterr().out
    evaluate = ["eval", "d/run-1", "--data", shapes, "--workers", "0", "--score", "0"]
    assert cli.main([*evaluate, "--json", "-", "--results", "r.json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    results = json.loads((tmp_path / "r.json").read_text())
    assert figures["detections"] == len(results)
    assert set(figures["metrics"]["mask"]) >= {"AP", "AP50", "APs", "AR100", "per_class"}
    assert {"image_id", "category_id", "bbox", "score", "segmentation"} <= set(results[0])
    (tmp_path / f"{shapes}/images/valid/broken.jpg").write_bytes(b"no image")
    predict = ["predict", "d/run-1", f"{shapes}/images/valid", "--score", "0", "--batch-size", "2"]
    assert "broken.jpg" in fails_after_output(capsys, *predict, "--out", "p", "--no-skip-broken")
    assert not json.loads((tmp_path / "p/predictions.json").read_text())["info"]["complete"]
    assert cli.main([*predict, "--out", "q"]) == 0
    assert "skipped 1 unreadable images: 1 not an image" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "q/predictions.json").read_text())["images"]) == 3
    assert len(list((tmp_path / "q").glob("*.jpg"))) == 3


def fails_after_output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the last line on stderr of a command that exits with 2 after other output."""
    assert cli.main(list(argv)) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_run_folder_of_an_unstarted_run_can_be_used_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / LOCK_FILE).touch()
    (out / "log.jsonl").touch()
    assert is_unstarted(out)
    assert run_folder(out, "name", resume=False) == run_folder(out, "name", resume=True) == out
    (out / "last.safetensors").write_bytes(b"x")
    assert not is_unstarted(out)
    with pytest.raises(SaisError, match="is not empty"):
        run_folder(out, "name", resume=False)
