"""`sais compare`: how the time of two models is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from sais import cli
from sais.commands.compared_models import Candidate, time_candidates
from sais.data.annotations import ImageRecord
from sais.errors import InputError


def records(events: list[str], broken: tuple[int, ...] = ()) -> list[ImageRecord]:
    """Return ten images that note when they are read; some cannot be."""

    def source(number: int) -> Callable[[], Any]:
        def read() -> np.ndarray:
            events.append("read")
            if number in broken:
                raise InputError(f"{number}: broken. Replace it.")
            return np.zeros((4, 4, 3), np.uint8)

        return read

    return [ImageRecord(i, source(i), (4, 4)) for i in range(10)]


def candidate(events: list[str], name: str) -> Candidate:
    """Return a model that notes when it predicts."""
    return Candidate(Path(name), cast("Any", lambda image: events.append(name)))


def test_times_are_of_the_models_in_turns_and_hold_one_image_at_a_time() -> None:
    events: list[str] = []
    models = [candidate(events, "A"), Candidate(Path("results.json")), candidate(events, "B")]
    time_candidates(models, records(events, broken=(3,)), 5)  # images 0, 2, 4, 6 and 8
    warm_up, timed = ["read", *"ABAB"], ["read", *"AB"]
    assert events == [*warm_up, *warm_up, *timed, *timed, *timed]
    assert [model.seconds is not None for model in models] == [True, False, True]


def test_images_are_not_read_without_a_model_or_without_times() -> None:
    events: list[str] = []
    time_candidates([Candidate(Path("a.json")), Candidate(Path("b.json"))], records(events), 5)
    time_candidates([candidate(events, "A")], records(events), 0)
    assert not events
    unread = candidate(events, "A")
    time_candidates([unread], records(events, broken=tuple(range(10))), 3)
    assert events == ["read"] * 3
    assert unread.seconds is None


def test_a_negative_number_of_timed_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "a.json", "b.json", "--data", "d", "--timing-images", "-1"]) == 2
    assert "--timing-images" in capsys.readouterr().err
