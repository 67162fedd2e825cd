"""Dynamic batching: which images are predicted together, what is dropped, and limits of what waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from sais.inference.predictor import Predictor
from sais.results.detections import Detections
from sais.serving.batcher import Batcher, Job
from sais.serving.limits import Admission, MemoryBudget, RefusalPace, overloaded
from sais.serving.models import prepare_job
from sais.serving.request_error import RequestError
from tests.serving.pixel_model import Running, encoded, noise, pixel_predictor, serving

WAIT = 30


def content(detections: Detections) -> tuple[Any, ...]:
    masks = [(mask.x, mask.y, mask.bits.tobytes()) for mask in detections.cropped_masks]
    return detections.boxes.tobytes(), detections.scores.tobytes(), detections.labels.tobytes(), *masks


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def predictor(gate: threading.Event) -> Predictor:
    return pixel_predictor(gate)


@pytest.fixture
def batcher(gate: threading.Event) -> Iterator[Batcher]:
    batcher = Batcher("test", lambda: None, max_batch=4, max_delay=WAIT)
    batcher.start()
    yield batcher
    gate.set()
    batcher.close()


def submit(batcher: Batcher, predictor: Predictor, *seeds: int) -> list[Job]:
    jobs = [prepare_job(predictor, noise(seed)) for seed in seeds]
    for job in jobs:
        with batcher.expect() as enqueue:
            enqueue(job)
    return jobs


def occupy(batcher: Batcher, predictor: Any) -> Job:
    """Let the thread predict an image until the gate opens."""
    [job] = submit(batcher, predictor, 100)
    assert predictor.backend.entered.acquire(timeout=WAIT)
    return job


def test_images_that_wait_are_predicted_together_as_alone(
    batcher: Batcher, predictor: Any, gate: threading.Event
) -> None:
    occupy(batcher, predictor)
    jobs = submit(batcher, predictor, *range(6))
    gate.set()
    results = [content(job.future.result(WAIT)) for job in jobs]
    assert predictor.backend.batches == [1, 4, 2]
    assert results == [content(predictor(noise(seed))) for seed in range(6)]
    assert len(set(results)) == 6


def test_images_with_other_options_or_canvases_are_predicted_apart(
    batcher: Batcher, predictor: Any, gate: threading.Event
) -> None:
    occupy(batcher, predictor)
    other = Predictor(predictor.backend, predictor.options, score=0.45)
    jobs = [*submit(batcher, predictor, 0), *submit(batcher, other, 1), *submit(batcher, predictor, 2)]
    tiled = Predictor(predictor.backend, predictor.options, tiles=32)
    jobs += [*submit(batcher, tiled, 3), *submit(batcher, tiled, 4)]
    gate.set()
    expected = [predictor, other, predictor, tiled, tiled]
    for seed, (job, single) in enumerate(zip(jobs, expected, strict=True)):
        assert content(job.future.result(WAIT)) == content(single(noise(seed)))
    assert predictor.backend.batches[:3] == [1, 2, 1]


def test_a_canceled_image_is_not_predicted(batcher: Batcher, predictor: Any, gate: threading.Event) -> None:
    occupy(batcher, predictor)
    jobs = submit(batcher, predictor, 0, 1, 2)
    jobs[1].cancel()
    gate.set()
    assert jobs[2].future.result(WAIT) is not None
    assert jobs[1].future.cancelled()
    assert predictor.backend.batches == [1, 2]


def test_canceled_images_are_released_and_fill_no_batch(
    batcher: Batcher, predictor: Any, gate: threading.Event
) -> None:
    occupy(batcher, predictor)
    jobs = submit(batcher, predictor, *range(8))
    for job in jobs[1::2]:
        job.cancel()
    assert all(job.canvas is None for job in jobs[1::2])  # while the thread is busy
    gate.set()
    assert all(len(job.future.result(WAIT)) == 2 for job in jobs[::2])
    assert predictor.backend.batches == [1, 4]


def test_metrics_that_fail_do_not_end_the_thread(predictor: Any, gate: threading.Event) -> None:
    def observe(jobs: list[Job]) -> None:
        raise OSError("no space left on device")

    gate.set()
    batcher = Batcher("test", lambda: None, observe=observe)
    batcher.start()
    try:
        for seed in range(3):
            [job] = submit(batcher, predictor, seed)
            assert len(job.future.result(WAIT)) == 2
    finally:
        batcher.close()


def test_refused_clients_do_not_return_together() -> None:
    waits = {int(overloaded(8).headers["Retry-After"]) for _ in range(200)}
    assert waits <= set(range(8, 17))
    assert len(waits) > 3


def test_refusals_beyond_their_rate_are_held_back() -> None:
    pace = RefusalPace(rate=10, longest=0.5)
    delays = [pace.delay() for _ in range(20)]
    assert delays[0] == 0
    assert 0 < delays[1] <= 0.1 < delays[2] <= 0.2
    assert max(delays) == delays[-1] == 0.5


def test_an_image_that_fails_does_not_fail_those_of_its_batch(
    batcher: Batcher, predictor: Any, gate: threading.Event
) -> None:
    bad = prepare_job(predictor, np.zeros((48, 80, 3), np.uint8))
    predictor.backend.failure = lambda canvases: None if canvases.any((1, 2, 3)).all() else RuntimeError("black")
    occupy(batcher, predictor)
    jobs = submit(batcher, predictor, 0, 1)
    with batcher.expect() as enqueue:
        enqueue(bad)
    gate.set()
    assert [len(job.future.result(WAIT)) for job in jobs] == [2, 2]
    with pytest.raises(RuntimeError, match="black"):
        bad.future.result(WAIT)


def test_an_image_waits_only_for_images_on_their_way(batcher: Batcher, predictor: Any, gate: threading.Event) -> None:
    gate.set()
    [alone] = submit(batcher, predictor, 0)
    assert alone.future.result(WAIT / 2) is not None  # does not wait for max_delay
    with batcher.expect() as enqueue:  # another image is being decoded
        [first] = submit(batcher, predictor, 1)
        enqueue(prepare_job(predictor, noise(2)))
    assert first.future.result(WAIT / 2) is not None
    assert predictor.backend.batches == [1, 2]
    with ExitStack() as stack:
        stack.enter_context(batcher.expect())  # its decoding fails
        [last] = submit(batcher, predictor, 3)
    assert last.future.result(WAIT / 2) is not None


def test_close_finishes_what_waits_and_refuses_the_rest(
    batcher: Batcher, predictor: Any, gate: threading.Event
) -> None:
    occupy(batcher, predictor)
    jobs = submit(batcher, predictor, 0, 1)
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(batcher.close)
        gate.set()
        closed.result(WAIT)
    assert [len(job.future.result(0)) for job in jobs] == [2, 2]
    assert submit(batcher, predictor, 2)[0].future.cancelled()


def test_tiles_of_a_canceled_image_are_not_predicted_further(gate: threading.Event) -> None:
    predictor: Any = pixel_predictor(gate, tiles=32, batch_size=1)
    batcher = Batcher("test", lambda: None)
    batcher.start()
    job = occupy(batcher, predictor)
    job.cancel()
    gate.set()
    batcher.close()
    assert len(predictor.backend.batches) == 1 < predictor.num_tiles((48, 80))


def test_admission_and_memory_refuse_what_is_too_much() -> None:
    admission = Admission(3)
    with admission.admit(2):
        with pytest.raises(RequestError) as error:
            admission.admit(2).__enter__()
        assert error.value.status == 503
        assert error.value.headers["Retry-After"] in ("1", "2")  # by chance
        with admission.admit(1), pytest.raises(RequestError):
            admission.check()
    admission.check()
    with pytest.raises(RequestError) as error:
        admission.admit(4).__enter__()
    assert error.value.status == 422
    budget = MemoryBudget(100)
    with budget.account() as first, budget.account() as second:
        first.change(90)
        first.change(90)  # alone, a request may exceed the limit
        with pytest.raises(RequestError):
            second.change(1)
    assert budget.used == 0


def post_in_threads(server: Running, count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda seed: server.post(encoded(noise(seed))), range(count)))


def test_beyond_the_queue_requests_get_503_with_retry_after() -> None:
    gate = threading.Event()
    gate.set()
    predictor: Any = pixel_predictor(gate)
    with serving({"pixels": predictor}, queue=2) as server, ThreadPoolExecutor(2) as pool:
        gate.clear()
        waiting = [pool.submit(server.post, encoded(noise(seed))) for seed in range(2)]
        count = 0
        while count < 2:  # until both are accepted
            lines = server.client.get("/metrics").text.splitlines()
            count = next(float(line.split()[1]) for line in lines if line.startswith("sais_images_admitted{"))
        refused = server.post(encoded(noise(3)))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        gate.set()
        assert [future.result(WAIT).status_code for future in waiting] == [200, 200]
        assert server.post(encoded(noise(3))).status_code == 200


def test_requests_of_many_clients_get_the_answers_of_one() -> None:
    models = {"first": pixel_predictor(), "second": pixel_predictor(score=0.45)}
    with serving(models, max_delay_ms=50) as server, ThreadPoolExecutor(12) as pool:

        def post(seed: int) -> Any:
            response = server.post(encoded(noise(seed)), model=("first", "second")[seed % 2])
            return response.json()["images"]

        single = [post(seed) for seed in range(24)]
        assert list(pool.map(post, range(24))) == single
        assert max(server.backend.batches) > 1


def test_a_prediction_that_takes_too_long_gets_503() -> None:
    gate = threading.Event()
    gate.set()
    with serving({"pixels": pixel_predictor(gate)}, timeout=0.2) as server:
        gate.clear()
        response = server.post(encoded(noise(1)))
        assert (response.status_code, response.json()["error"]["code"]) == (503, "timeout")
        gate.set()
        assert server.post(encoded(noise(1))).status_code == 200


def test_a_service_whose_model_fails_is_never_ready(capfd: pytest.CaptureFixture[str]) -> None:
    predictor: Any = pixel_predictor()
    predictor.backend.failure = lambda canvases: RuntimeError("no device")
    with serving({"pixels": predictor}) as server:
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").status_code == 503
        assert server.post(encoded(noise(1))).json()["error"]["code"] == "not_ready"
    assert "no device" in capfd.readouterr().err  # the operator reads it


def test_a_service_is_ready_when_its_model_is_warm() -> None:
    gate = threading.Event()
    with serving({"pixels": pixel_predictor(gate)}, ready=False) as server:
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").json()["error"]["code"] == "not_ready"
        response = server.post(encoded(noise(1)))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        gate.set()
        while server.client.get("/readyz").status_code != 200:
            pass
        assert server.post(encoded(noise(1))).status_code == 200
