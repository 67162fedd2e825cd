"""Strangers' model files: nothing that they name is imported, asked for or built, unless it is trusted and possible."""

from __future__ import annotations

import inspect
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

import sais
from sais.checkpoint import load_checkpoint, save_checkpoint
from sais.config import CriterionConfig, Experiment, ModelConfig, from_dict, to_dict
from sais.config_ranges import RANGES, check_ranges
from sais.data.paths import DataPaths
from sais.engine.trainer import train
from sais.errors import CheckpointError, ConfigError, ResourceError, SaisError
from sais.inference.parameter_limit import limit_parameters
from sais.inference.trained_model import load_model
from sais.resolve import NAMED_MODULES, resolve
from sais.trust import OWN_CODE, check_trusted, own_code

MODULE = "module_of_a_stranger"
HEAD = f"{MODULE}:Head"


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a file that the stranger's module writes when it is imported."""
    folder, mark = tmp_path / "code", tmp_path / "imported"
    folder.mkdir()
    code = f"open({str(mark)!r}, 'w').close()\nfrom sais.modeling.head import Head\nfrom shutil import rmtree\n"
    (folder / f"{MODULE}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("SAIS_TRUST", raising=False)
    yield mark
    sys.modules.pop(MODULE, None)
    NAMED_MODULES.discard(MODULE)


def change(experiment: Experiment, setting: str, value: Any) -> Experiment:
    """Return an experiment with one setting changed, named as in optim.lr."""
    group, _, name = setting.partition(".")
    return replace(experiment, **{group: replace(getattr(experiment, group), **{name: value})})


@pytest.fixture
def changed(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run folder whose `last.safetensors` has changed settings, entries or state."""

    def write(setting: str = "", value: Any = None, **entries: Any) -> Path:
        checkpoint = load_checkpoint(trained / "last.safetensors")
        if setting:
            checkpoint = replace(checkpoint, experiment=change(checkpoint.experiment, setting, value))
        folder = tmp_path / "stranger"
        save_checkpoint(folder / "last.safetensors", replace(checkpoint, **entries))
        (folder / "run.lock").touch()
        return folder

    return write


# --- code that a file names


def test_every_setting_that_accepts_own_code_is_known() -> None:
    import sais.config as config

    found = set()
    for group in fields(Experiment):
        kind = getattr(config, str(group.type), None)
        if kind is None or not is_dataclass(kind):
            continue
        body = inspect.getsource(kind)
        for item in fields(kind):
            start = body.index(f"    {item.name}: ")
            help_text = body[start:].split('"""')[1]
            if "module:" in help_text:
                found.add(f"{group.name}.{item.name}")
    assert found == set(OWN_CODE)


@pytest.mark.parametrize("setting", ["model.head", "model.architecture"])
def test_opening_a_model_imports_no_code_that_its_file_names(
    setting: str, changed: Callable[..., Path], stranger: Path
) -> None:
    folder = changed(setting, HEAD)
    for action in (sais.Predictor, sais.load_model, lambda path: sais.export(path, path / "m.onnx")):
        with pytest.raises(ConfigError, match=f"{setting} is '{HEAD}'.*trust=True.*SAIS_TRUST={MODULE}"):
            action(folder)
    assert not stranger.exists()


def test_a_trusted_model_is_opened(
    changed: Callable[..., Path], stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed("model.head", HEAD)
    assert len(sais.Predictor(folder, trust=True, device="cpu").class_names) > 0
    assert stranger.exists()
    NAMED_MODULES.discard(MODULE)
    with pytest.raises(ConfigError, match="trust=True"):
        load_model(folder)
    monkeypatch.setenv("SAIS_TRUST", f"other, {MODULE}")
    load_model(folder)
    monkeypatch.delenv("SAIS_TRUST")
    NAMED_MODULES.discard(MODULE)
    resolve(HEAD, {}, "head")  # the user has named it
    load_model(folder)


def test_benchmarks_import_no_code_that_a_file_names(changed: Callable[..., Path], stranger: Path) -> None:
    from sais.benchmark.models import ModelsRequest, experiment_of, model_candidates

    folder = changed("model.head", HEAD)
    for request in (ModelsRequest((str(folder),)), ModelsRequest((str(folder),), trust=False)):
        with pytest.raises(ConfigError, match=f"model.head is '{HEAD}'.*trust=True"):
            model_candidates(request, "cpu")
    assert experiment_of(str(folder), trust=True).model.head == HEAD
    assert len(model_candidates(ModelsRequest((str(folder),), trust=True), "cpu")) == 1


def test_trust_of_a_package_includes_its_modules_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIS_TRUST", "mine")
    NAMED_MODULES.discard("shutil")  # of other tests
    check_trusted({"mine:a": "x", "mine.parts:b": "x"}, "file")
    for name in ("miner:a", "other.mine:a", "shutil:rmtree"):
        with pytest.raises(ConfigError, match=f"file: model.head is '{name}'"):
            check_trusted({name: "model.head"}, "file")


def test_modules_of_sais_are_not_trusted_because_sais_uses_them() -> None:
    resolve("sais.modeling.sais_architecture:SAIS_ARCHITECTURE", {}, "architecture")
    with pytest.raises(ConfigError, match="would be imported"):
        check_trusted({"sais.modeling.sais_architecture:nn": "optim.name"}, "file")


@pytest.mark.parametrize("setting", OWN_CODE[2:-1])
def test_resuming_imports_no_code_that_only_the_checkpoint_names(
    setting: str, changed: Callable[..., Path], stranger: Path, shapes: Path
) -> None:
    name = f"{MODULE}:rmtree"
    folder = changed(setting, (name,) if setting in ("augment.extra", "criterion.extra_losses") else name)
    with pytest.raises(ConfigError, match=f"{setting} is '{name}'.*trust=True"):
        train(Experiment(), DataPaths(shapes), folder, resume=True, verbose=False)
    assert not stranger.exists()
    assert (folder / "last.safetensors").is_file()


def test_resuming_drops_loggers_that_only_the_checkpoint_names(
    changed: Callable[..., Path], stranger: Path, shapes: Path
) -> None:
    folder = changed("run.loggers", (f"{MODULE}:rmtree",))
    train(Experiment(), DataPaths(shapes), folder, resume=True, verbose=False)
    assert not stranger.exists()
    assert f"logger {MODULE}:rmtree of the checkpoint is not used" in (folder / "log.txt").read_text()


def test_fine_tuning_adopts_no_untrusted_quality_target(
    changed: Callable[..., Path], stranger: Path, shapes: Path, tiny: Experiment, tmp_path: Path
) -> None:
    folder = changed("model.quality", f"{MODULE}:rmtree")
    with pytest.raises(ConfigError, match=r"model\.quality is"):
        train(tiny, DataPaths(shapes), tmp_path / "run", weights=folder, verbose=False)
    assert not stranger.exists()


def test_a_given_name_needs_no_trust_to_resume(changed: Callable[..., Path], shapes: Path, stranger: Path) -> None:
    folder = changed("criterion.assigner", f"{MODULE}:rmtree")
    given = Experiment(criterion=CriterionConfig(assigner=f"{MODULE}:rmtree"))
    train(given, DataPaths(shapes), folder, resume=True, verbose=False)  # nothing is left to train
    assert stranger.exists()


# --- networks and other files


@pytest.mark.parametrize("backbone", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "timm/resnet18", "../resnet18"])
def test_backbones_have_plain_names_and_opening_a_model_uses_no_network(
    backbone: str, trained: Path, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_model(trained)
    with pytest.raises(ConfigError, match=r"last\.safetensors: model\.backbone .*not a plain name"):
        load_model(changed("model.backbone", backbone))
    with pytest.raises(ConfigError, match=r"model\.backbone"):
        from sais.modeling.backbones import Backbone

        Backbone(backbone)


IMPOSSIBLE: list[tuple[str, Any]] = [
    *[
        ("model.tower_depth", 10**9),
        ("model.channels", 10**6),
        ("model.prototypes", 10**7),
        ("input.size", (10**6, 10**6)),
    ],
    *[("postprocess.max_detections", -1), ("model.prototype_depth", 10**8), ("input.size", (16384, 16384))],
    *[("input.size", (65, 64)), ("postprocess.score_threshold", float("nan")), ("input.size", (0, 64))],
]


@pytest.mark.parametrize(("setting", "value"), IMPOSSIBLE)
def test_impossible_settings_are_refused_before_a_network_is_built(
    setting: str, value: Any, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sais.inference import trained_model

    def build(name: str) -> None:
        raise AssertionError("a network is built")

    folder = changed(setting, value)
    monkeypatch.setattr(trained_model, "find_architecture", build)
    with pytest.raises(ConfigError, match=rf"last\.safetensors: {setting} "):
        load_model(folder)


@pytest.mark.parametrize(
    ("setting", "value"), [("model.tower_depth", 128), ("model.channels", 4096), ("model.backbone", "convnext_large")]
)
def test_a_network_far_larger_than_its_weights_is_not_built(
    setting: str, value: Any, changed: Callable[..., Path], trained: Path
) -> None:
    experiment = change(load_checkpoint(trained / "last.safetensors").experiment, "model.channels", 256)
    folder = changed(experiment=change(experiment, setting, value))
    with pytest.raises(CheckpointError, match=r"describe a network of more than \d+ parameters"):
        load_model(folder)


@pytest.mark.parametrize("name", ["vgg11", "vgg19"])
def test_a_backbone_may_have_a_classifier_larger_than_the_stored_network(name: str) -> None:
    """The VGG networks do: 124 million parameters, which are dropped once the backbone is built."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        network = timm.create_model(name, features_only=True)
        with limit_parameters(network.state_dict(), Path("model.safetensors")):
            timm.create_model(name, features_only=True)


@pytest.mark.parametrize(
    "entries",
    [
        *({"class_names": names} for names in ((1, 2, 3), (), ("a" * 501, "b", "c"), tuple(map(str, range(16_000))))),
        *({"category_ids": ids} for ids in ((1,), (1, 2, None), (1, 2, 3.5))),
    ],
)
def test_impossible_classes_are_refused(entries: dict[str, Any], changed: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"last\.safetensors: .*(class_names|category_ids|class names)"):
        load_checkpoint(changed(**entries) / "last.safetensors")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("iteration", "7"), ("iteration", -1), ("iteration", None), ("best_score", float("inf")), ("metrics", [])],
        *[("recent_losses", ["a"]), ("recent_losses", 3), ("unreadable_images", [1]), ("images", 10**30)],
    ],
)
def test_a_damaged_training_state_is_refused(
    name: str, value: Any, trained: Path, changed: Callable[..., Path], shapes: Path
) -> None:
    state = load_checkpoint(trained / "last.safetensors").state | {name: value}
    with pytest.raises(CheckpointError, match=rf"training state is damaged \({name} is"):
        train(Experiment(), DataPaths(shapes), changed(state=state), resume=True, verbose=False)


@pytest.mark.parametrize("key", ["optimizer.head.scales/exp_avg", "optimizer.nowhere/exp_avg"])
def test_optimizer_state_of_another_network_is_refused(
    key: str, trained: Path, changed: Callable[..., Path], shapes: Path
) -> None:
    tensors = load_checkpoint(trained / "last.safetensors").tensors | {key: torch.zeros(3)}
    with pytest.raises(CheckpointError, match="optimizer state does not fit"):
        train(Experiment(), DataPaths(shapes), changed(tensors=tensors), resume=True, verbose=False)


def test_a_file_that_cannot_be_read_for_a_moment_is_not_renamed(
    changed: Callable[..., Path], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed()
    (folder / "previous.safetensors").write_bytes((folder / "last.safetensors").read_bytes())
    before = sorted(path.name for path in folder.iterdir())
    open_path = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "last.safetensors":
            raise OSError(5, "Input/output error")
        return open_path(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(ResourceError, match=r"last\.safetensors: cannot be read \(Input/output error\)"):
        train(Experiment(), DataPaths(shapes), folder, resume=True, verbose=False)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_metadata_that_is_no_json_is_refused(trained: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    from sais.checkpoint import _checksum

    with safe_open(trained / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    del metadata["checksum"]
    for entry in ("experiment", "class_names", "category_ids", "state"):
        for text in (None, "", "[" * 100_000, "1" * 5000, "null"):
            changed = {name: value for name, value in metadata.items() if name != entry or text is not None}
            if text is not None:
                changed[entry] = text
            tensors: dict[str, Any] = {"model.x": torch.zeros(1)}
            save_file(tensors, tmp_path / "m.safetensors", changed | {"checksum": _checksum(tensors, changed)})
            with pytest.raises(SaisError, match=r"m\.safetensors: "):
                load_checkpoint(tmp_path / "m.safetensors")


def test_ranges_have_limits_for_everything_that_is_allocated() -> None:
    for name in ("model.channels", "model.tower_depth", "optim.batch_size", "postprocess.max_detections"):
        with pytest.raises(ConfigError, match=name):
            check_ranges(change(Experiment(), name, 10**9))
    assert all(maximum > minimum for minimum, maximum in RANGES.values())


def test_numbers_of_any_length_and_values_of_any_size_are_refused() -> None:
    for value in (10**400, "x" * 10**6, [1] * 10**5, {"a": {}}):
        values = to_dict(Experiment()) | {"optim": {"lr": value}}
        with pytest.raises(ConfigError, match=r"f: optim\.lr: ") as caught:
            from_dict(Experiment, values, "f")
        assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError, match="expected a group"):
        from_dict(Experiment, [1], "f")  # type: ignore[arg-type]


def test_own_code_lists_each_name_with_its_setting() -> None:
    experiment = Experiment(
        model=ModelConfig(head="a:b"), criterion=CriterionConfig(extra_losses=("c:d", "e:f"), assigner="area")
    )
    assert own_code(experiment) == {
        "a:b": "model.head",
        "c:d": "criterion.extra_losses",
        "e:f": "criterion.extra_losses",
    }
