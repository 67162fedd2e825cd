"""A search over settings with optuna: which values are tried, and a study in a folder that can be continued.

The study is a journal file in the folder of the search, to which optuna appends. Each trial is a normal run in a folder
of its own. A trial that was interrupted is resumed from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.config import Experiment, flatten, to_dict
from sais.engine.callbacks import TrainingEvent
from sais.errors import ConfigError, ResourceError
from sais.ops.letterbox import CANVAS_MULTIPLE
from sais.recipes.adjust import replace_settings

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "study.journal"
"""File of the study in the folder of a search."""
SEARCH_LOCK = "study.lock"
"""Lock file in the folder of a search: at most one process searches there, and resumes its interrupted trials."""
LR_FACTOR = 4.0
"""Largest factor, and largest divisor, of the recipe's learning rate."""
SIZE_FACTORS = (0.75, 1.0, 1.25, 1.5)
"""Factors of the recipe's input size."""
AUGMENTATIONS: dict[str, tuple[Any, ...]] = {
    "augment.scale_jitter": ((1.0, 1.0), (0.8, 1.25), (0.6, 1.5)),
    "augment.mosaic": (0.0, 0.5),
    "augment.copy_paste": (0.0, 0.5),
    "augment.photometric": (0.0, 0.5),
}
"""Settings of the group "augment" of a search -> their values, in addition to the recipe's."""
STARTUP_TRIALS = 4
"""Number of complete trials before any trial is stopped early."""
MIN_FRACTION = 0.25
"""Fraction of its epochs that every trial has."""


@dataclass(frozen=True)
class SearchSpace:
    """The settings that are searched, with the values of the recipe first."""

    lr: tuple[float, float] | None
    """Range of the learning rate; None if it is not searched."""
    choices: Mapping[str, Sequence[Any]]
    """Setting -> its values."""

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Return the settings of a trial by their dotted names."""
        settings: dict[str, Any] = {}
        if self.lr is not None:
            settings["optim.lr"] = float(f"{trial.suggest_float('optim.lr', *self.lr, log=True):.4g}")
        for name, values in self.choices.items():
            by_label = {json.dumps(value): value for value in values}
            settings[name] = by_label[trial.suggest_categorical(name, list(by_label))]
        return settings

    def recipe_values(self, experiment: Experiment) -> dict[str, Any]:
        """Return the parameters of the trial with the settings of the recipe."""
        start = {} if self.lr is None else {"optim.lr": experiment.optim.lr}
        return start | {name: json.dumps(values[0]) for name, values in self.choices.items()}


def search_space(experiment: Experiment, groups: Sequence[str]) -> SearchSpace:
    """Return the values to try around those of a recipe.

    Args:
        experiment: complete settings of the recipe for the data.
        groups: any of "lr", "size", "augment".
    """
    lr = experiment.optim.lr
    choices: dict[str, Sequence[Any]] = {}
    if "size" in groups:
        size = experiment.input.size
        sizes = [tuple(_multiple(side * factor) for side in size) for factor in SIZE_FACTORS]
        choices["input.size"] = list(dict.fromkeys([size, *sizes]))
    if "augment" in groups:
        settings = flatten(to_dict(experiment))
        for name, values in AUGMENTATIONS.items():
            own = settings[name]
            choices[name] = list(dict.fromkeys([tuple(own) if isinstance(own, (list, tuple)) else own, *values]))
    return SearchSpace((lr / LR_FACTOR, lr * LR_FACTOR) if "lr" in groups else None, choices)


def apply_trial(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment with the settings of a trial, by dotted names."""
    for name, value in settings.items():
        group, _, setting = name.partition(".")
        experiment = replace_settings(experiment, group, **{setting: value})
    return experiment


@dataclass
class TrialWatcher:
    """Callback of a run that reports its AP to the study, and ends it where the study finds no hope."""

    trial: Trial
    prune: bool
    advance: Callable[[int], None] = lambda epochs: None
    """Function called with the number of epochs done since the last call."""
    pruned: bool = field(default=False, init=False)

    def on_epoch(self, event: TrainingEvent) -> None:
        """Advance the progress."""
        self.advance(1)

    def on_evaluation(self, event: TrainingEvent) -> bool:
        """Report the AP; return whether the trial ends."""
        self.trial.report(event.values.get("mask/AP", event.values.get("box/AP", 0.0)), event.epoch)
        self.pruned = self.prune and event.epoch < event.epochs and self.trial.should_prune()
        return self.pruned


