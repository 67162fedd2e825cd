"""Images that end the process that decodes them: found one by one, listed as errors, and the others predicted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sais.errors import ResourceError
from sais.scaling import crash_check, shard_worker
from sais.scaling.crash_check import find_crashing
from sais.scaling.items import ImageItem
from tests.scaling.crashing import CRASH, let_processes_crash
from tests.scaling.test_run import Place, jpeg, place

__all__ = ["place"]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no signals of crashes")

DRIVER = """
import sys
from pathlib import Path
from sais.inference.predictor import Predictor
from sais.scaling import shard_worker
from sais.scaling.options import ManyOptions
from sais.scaling.run import predict_many
from tests.serving.pixel_model import PixelBackend
shard_worker._open = lambda path, options, threads: Predictor(PixelBackend(), options)
options = ManyOptions(engine="local", format="coco", shard_size=3)
predict_many(Path(sys.argv[1]), sys.argv[2], sys.argv[3], None, options)
"""


def test_crashed_command_continues_and_lists_the_image_that_crashes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    let_processes_crash(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(root), prepend=os.pathsep)
    (place.images / f"image_3-{CRASH}").write_bytes(jpeg(9))
    words = [sys.executable, "-c", DRIVER, str(place.model), str(place.images), str(place.output)]
    assert subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGABRT
    assert [path.name for path in place.files() if path.name.startswith("shard")] == ["shard-00000-of-00003.json"]
    lines: list[str] = []
    summary = place.predict(format="coco", report=lines.append)
    assert "shard 1: an earlier attempt ended without a result; its images were read one by one first" in lines
    assert f"{place.images / f'image_3-{CRASH}'}: unreadable (crash of the decoder)" in lines
    assert summary.errors == {"crash of the decoder": 1, "empty file": 1, "not an image": 1}
    assert (summary.before, summary.images, summary.manifest.complete) == (3, 5, True)
    assert [path.name for path in place.files()] == [f"shard-0000{i}-of-00003.json" for i in range(3)]
    table = (place.output / "errors/shard-00001-of-00003.jsonl").read_text().splitlines()
    assert [f'"image_id": {number}, ' in line for number, line in zip((4, 6), table, strict=True)] == [True, True]
    assert "SIGABRT" in table[0]


def test_run_that_was_killed_can_be_started_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.predict(format="coco")
    leftover = place.output / "detections/.shard-00001-of-00003.js.00000000-1-00000000-0.writing"
    leftover.mkdir()
    (place.output / "detections/.shard-00001-of-00003.attempt").touch()
    summary = place.predict(format="coco", overwrite=True)
    assert (summary.images, summary.manifest.complete) == (7, True)
    assert [path for path in place.files() if path != leftover] == sorted((place.output / "detections").glob("s*"))


def test_attempts_that_end_with_an_error_leave_no_mark(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ResourceError("disk: full.")

    monkeypatch.setattr(shard_worker, "open_shard_file", fail)
    assert len(place.predict(format="coco", retries=1).failures) == 3
    assert place.files() == []


def test_search_ends_if_every_image_crashes_or_no_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_processes_crash(tmp_path, monkeypatch)
    monkeypatch.setattr(crash_check, "MAX_CRASHES", 0)
    (tmp_path / CRASH).write_bytes(jpeg(0))
    item = ImageItem(CRASH, str(tmp_path / CRASH))
    with pytest.raises(ResourceError, match=f"{CRASH}: the last of 1 images that end the process"):
        find_crashing([item, item], None, None, None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ResourceError, match="cannot check images in another process"):
        find_crashing([item], None, None, None)
