"""`sais.train`: a recipe, data and settings in, a trained model out. Prints nothing unless asked.

The settings are resolved as by `sais train`: short names, settings chosen from the data, a learning rate scaled with
the batch size. Processes of `torchrun` or Ray Train that call `train` with the same arguments train one model together.
`sais.engine.trainer.train` is the function below it, which takes a complete `Experiment`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.data.workers import check_main_process
from sais.engine.callbacks import Callback
from sais.engine.data_options import restore_data_options
from sais.engine.run_folder import numbered_folder
from sais.errors import InputError, MissingDependencyError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import check_experiment
from sais.recipes.from_data import adapt, settings_to_choose, too_few_steps
from sais.recipes.settings_file import apply_settings, is_settings_file, read_recipe, settings_by_name

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
    trust: bool = False,
    **settings: Any,
) -> TrainResult:
    """Train a model.

        result = sais.train("sais-lite", data="my_data", epochs=30, optim={"weight_decay": 0.05})

    Args:
        experiment: name of a recipe, ``module:function``, a settings file, or an `Experiment`, which is used as it is.
        data: folder of a data set, ``module:attribute``, `DataPaths`, a training split, or splits by name.
        out: folder of the run; by default runs/RECIPE-DATA, numbered -2, -3 if it exists.
        dataset, valid_dataset: splits in memory, instead of `data`.
        weights, random_init, max_iterations, skip_broken, callbacks, trust: see `sais.engine.trainer.train`.
        resume: whether to resume from the last checkpoint in `out`; of its settings, those given are replaced.
        verbose: whether to print lines and progress.
        settings: short names (size, epochs, batch_size, lr, workers, seed, device), groups (``optim={"lr": 1e-3}``)
            and dotted names (``**{"optim.lr": 1e-3}``). "auto" chooses size or epochs.

    Raises:
        SaisError: a problem that the user can fix, such as an unknown setting (`ConfigError`, with the closest names).
    """
    _check_process()
    values, automatic = _take_automatic(settings_by_name(settings, "sais.train"))
    data, out, notes = _locate(experiment, data, out, resume)
    dataset, valid_dataset = _open_data(data, dataset, valid_dataset)
    changed, more = _settle(experiment, values, automatic, None if resume else dataset)
    more += too_few_steps(len(dataset.images), changed) if not resume and max_iterations is None else []
    with _connected(changed, out or _default_folder(experiment, dataset.name, resume)) as (train_experiment, folder):
        return train_experiment(
            changed,
            data if isinstance(data, DataPaths) else None,
            folder,
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
            notes=[*notes, *more],
            trust=trust,
        )


def _check_process() -> None:
    """Raise an error in a process that must not train or cannot."""
    check_main_process()
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            'sais.train: PyTorch is not installed. Run pip install "sais-seg[train]".', package="torch", extra="train"
        )


@contextlib.contextmanager
def _connected(experiment: Experiment, out: str | Path) -> Iterator[tuple[Callable[..., TrainResult], str | Path]]:
    """Connect the processes that train together; yield their `train`, and the folder, which rank 0 chooses."""
    from sais.distributed import process_group
    from sais.engine.trainer import train as train_experiment

    with process_group(experiment.run.device) as world:
        yield functools.partial(train_experiment, world=world), world.broadcast(out)


def _settle(
    experiment: str | Path | Experiment,
    values: dict[str, Any],
    automatic: tuple[str, ...],
    split: DatasetSplit | None,
) -> tuple[Experiment, list[str]]:
    """Return the experiment with changed and chosen settings, and notes for the log; `split` is None when resuming."""
    base, built_in, stored = _open_recipe(experiment)
    start, notes = apply_settings(base, stored, str(experiment)) if stored else (base, [])
    if "optim.lr" in stored and "optim.batch_size" not in stored:  # given for any batch size, as an argument is
        values = {"optim.lr": stored["optim.lr"], **values}
    changed, more = apply_settings(start, values, "sais.train")
    notes = [*notes, *more]
    if split is None:
        return changed, notes
    given = [name for name in (*stored, *values) if name not in automatic]
    choose = settings_to_choose(built_in, given, automatic)
    if choose:
        from sais.distributed import launched_world_size

        changed, more = adapt(base, changed, split, choose, launched_world_size(), "optim.lr" in values)
        notes = [*notes, *more]
    check_experiment(changed)
    return changed, notes


def _open_recipe(experiment: str | Path | Experiment) -> tuple[Experiment, str, dict[str, Any]]:
    """Return the recipe to start from, its name if it is built in, and the values of a settings file."""
    if isinstance(experiment, Experiment):
        return experiment, "", {}
    name, stored = str(experiment), dict[str, Any]()
    if is_settings_file(name) and name not in RECIPES:
        name, stored = read_recipe(Path(name), RECIPES)
    return recipe(name) if name else Experiment(), name if name in RECIPES else "", stored


def _default_folder(experiment: str | Path | Experiment, data: str, resume: bool) -> Path:
    """Return runs/RECIPE-DATA, numbered."""
    name = experiment.name if isinstance(experiment, Experiment) else str(experiment)
    name = (Path(name).stem if is_settings_file(name) else name).replace(":", ".")
    return numbered_folder(Path("runs"), f"{name}-{data}", resume)


def _take_automatic(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings with a value, and the names of those to choose from the data."""
    automatic = tuple(name for name in AUTOMATIC if values.get(name) == "auto")
    return {name: value for name, value in values.items() if name not in automatic}, automatic


def _locate(
    experiment: str | Path | Experiment, data: Data | None, out: str | Path | None, resume: bool
) -> tuple[DataPaths | DatasetSplit | Mapping[str, DatasetSplit] | None, str | Path | None, list[str]]:
    """Return the data, with paths for a data set on disk, the folder of its run, and notes for the log."""
    paths = DataPaths(Path(data)) if isinstance(data, (str, Path)) else data
    if not isinstance(paths, DataPaths):
        return paths, out, []
    out = out or _default_folder(experiment, paths.name, resume)
    paths, notes = restore_data_options(paths, Path(out)) if resume else (paths, [])
    return paths, out, notes


def _open_data(
    data: Data | None, dataset: DatasetSplit | None, valid_dataset: DatasetSplit | None
) -> tuple[DatasetSplit, DatasetSplit | None]:
    """Return the training split, and the validation split in memory."""
    if isinstance(data, DatasetSplit):
        data = {"train": data}
    if isinstance(data, Mapping):
        if not all(isinstance(split, DatasetSplit) for split in data.values()):
            raise InputError("sais.train: data maps names to something other than a DatasetSplit. Give splits by name.")
        if "train" not in data and dataset is None:
            raise InputError(f"sais.train: data has no split 'train', only {', '.join(map(str, data))}. Add it.")
        dataset = dataset or data["train"]
        valid_dataset = valid_dataset or next((data[n] for n in ("valid", "val", "validation") if n in data), None)
    elif isinstance(data, DataPaths):
        dataset = dataset or data.read_train()
    if dataset is None:
        raise InputError("sais.train: no data. Give the folder of a data set (data) or a split in memory (dataset).")
    return dataset, valid_dataset
