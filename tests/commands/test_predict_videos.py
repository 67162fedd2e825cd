"""`sais predict` on videos, webcams and frames in a folder: tracks, counts, sound, Ctrl-C, what is overwritten."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais import cli
from sais.io.image_writer import write_image
from sais.io.images import read_image
from sais.results.detections import Detections
from tests.io.test_live_video import FakeCamera
from tests.io.test_sound import write_film

av = pytest.importorskip("av")
pytest.importorskip("torch")
pytest.importorskip("scipy", reason="the extra track")

CLASSES = ("ring", "star", "triangle", "crescent", "cross")


def predict(capsys: pytest.CaptureFixture[str], trained: Path, *words: object, code: int = 0) -> tuple[str, str]:
    """Run `sais predict` and return what it printed on stdout and stderr."""
    argv = ["predict", str(trained), *map(str, words), "--device", "cpu"]
    assert cli.main(argv) == code, capsys.readouterr().err
    printed = capsys.readouterr()
    return printed.out, printed.err


@pytest.fixture
def walkers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every predictor find two squares: one that walks right by 8 pixels a frame, one that stays."""
    frame = iter(range(10_000))

    def batch(self: Any, images: list[np.ndarray], progress: Any = None) -> list[Detections]:
        results = []
        for image in images:
            x = 4 + 8 * (next(frame) % 30)
            boxes = np.array([[x, 20, x + 12, 32], [30, 50, 42, 62]], np.float64)
            boxes = boxes[: 1 + (x < 300)]
            results.append(Detections(image.shape[:2], boxes, np.array([0.9, 0.8]), np.array([1, 0]), CLASSES))
        return results

    monkeypatch.setattr("sais.inference.predictor.Predictor.batch", batch)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tracks_of_a_video_are_written_and_counted(
    trained: Path, tmp_path: Path, walkers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from sais.io.video import VideoWriter, read_video

    with VideoWriter(tmp_path / "walk.mp4", 10) as writer:
        for _ in range(30):
            writer.write(np.full((96, 256, 3), 90, np.uint8))
    out = tmp_path / "out"
    places = [
        "--line",
        "gate=100,0,100,96",
        "--line",
        "120,96,120,0",
        "--zone",
        "room=60,0",
        "200,0",
        "200,96",
        "60,96",
    ]
    text, _ = predict(capsys, trained, tmp_path / "walk.mp4", "--out", out, "--track", *places, "--batch-size", 4)
    tracks = json.loads((out / "tracks.json").read_text())
    assert [(v["name"], v["length"], v["width"], v["height"]) for v in tracks["videos"]] == [("walk.mp4", 30, 256, 96)]
    assert [(t["id"], t["category_id"], t["first_frame"], t["last_frame"], t["frames"]) for t in tracks["tracks"]] == [
        (1, 2, 0, 29, 30),
        (2, 1, 0, 29, 30),
    ]
    predictions = json.loads((out / "predictions.json").read_text())
    assert predictions["annotations"] == tracks["annotations"]
    assert Counter(annotation["track_id"] for annotation in tracks["annotations"]) == {1: 30, 2: 30}
    assert {image["video_id"] for image in predictions["images"]} == {1}
    rows = rows_of(out / "tracks.csv")
    assert len(rows) == 60
    assert rows[0] | {"score": "", "area": ""} == {
        "video": "walk.mp4",
        "frame": "0",
        "seconds": "0.000",
        "track": "1",
        "class": "star",
        "score": "",
        "area": "",
        "x": "4.00",
        "y": "20.00",
        "width": "12.00",
        "height": "12.00",
    }
    counts = {(row["place"], row["class"]): row for row in rows_of(out / "counts.csv")}
    assert [counts["gate", "star"][key] for key in ("in", "out", "inside")] == ["0", "1", ""]
    assert [counts["line 2", "star"][key] for key in ("in", "out")] == ["1", "0"]
    assert [counts["room", "all"][key] for key in ("in", "out", "inside", "visitors")] == ["1", "1", "0", "1"]
    assert ("gate", "ring") not in counts
    assert [(c["place"], c["direction"], c["track_id"]) for c in tracks["crossings"]] == [
        ("room", "in", 1),
        ("gate", "out", 1),
        ("line 2", "in", 1),
        ("room", "out", 1),
    ]
    assert "2 tracks in" in text
    assert "gate: 0 in, 1 out" in text
    assert "30 frames in" in text
    assert set(predictions["info"]["drawings"]) == {"walk.mp4", "tracks.json", "tracks.csv", "counts.csv"}
    frames = [image for _, _, image in read_video(out / "walk.mp4")]
    assert len(frames) == 30
    trail = frames[20][26, 60:150].astype(int) - 90  # behind the walking square
    assert (np.abs(trail).max(-1) > 60).mean() > 0.5
    # A second prediction without tracks removes the files of the first.
    predict(capsys, trained, tmp_path / "walk.mp4", "--out", out, "--max-frames", 3)
    assert sorted(path.name for path in out.iterdir()) == ["predictions.json", "walk.mp4"]
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 3


def test_folder_of_frames_is_tracked_as_a_video(
    trained: Path, shapes: Path, tmp_path: Path, walkers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    image = read_image(shapes / "images/valid/valid_00000.jpg")
    for i in range(12):
        write_image(tmp_path / f"walk/{i}.png", image)
    (tmp_path / "walk/5.png").write_bytes(b"broken")
    out = tmp_path / "out"
    text, _ = predict(capsys, trained, tmp_path / "walk", "--out", out, "--track", "--frame-rate", 5)
    content = json.loads((out / "predictions.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == [f"{i}.png" for i in range(12) if i != 5]
    assert content["images"][-1]["seconds"] == 2.2
    assert {annotation["track_id"] for annotation in content["annotations"]} == {1, 2}
    assert "skipped 1 unreadable images" in text
    assert (out / "walk.mp4").is_file()


def test_webcam_is_predicted_until_the_limit(
    trained: Path, tmp_path: Path, walkers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(av, "open", FakeCamera(1000, width=128).open)
    out = tmp_path / "out"
    text, _ = predict(capsys, trained, 0, "--out", out, "--track", "--max-frames", 4, "--no-draw")
    content = json.loads((out / "predictions.json").read_text())
    assert re.fullmatch(r"webcam_0_frame_\d{6}\.jpg", content["images"][0]["file_name"])  # earlier ones were dropped
    assert len(content["images"]) == 4
    assert content["info"]["complete"] is True
    assert "webcam 0: 4 frames in" in text


@pytest.mark.parametrize("is_live", [False, True])
def test_ctrl_c_finishes_the_files(
    is_live: bool,
    trained: Path,
    tmp_path: Path,
    walkers: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A camera ends by Ctrl-C, a file is interrupted by it; both leave videos that can be played."""
    from sais.io import frame_source
    from sais.io.frame_source import Frame, FrameSource
    from sais.io.video import read_video

    def read() -> Iterator[Frame]:
        for i in range(5):
            yield Frame(i, i / 10, np.zeros((64, 64, 3), np.uint8))
        raise KeyboardInterrupt

    source = FrameSource("camera", "camera.mp4", 10, 0, read, is_live)
    monkeypatch.setattr(frame_source, "live_source", lambda *words: source)
    out = tmp_path / "out"
    predict(capsys, trained, 0, "--out", out, "--track", "--batch-size", 1, code=0 if is_live else 130)
    content = json.loads((out / "predictions.json").read_text())
    assert content["info"]["complete"] is is_live
    assert json.loads((out / "tracks.json").read_text())["info"]["complete"] is is_live
    count = len(content["images"])
    assert count == 5 or is_live
    assert len(list(read_video(out / "webcam_0.mp4"))) == count >= 1
    assert len(rows_of(out / "tracks.csv")) == 2 * count


def test_a_truncated_video_leaves_the_files_of_its_frames(
    trained: Path, tmp_path: Path, walkers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The drawn video of the frames before the defect was deleted with the error."""
    from sais.io.video import VideoWriter, read_video

    film, out = tmp_path / "film.mp4", tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    with VideoWriter(film) as writer:
        for shift in range(20):
            writer.write(np.roll(noise, shift, axis=1))
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 3 // 4])
    _, error = predict(capsys, trained, film, "--out", out, "--track", "--batch-size", 1, code=2)
    assert "film.mp4: " in error
    content = json.loads((out / "predictions.json").read_text())
    count = len(content["images"])
    assert content["info"]["complete"] is False
    assert 1 < count < 20
    assert len(list(read_video(out / "film.mp4"))) == count
    assert len(rows_of(out / "tracks.csv")) == 2 * count


def test_sound_of_a_video_is_kept(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = write_film(tmp_path / "film.mp4", "aac", 0.5, (0, 0.5))
    predict(capsys, trained, film, "--out", tmp_path / "out")
    with av.open(str(tmp_path / "out/film.mp4")) as container:
        assert container.streams.audio[0].codec.canonical_name == "aac"
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 44_100
    assert seconds == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--line 1,2,3,4", "--line and --zone have no effect without --track"),
        ("--track --line 1,2,3", "'1,2,3' is not 4 numbers. Give x1,y1,x2,y2"),
        ("--track --line a=1,2,1,2", "line a: its two points are the same"),
        ("--track --zone 1,2 3,4", "2 corners"),
        ("--track --zone 1,2 3,4 5,x", "'5,x' is not 2 numbers"),
        ("--track --line a=1,2,3,4 --zone a=1,2 3,4 5,9", "two have the same name"),
    ],
)
def test_impossible_lines_and_zones_are_errors(
    words: str, message: str, trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shapes / "images/valid"
    _, text = predict(capsys, trained, source, "--out", tmp_path / "out", *words.split(), code=2)
    assert message in text
    assert not (tmp_path / "out").exists()


def test_tables_of_others_are_not_overwritten(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tracks.csv", "tracks.json"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
        _, text = predict(capsys, trained, shapes / "images/valid", "--out", tmp_path / "out", "--track", code=2)
        assert f"{name}: exists" in text
        assert (tmp_path / "out" / name).read_text() == "mine"
        (tmp_path / "out" / name).unlink()


def test_results_of_a_camera_are_not_held_in_memory(
    trained: Path, tmp_path: Path, walkers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are the same as those from memory; at any time, the tables have the frames so far."""
    from sais.commands import predict_videos
    from sais.io import growing_files

    lengths = []
    advance = predict_videos.Progress.advance

    def observe(self: Any, *words: Any) -> None:
        lengths.append([len(rows_of(tmp_path / "small" / name)) for name in ("tracks.csv", "objects.csv")])
        advance(self, *words)

    frames = tmp_path / "walk"
    for i in range(30):
        write_image(frames / f"{i}.png", np.zeros((64, 320, 3), np.uint8))
    words = [frames, "--track", "--csv", "--no-draw", "--line", "30,0,30,64", "--batch-size", 1]
    predict(capsys, trained, *words, "--out", tmp_path / "large")
    monkeypatch.setattr(growing_files, "MAX_BYTES", 500)
    monkeypatch.setattr(predict_videos.Progress, "advance", observe)
    predict(capsys, trained, *words, "--out", tmp_path / "small")
    assert lengths == [[2 * i, 2 * i] for i in range(1, 31)]
    names = sorted(path.name for path in (tmp_path / "large").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "small").iterdir())
    assert set(names) == {"predictions.json", "tracks.json", "tracks.csv", "counts.csv", "objects.csv"}
    for name in names:
        assert (tmp_path / "small" / name).read_text() == (tmp_path / "large" / name).read_text()


def test_tracks_that_left_memory_are_written_as_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sais.commands import track_files
    from sais.commands.prediction_file import PredictionFile
    from sais.io.frame_source import Frame, FrameSource

    def write(out: Path) -> dict[str, Any]:
        files = track_files.TrackFiles(out, False)
        out.mkdir()
        files.start_video(FrameSource("film", "film.mp4", 10, 0, lambda: iter(()), False), range(1, 6))
        for i in range(40):
            ids = np.array([1000, i + 1, i + 2])
            boxes = np.array([[5, 5, 9, 9]] * 3)
            found = Detections((20, 20), boxes, np.full(3, 0.5), np.array([0, 1, 2]), CLASSES, track_ids=ids)
            files.add(Frame(i, i / 10, np.zeros((20, 20, 3), np.uint8)), found)
        assert files.last_id == 1000
        assert len(files._tracks) == min(42, track_files.MAX_TRACKS)
        assert files.write(PredictionFile(CLASSES, range(1, 6)))[0].startswith("42 tracks")  # type: ignore[arg-type]
        content: dict[str, Any] = json.loads((out / "tracks.json").read_text())
        return content

    expected = write(tmp_path / "a")
    monkeypatch.setattr(track_files, "MAX_TRACKS", 5)
    found = write(tmp_path / "b")
    assert found | {"info": {}} == expected | {"info": {}}
    assert [track["frames"] for track in found["tracks"]] == [1, *[2] * 39, 1, 40]


def test_the_pixels_of_a_mask_are_counted_once_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were counted once for each pair of objects: 100 objects took 80 ms a frame."""
    from sais.commands import track_files
    from sais.io.frame_source import Frame, FrameSource
    from sais.results.cropped_mask import CroppedMask

    counted: list[int] = []
    monkeypatch.setattr(CroppedMask, "area", property(lambda mask: counted.append(1) or 7))
    files = track_files.TrackFiles(tmp_path, False)
    files.start_video(FrameSource("film", "film.mp4", 10, 0, lambda: iter(()), False), range(1, 6))
    masks = [CroppedMask(5, 5, np.ones((4, 4), bool))] * 6
    boxes, scores, labels = np.array([[5, 5, 9, 9]] * 6), np.full(6, 0.5), np.zeros(6, int)
    found = Detections((20, 20), boxes, scores, labels, CLASSES, masks, track_ids=np.arange(1, 7))
    files.add(Frame(0, 0.0, np.zeros((20, 20, 3), np.uint8)), found)
    assert len(counted) == 6
    rows = (tmp_path / track_files.TRACKS_CSV).read_text().splitlines()[1:]
    assert [row.rsplit(",", 1)[1] for row in rows] == ["7"] * 6
