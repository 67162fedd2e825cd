"""A served model: its predictor, the thread that predicts, and the limit of images that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sais.errors import ConfigError
from sais.inference.predictor import Predictor
from sais.ops.letterbox import group_by_canvas
from sais.serving.batcher import Batcher, Job, Observe
from sais.serving.limits import Admission
from sais.serving.options import ServingOptions
from sais.serving.request_error import RequestError


class ServedModel:
    """A model of the service.

    Args:
        name: name by which requests choose the model.
        predictor: predictor with the default options of requests.
        options: settings of the service.
        observe: function called with the jobs of each batch after it.
    """

    def __init__(
        self, name: str, predictor: Predictor, options: ServingOptions, observe: Observe = lambda jobs: None
    ) -> None:
        self.name = name
        self.predictor = predictor
        self.options = options
        self.admission = Admission(options.queue)
        self._observe = observe
        self.batcher = Batcher(name, self.warm_up, options.max_batch, options.max_delay_ms / 1000, self._observe_batch)

    def warm_up(self) -> None:
        """Predict on gray images with the smallest and the largest batch: the first passes are slow."""
        height, width = self.predictor.experiment.input.size
        image = np.full((height, width, 3), 114, np.uint8)
        for count in sorted({1, self.options.max_batch}):
            self.predictor.batch([image] * count)

    def with_options(self, score: float | None, classes: Sequence[str], **changes: Any) -> Predictor:
        """Return a predictor with the options of a request; it shares the network.

        Args:
            score: minimum score; None for the default of the service.
            classes: names of the classes to detect; empty for the default of the service.
            changes: further inference options; None for the default of the service.

        Raises:
            RequestError: 422, the model does not support an option.
        """
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        if score is not None:
            given |= {"score": score, "class_scores": ()}
        if classes:
            unknown = [name for name in classes if name not in self.predictor.class_names]
            if unknown:
                message = f"classes: the model has no class {unknown[0]!r:.120}. GET /v1/models lists its classes."
                raise RequestError(422, "unknown_class", message)
            given["classes"] = tuple(sorted(set(classes)))
        if not given:
            return self.predictor
        try:
            return Predictor(self.predictor.backend, replace(self.predictor.options, **given))
        except ConfigError as error:  # its message may contain the path of the model
            name = str(error).partition(":")[0]
            name = {"tiles": "tile"}.get(name, name) if name in given else "an option"
            message = f"{name}: this model does not support the value. Leave it out, or give a smaller one."
            raise RequestError(422, "unsupported_option", message) from error

    def check_tiles(self, predictor: Predictor, image_size: tuple[int, int]) -> None:
        """Raise RequestError (422) for an image (H, W) with more tiles than allowed."""
        count = predictor.num_tiles(image_size)
        if count > self.options.max_tiles:
            message = f"tile: the image has {count} tiles, above the limit of {self.options.max_tiles}. Enlarge them."
            raise RequestError(422, "too_many_tiles", message)

    @property
    def summary(self) -> dict[str, Any]:
        """The entry of the model in the list of models."""
        settings = self.predictor.experiment.input
        size = self.predictor.backend.fixed_canvas or (settings.size if settings.mode == "fixed" else None)
        return {
            "name": self.name,
            "classes": list(self.predictor.class_names),
            "input_size": None if size is None else list(size),
            "score": round(self.predictor.filter.score, 6),
        }

    def _observe_batch(self, jobs: list[Job]) -> None:
        self.admission.observe(len(jobs), jobs[0].finished - jobs[0].started)
        self._observe(jobs)


def prepare_job(predictor: Predictor, image: np.ndarray) -> Job:
    """Return the job of an image (H, W, 3) uint8; it holds only the canvas if that is enough for its prediction."""
    if not predictor.options.single_pass:
        return Job(predictor, image=image)
    settings = predictor.experiment.input
    [(_, canvas_maps, canvases)] = group_by_canvas([image], settings.mode, settings.size)
    return Job(predictor, canvas=(canvas_maps[0], canvases[0]))
