"""Minimum scores, classes, limits and NMS of predictions: from the options, from the model, from a graph's settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.config import Experiment, PostprocessConfig
from sais.errors import CheckpointError, ConfigError
from sais.inference.backends.exported import ExportedBackend
from sais.inference.metadata import GraphMetadata, metadata_from_text
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.inference.score_thresholds import ScoreThresholds, override_settings, thresholds_from_dict
from sais.results.detections import Detections
from sais.structures import Instances

THRESHOLDS = ScoreThresholds(0.42, 0.9, "valid", "masks", {"cat": 0.6})
IMAGE = np.zeros((64, 96, 3), np.uint8)


class FixedBackend:
    """A backend that returns the same detections of cats and dogs for every canvas, whatever the settings."""

    fixed_canvas: tuple[int, int] | None = None
    mask_stride = 4
    class_names, category_ids = ("cat", "dog"), (3, 7)

    def __init__(self, scores: Sequence[float], labels: Sequence[int], thresholds: ScoreThresholds | None) -> None:
        self.experiment = Experiment(postprocess=PostprocessConfig(max_detections=max(4, len(scores))))
        self.scores, self.labels, self.thresholds = scores, labels, thresholds
        self.settings: list[PostprocessConfig] = []
        self.chosen: list[Any] = []

    def run(
        self,
        canvases: Any,
        content_sizes: Sequence[tuple[float, float]],
        settings: PostprocessConfig | None = None,
        labels: Sequence[int] | None = None,
    ) -> Instances:
        assert settings is not None
        self.settings.append(settings)
        self.chosen.append(labels)
        count, batch = len(self.scores), len(canvases)
        lefts = 100 * np.arange(count, dtype=np.float32)
        boxes = np.stack([lefts, lefts * 0, lefts + 50, lefts * 0 + 40], 1)
        rows = (boxes, np.array(self.scores, np.float32), np.array(self.labels))
        return Instances(*(np.repeat(row[None], batch, 0) for row in rows), None, None)


def predict(
    scores: Sequence[float], labels: Sequence[int], thresholds: ScoreThresholds | None = THRESHOLDS, **options: Any
) -> tuple[Predictor, Detections]:
    predictor = Predictor(FixedBackend(scores, labels, thresholds), **options)
    return predictor, predictor(IMAGE)


SCORES, LABELS = (0.9, 0.5, 0.45, 0.3, 0.1), (1, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("options", "expected", "text"),
    [
        ({}, (0.9, 0.5, 0.45), "score >= 0.42: best F1 of masks on valid, stored in the model"),
        ({"score": "per-class"}, (0.9, 0.45), "score >= 0.42 to 0.6 by class: best F1 of masks on valid, stored in"),
        ({"score": 0.2}, (0.9, 0.5, 0.45, 0.3), "score >= 0.2: as given"),
        ({"score": None}, SCORES, "every score: all above the class threshold of the model"),
        ({"class_scores": {"cat": 0.25}}, (0.9, 0.5, 0.45, 0.3), "score >= 0.25 to 0.42 by class"),
        ({"score": None, "class_scores": ("dog=0.46",)}, (0.9, 0.5, 0.3), "score >= 0 to 0.46 by class"),
        ({"classes": ["cat"], "score": 0.2}, (0.5, 0.3), "score >= 0.2: as given"),
        ({"max_detections": 2}, (0.9, 0.5), "score >= 0.42"),
    ],
)
def test_predictor_applies_the_minimum_score(options: dict[str, Any], expected: tuple[float, ...], text: str) -> None:
    predictor, detections = predict(SCORES, LABELS, **options)
    np.testing.assert_array_equal(detections.scores, np.array(expected, np.float32))
    assert str(predictor.filter).startswith(text)


def test_predictor_without_stored_thresholds_uses_0_3() -> None:
    predictor, detections = predict((0.9, 0.3, 0.29), (0, 0, 0), None)
    np.testing.assert_array_equal(detections.scores, np.array([0.9, 0.3], np.float32))
    assert str(predictor.filter) == "score >= 0.3: default, no threshold is stored in the model"


def test_summary_counts_the_detections_just_below_the_minimum_score() -> None:
    _, detections = predict((0.4, 0.3, 0.22, 0.2), (0, 1, 0, 0))
    assert detections.summary() == "nothing at score >= 0.42; 3 detections between 0.21 and 0.42"
    assert predict((0.41,), (0,))[1].summary() == "nothing at score >= 0.42; 1 detection between 0.21 and 0.42"
    assert predict((0.1,), (0,))[1].summary() == "nothing at score >= 0.42"
    assert predict((0.4,), (0,), classes=["dog"])[1].summary() == "nothing at score >= 0.42"
    assert predict((), (), score=None)[1].summary() == "nothing"
    assert Detections((4, 4), np.zeros((0, 4)), np.zeros(0), np.zeros(0), ("cat",)).summary() == "nothing"


def test_summary_reports_the_limit_of_detections() -> None:
    assert predict(SCORES, LABELS, max_detections=3)[1].summary().endswith("; the limit of 3 detections is reached")
    assert predict(SCORES, LABELS, max_detections=4)[1].summary() == "2 dog, 1 cat"
    tiled = Predictor(FixedBackend(SCORES, LABELS, THRESHOLDS), max_detections=3, tiles=64)(IMAGE)
    assert tiled.omitted is not None
    assert tiled.omitted.limit == 3


def test_backend_receives_the_settings_of_the_options() -> None:
    predictor, _ = predict(SCORES, LABELS, max_detections=1500, nms_iou=0.7, score=0.2, classes=["dog"])
    backend = predictor.backend
    assert isinstance(backend, FixedBackend)
    (settings,) = backend.settings
    assert (settings.max_detections, settings.nms_iou) == (1500, 0.7)
    assert settings.score_threshold == pytest.approx(0.1)
    assert settings.pre_nms_topk == 1000 * 1500 // 5
    assert backend.chosen == [[1]]
    assert backend.experiment.postprocess.nms_iou == 0.5  # the model itself does not change
    default = PostprocessConfig()
    assert override_settings(default, InferenceOptions()) is default
    assert override_settings(default, InferenceOptions(max_detections=10)).pre_nms_topk == 1000


def test_scores_of_classes_alone_keep_the_class_threshold_of_the_model() -> None:
    predictor, _ = predict(SCORES, LABELS, score=None, class_scores={"cat": 0.6})
    assert isinstance(predictor.backend, FixedBackend)
    assert predictor.backend.settings[0].score_threshold == PostprocessConfig().score_threshold
    predictor, _ = predict(SCORES, LABELS, score=0.2, class_scores={"cat": 0.6})
    assert isinstance(predictor.backend, FixedBackend)
    assert predictor.backend.settings[0].score_threshold == pytest.approx(0.1)


def test_evaluations_ignore_the_stored_threshold_only() -> None:
    predictor, _ = predict(SCORES, LABELS)
    assert len(predictor.for_evaluation()(IMAGE)) == len(SCORES)
    given, _ = predict(SCORES, LABELS, score=0.4)
    assert given.for_evaluation() is given


def test_class_agnostic_drops_overlaps_of_different_classes() -> None:
    class Overlapping(FixedBackend):
        def run(self, *arguments: Any) -> Instances:
            instances = super().run(*arguments)
            instances.boxes[:, 1] = instances.boxes[:, 0] + 3
            return instances

    backend = Overlapping((0.9, 0.8, 0.7), (0, 1, 1), None)
    assert len(Predictor(backend)(IMAGE)) == 3
    agnostic = Predictor(backend, class_agnostic=True)(IMAGE)
    np.testing.assert_array_equal(agnostic.scores, np.array([0.9, 0.7], np.float32))
    tiled = Predictor(backend, class_agnostic=True, tiles=64)(IMAGE)
    assert 0 < len(tiled) < len(Predictor(backend, tiles=64)(IMAGE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "best"}, "score: 'best' is neither"),
        ({"classes": "cat"}, "classes: 'cat' is a text"),
        ({"classes": ["cart"]}, "classes: the model has no class 'cart', did you mean 'cat'"),
        ({"class_scores": ("cat:0.3",)}, "class_scores: 'cat:0.3' is not of the form"),
        ({"class_scores": {"cow": 0.3}}, "class_scores: the model has no class 'cow'"),
        ({"nms_iou": 1.5}, "nms_iou: 1.5 is not between"),
        ({"max_detections": 0}, "max_detections: 0 is not between 1 and"),
    ],
)
def test_predictor_rejects_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(SCORES, LABELS, **options)


class GraphSession:
    """A session of a graph with NMS inside that returns at most four detections."""

    def __init__(self, metadata: GraphMetadata) -> None:
        self.metadata = metadata

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        boxes = np.array([[[0, 0, 9, 9], [20, 0, 30, 9], [40, 0, 50, 9], [0, 0, 0, 0]]], np.float32)
        scores = np.array([[0.9, 0.5, 0.3, 0]], np.float32)
        prototypes = self.metadata.experiment.model.prototypes
        return {
            "boxes": boxes,
            "scores": scores,
            "labels": np.array([[0, 1, 0, 0]]),
            "coefficients": np.zeros((1, 4, prototypes), np.float32),
            "prototypes": np.zeros(
                (1, prototypes, inputs["images"].shape[2] // 4, inputs["images"].shape[3] // 4), np.float32
            ),
        }


def test_graph_with_nms_is_filtered_and_rejects_what_it_cannot_change() -> None:
    settings = PostprocessConfig(max_detections=4)
    written = GraphMetadata("detections", Experiment(postprocess=settings), ("cat", "dog"), (3, 7))
    written = metadata_from_text(GraphMetadata(**vars(written) | {"thresholds": THRESHOLDS}).to_text(), "m.onnx")
    assert written.thresholds == THRESHOLDS
    backend = ExportedBackend(GraphSession(written), Path("m.onnx"))
    image = np.zeros((768, 768, 3), np.uint8)

    def scores(**options: Any) -> list[float]:
        return [round(float(score), 3) for score in Predictor(backend, **options)(image).scores]

    assert scores() == [0.9, 0.5]
    assert scores(score=None, max_detections=2) == [0.9, 0.5]
    assert scores(score=None, classes=["cat"], max_detections=1) == [0.9]
    assert scores(nms_iou=0.5, max_detections=4) == [0.9, 0.5]
    for options in ({"nms_iou": 0.6}, {"max_detections": 5}):
        with pytest.raises(ConfigError, match="m.onnx .* Export the graph 'raw'"):
            scores(**options)


def test_thresholds_from_dict_reads_what_was_written() -> None:
    assert thresholds_from_dict(THRESHOLDS.to_dict(), "a") == THRESHOLDS
    assert thresholds_from_dict(None, "a") is None
    for damaged in ({}, {"overall": "x"}, THRESHOLDS.to_dict() | {"per_class": [1]}):
        with pytest.raises(CheckpointError, match="a: damaged score thresholds"):
            thresholds_from_dict(damaged, "a")
    old = GraphMetadata("raw", Experiment(), ("cat",), (1,)).to_text()
    del old["thresholds"]
    assert metadata_from_text(old, "old.onnx").thresholds is None
