"""Callbacks of a run: functions of the user's own that receive its events, in the process and in the order they happen.

A callback is a function of a `TrainingEvent`, called for every event, or an object with some of the methods of
`CallbackMethods`. If it returns True, the run is saved and ends after the current iteration, as with `max_iterations`.
An exception in a callback ends the run. Loggers (`sais.engine.logging.loggers`) in contrast are named in the settings,
and none of them can stop a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sais.errors import ConfigError

if TYPE_CHECKING:
    from sais.evaluation.evaluate import Evaluation

EventKind = Literal["step", "epoch", "evaluation", "end"]


@dataclass(frozen=True)
class TrainingEvent:
    """Something that happened in a run."""

    kind: EventKind
    """step: an optimizer step is done. epoch: all steps of an epoch are done and saved. evaluation: the validation
    split was evaluated. end: training is over and the model is written."""
    iteration: int
    """Number of completed iterations."""
    total: int
    """Number of iterations of the whole run."""
    epoch: int
    """Number of the epoch, from 1."""
    epochs: int
    """Number of epochs of the whole run."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers by name. step: loss/total and the other terms, gradient, lr, images_per_second. evaluation: box/AP,
    box/AP50, box/AP75, mask/AP, ..., as fractions of 1."""
    evaluation: Evaluation | None = None
    """Metrics and detections of an evaluation; None for the other events."""


class CallbackMethods(Protocol):
    """The methods of a callback object, all of them optional."""

    def on_step(self, event: TrainingEvent) -> bool | None:
        """Receive the losses of a step."""
        ...

    def on_epoch(self, event: TrainingEvent) -> bool | None:
        """Receive the end of an epoch, before its evaluation."""
        ...

    def on_evaluation(self, event: TrainingEvent) -> bool | None:
        """Receive the metrics of an evaluation."""
        ...

    def on_end(self, event: TrainingEvent) -> bool | None:
        """Receive the end of the run."""
        ...


Callback = Callable[[TrainingEvent], Any] | Any
"""A function of an event, or an object with some of `CallbackMethods`."""
METHODS = ("on_step", "on_epoch", "on_evaluation", "on_end")


class Callbacks:
    """All callbacks of a run.

    Args:
        callbacks: functions of a `TrainingEvent`, or objects with some of `CallbackMethods`.

    Raises:
        ConfigError: an object is neither.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        for callback in callbacks:
            if not callable(callback) and not any(hasattr(callback, name) for name in METHODS):
                raise ConfigError(
                    f"callbacks: {callback!r} is neither a function nor an object with {' or '.join(METHODS)}. Give a "
                    "function of a TrainingEvent."
                )
        self._callbacks = tuple(callbacks)

    def __len__(self) -> int:
        return len(self._callbacks)

    def call(self, event: TrainingEvent) -> bool:
        """Call every callback with an event, and return whether one of them ends the run."""
        answers = [self._call(callback, event) for callback in self._callbacks]
        return any(answers)

    def _call(self, callback: Callback, event: TrainingEvent) -> bool:
        if any(hasattr(callback, name) for name in METHODS):
            method = getattr(callback, f"on_{event.kind}", None)
            return method is not None and method(event) is True
        return callback(event) is True


def evaluation_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the main metrics by name, such as "mask/AP", without undefined ones.

    Args:
        metrics: dictionary of `Metrics.to_dict`.
    """
    return {
        f"{kind}/{name}": metrics[kind][name]
        for kind in ("box", "mask")
        if metrics.get(kind)
        for name in ("AP", "AP50", "AP75")
        if metrics[kind][name] is not None
    }
