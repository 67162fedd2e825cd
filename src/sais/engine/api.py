"""`sais.train`: a recipe, data and settings in, a trained model out. Prints nothing unless asked.

The settings are resolved as by `sais train`: short names, settings chosen from the data, a learning rate scaled with
the batch size. `sais.engine.trainer.train` is the function below it, which takes a complete `Experiment`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.config import Experiment, flatten
from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.data.workers import check_main_process
from sais.engine.callbacks import Callback
from sais.engine.run_folder import numbered_folder
from sais.errors import ConfigError, InputError, MissingDependencyError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import check_experiment
from sais.recipes.from_data import adapt, settings_to_choose
from sais.recipes.settings_file import SHORT_NAMES, apply_settings, check_names, is_settings_file

if TYPE_CHECKING:
    from sais.engine.trainer import TrainResult

AUTOMATIC = ("input.size", "schedule.epochs")
"""Settings that accept "auto"."""
Data = DataPaths | DatasetSplit | Mapping[str, DatasetSplit] | str | Path
"""A folder of a data set or ``module:attribute``; paths of its splits; a training split, or splits by name."""


def train(
    experiment: str | Path | Experiment,
    data: Data | None = None,
    out: str | Path | None = None,
    *,
    dataset: DatasetSplit | None = None,
    valid_dataset: DatasetSplit | None = None,
    weights: str | Path | None = None,
    random_init: bool = False,
    resume: bool = False,
    max_iterations: int | None = None,
    skip_broken: bool = False,
    callbacks: Sequence[Callback] = (),
    verbose: bool = False,
    **settings: Any,
) -> TrainResult:
    """Train a model.

        result = sais.train("sais-lite", data="my_data", epochs=30, optim={"weight_decay": 0.05})
        print(result.metrics["mask"]["AP"], result.model)

    Ctrl-C and SIGTERM let the current step finish, save the run, and then raise KeyboardInterrupt or SystemExit.

    Args:
        experiment: name of a recipe, ``module:function``, a settings file, or an `Experiment`, which is used as it is.
        data: folder of a data set, ``module:attribute``, `DataPaths`, a training split, or splits by name.
        out: folder of the run; by default runs/RECIPE-DATA, numbered -2, -3 if it exists.
        dataset: training split in memory, instead of `data`.
        valid_dataset: validation split in memory, with the classes of the training split.
        weights: checkpoint or run folder to fine-tune from, or a model of torchvision.
        random_init: whether to initialize the backbone randomly; all of its layers are then trained.
        resume: whether to resume from the last checkpoint in `out`, with the settings stored there. Those of `settings`
            replace them, if they may (`sais.engine.resume.CHANGEABLE_SETTINGS`).
        max_iterations: iteration of the whole run to stop after.
        skip_broken: whether to skip and count unreadable images. After the first epoch they are always skipped.
        callbacks: functions called with each `sais.engine.callbacks.TrainingEvent`.
        verbose: whether to print lines and progress.
        settings: changed settings: short names (size, epochs, batch_size, lr, workers, seed, device), groups
            (``optim={"lr": 1e-3}``) and dotted names (``**{"optim.lr": 1e-3}``). `size` and `epochs` accept "auto":
            chosen from the data, as they are for recipes such as sais-lite where they are not given.

    Raises:
        ConfigError: an unknown setting, with the closest names, or a value out of range.
        InputError: the data set is missing or malformed, or the main script lacks a guard that new processes need.
        SaisError: another problem that the user can fix, with a subclass for its kind.
    """
    check_main_process()
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            'sais.train: PyTorch is not installed. Run pip install "sais-seg[train]".', package="torch", extra="train"
        )
    from sais.engine.trainer import train as train_experiment

    values, automatic = settings_by_name(settings)
    given = isinstance(experiment, Experiment)
    base = experiment if isinstance(experiment, Experiment) else recipe(str(experiment))
    name = base.name if given else str(experiment)
    changed, notes = apply_settings(base, values, "sais.train")
    paths, dataset, valid_dataset = _open_data(data, dataset, valid_dataset)
    if paths is not None and dataset is None:
        dataset = paths.read_train()
    if dataset is None:
        raise InputError("sais.train: no data. Give the folder of a data set (data) or a split in memory (dataset).")
    if not resume:
        choose = settings_to_choose(name if name in RECIPES and not given else "", tuple(values), automatic)
        if choose:
            changed, more = adapt(base, changed, dataset, choose)
            notes = [*notes, *more]
        check_experiment(changed)
    if out is None:
        label = (Path(name).stem if is_settings_file(name) else name).replace(":", ".")
        out = numbered_folder(Path("runs"), f"{label}-{dataset.name if paths is None else paths.name}", resume)
    return train_experiment(
        changed,
        paths,
        out,
        dataset=dataset,
        valid_dataset=valid_dataset,
        resume=resume,
        max_iterations=max_iterations,
        skip_broken=skip_broken,
        random_init=random_init,
        weights=weights,
        changed_settings=tuple(setting for setting in values if "." in setting),
        callbacks=callbacks,
        verbose=verbose,
        notes=notes,
    )


def settings_by_name(settings: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the changed settings by their dotted names, and the names of those to choose from the data.

    Args:
        settings: values by short name, dotted name or group, as `train` takes them.

    Raises:
        ConfigError: an unknown name, or a setting that is given twice.
    """
    values: dict[str, Any] = {}
    automatic = []
    for name, value in flatten(settings).items():
        setting = SHORT_NAMES.get(name, name)
        if setting in values or setting in automatic:
            raise ConfigError(f"sais.train: {setting} is given twice. Remove one of the two values.")
        if value == "auto" and setting in AUTOMATIC:
            automatic.append(setting)
        else:
            values[setting] = [value, value] if setting == "input.size" and isinstance(value, int) else value
    check_names("sais.train", values)
    return values, tuple(automatic)


def _open_data(
    data: Data | None, dataset: DatasetSplit | None, valid_dataset: DatasetSplit | None
) -> tuple[DataPaths | None, DatasetSplit | None, DatasetSplit | None]:
    """Return the paths of a data set on disk, or its splits in memory."""
    if isinstance(data, DatasetSplit):
        data = {"train": data}
    if isinstance(data, Mapping):
        if not all(isinstance(split, DatasetSplit) for split in data.values()):
            raise InputError("sais.train: data maps names to something other than a DatasetSplit. Give splits by name.")
        if "train" not in data and dataset is None:
            raise InputError(f"sais.train: data has no split 'train', only {', '.join(map(str, data))}. Add it.")
        valid = next((data[name] for name in ("valid", "val", "validation") if name in data), None)
        return None, dataset or data.get("train"), valid_dataset or valid
    paths = DataPaths(Path(data)) if isinstance(data, (str, Path)) else data
    return paths, dataset, valid_dataset