class Search:
    """The study of a search, in a folder.

    Args:
        out: folder of the search; a study in it is continued.
        experiment: complete settings that the search starts from.
        space: settings that are searched.
        inputs: name of the data set, options of reading it and initial weights, as JSON; a study is continued with the
            same ones only.
        epochs: number of epochs of a trial.

    Raises:
        ConfigError: the study in the folder is of other settings or data.
        ResourceError: the journal cannot be written or read.
    """

    def __init__(
        self, out: Path, experiment: Experiment, space: SearchSpace, inputs: Mapping[str, Any], epochs: int
    ) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(logging.WARNING)
        out.mkdir(parents=True, exist_ok=True)
        try:
            storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
            self.study: Study = optuna.create_study(
                storage=storage,
                study_name="sais",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=int(epochs * MIN_FRACTION)),
            )
        except (OSError, ValueError, KeyError) as error:
            raise ResourceError(f"{out / JOURNAL}: cannot be used ({error}). Choose another folder (out).") from error
        # The sampler repeats its values if it starts from the same seed in the same study.
        seed = (experiment.run.seed + len(self.study.trials)) % 2**32
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        self.space, self.out = space, out
        identity = {"settings": to_dict(experiment), "inputs": dict(inputs), "space": [space.lr, dict(space.choices)]}
        self._check_identity(json.loads(json.dumps(identity)))
        self._continue_trials()
        if not self.study.trials:
            self.study.enqueue_trial(space.recipe_values(experiment))

    def _check_identity(self, identity: dict[str, Any]) -> None:
        stored = self.study.user_attrs.get("identity")
        if stored is None:
            self.study.set_user_attr("identity", identity)
        elif stored != identity:
            old, new = ({**flatten(each.get("settings", {})), **each.get("inputs", {})} for each in (stored, identity))
            differing = [name for name in new if old.get(name) != new[name]] or ["settings to search"]
            raise ConfigError(
                f"{self.out}: contains a search with other {', '.join(differing[:5])}. Repeat its options to continue "
                "it, or choose another folder (out)."
            )

    def _continue_trials(self) -> None:
        """Queue the trials that were interrupted, first, each with the folder of its run."""
        import optuna

        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            folder = trial.user_attrs.get("folder", f"trial-{trial.number:03}")
            self.study.enqueue_trial(trial.params, user_attrs={"folder": folder})

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that have a result: complete or ended early."""
        import optuna

        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        return self.study.get_trials(deepcopy=False, states=states)

    def trials(self, count: int) -> Iterator[tuple[Trial, dict[str, Any], Path]]:
        """Yield new trials until `count` are finished: the trial, its settings by dotted names, the folder of its run.

        A trial that fails without an exception counts as well, so that the search ends.
        """
        for _ in range(max(0, count - len(self.finished))):
            trial = self.study.ask()
            folder = trial.user_attrs.get("folder", f"trial-{trial.number:03}")
            trial.set_user_attr("folder", folder)
            settings = self.space.suggest(trial)
            trial.set_user_attr("settings", settings)
            yield trial, settings, self.out / folder

    def end(self, trial: Trial, score: float | None, pruned: bool) -> None:
        """Store the result of a trial.

        Args:
            trial: the trial.
            score: its best AP, as a fraction of 1; None if it failed.
            pruned: whether it was ended early.
        """
        import optuna

        trial.set_user_attr("score", score)
        states = optuna.trial.TrialState
        if score is None:
            self.study.tell(trial, state=states.FAIL)
        elif pruned:
            self.study.tell(trial, state=states.PRUNED)
        else:
            self.study.tell(trial, score)

    def results(self) -> list[dict[str, Any]]:
        """Return the trials for a table or JSON, the best first: number, state, score, folder, settings."""
        rows = [
            {
                "trial": trial.number,
                "state": "stopped early" if trial.state.name == "PRUNED" else trial.state.name.lower(),
                "AP": trial.user_attrs.get("score"),
                "folder": str(self.out / trial.user_attrs["folder"]),
                "settings": trial.user_attrs.get("settings", {}),
            }
            for trial in self.study.get_trials(deepcopy=False)
            if "score" in trial.user_attrs
        ]
        return sorted(rows, key=lambda row: (row["state"] != "complete", -(row["AP"] or 0.0), row["trial"]))


def _multiple(side: float) -> int:
    return max(CANVAS_MULTIPLE, round(side / CANVAS_MULTIPLE) * CANVAS_MULTIPLE)
