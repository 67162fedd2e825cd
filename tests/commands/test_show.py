"""`sais show`: drawings and a page of the labels that were asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from sais import cli
from sais.data.dataset import read_sample
from sais.data.formats import read_dataset
from sais.data.visualize import draw_sample
from sais.io.image_writer import write_image
from sais.reports import label_gallery
from tests.data.formats.coco_samples import make_document, square_outline, write_split


def show(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run `sais show` and return its exit code and its output, errors included."""
    capsys.readouterr()
    code = cli.main(["show", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def links(out: Path) -> list[str]:
    """Return the drawings that a page shows, all of which exist."""
    page = (out / "index.html").read_text(encoding="utf-8")
    names = re.findall(r'<img src="([^"]+)"', page)
    assert all((out / unquote(name)).is_file() for name in names)
    assert page.count('loading="lazy"') == len(names)
    return names


def captions(out: Path) -> str:
    page = (out / "index.html").read_text(encoding="utf-8")
    return " ".join(re.sub("<[^>]+>", " ", page.partition("</style>")[2]).split())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data set of two splits; train has a large dog in its first image and a doubled object in its second."""
    train = make_document(4)
    train["categories"].append({"id": 2, "name": "dog"})
    train["annotations"][0] |= {"category_id": 2, "area": 10_000.0}
    box = train["annotations"][2]["bbox"]
    train["annotations"].append(train["annotations"][2] | {"id": 99, "segmentation": square_outline(*box)})
    valid = make_document(2)
    for entry in valid["images"]:
        entry["file_name"] = f"valid_{entry['file_name']}"
    write_split(tmp_path / "data", "train", train)
    write_split(tmp_path / "data", "valid", valid)
    return tmp_path / "data"


def test_show_draws_every_image_as_training_reads_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, output = show(capsys, str(data), "--out", str(out))
    assert code == 0
    assert f"wrote {out / 'index.html'}" in output
    assert len(links(out)) == 6
    split = read_dataset(data, "train")
    expected = draw_sample(read_sample(split.images[0]), split.class_names)
    write_image(tmp_path / "expected.jpg", expected, label_gallery.QUALITY)
    np.testing.assert_array_equal(
        *(np.asarray(Image.open(p)) for p in (out / "drawings/0.jpg", tmp_path / "expected.jpg"))
    )
    assert "0.png train 1 dog, 1 part" in captions(out)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--split", "valid"], ["valid_0", "valid_1"]),
        (["--classes", "dog"], ["0"]),
        (["--size", "large"], ["0"]),
        (["--size", "medium", "--classes", "dog"], None),
        (["--min-area", "5000"], ["0"]),
        (["--images", "valid_1.png", "3*"], ["3", "valid_1"]),
        (["--finding", "duplicate objects"], ["1"]),
        (["--finding", "DUPLICATE", "--images", "0.png"], None),
    ],
)
def test_show_filters(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], names: list[str] | None
) -> None:
    out = tmp_path / "out"
    code, output = show(capsys, str(data), "--out", str(out), *words)
    if names is None:
        assert code == 2
        assert "none of 6 images matches" in output
        assert not out.exists()
    else:
        assert code == 0
        assert [Path(name).stem for name in links(out)] == names


def test_show_draws_only_the_objects_that_match(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert show(capsys, str(data), "--out", str(out), "--classes", "dog")[0] == 0
    drawn = np.asarray(Image.open(out / "drawings/0.jpg"), int)
    plain = np.asarray(Image.open(data / "images/0.png").convert("RGB"), int)
    changed = np.abs(drawn - plain).max(2) > 40
    assert changed[20:50, 10:50].mean() > 0.5  # the dog
    assert changed[45:60, 80:110].mean() < 0.05  # the part, in the lower half of its box
    assert show(capsys, str(data), "--out", str(out), "--finding", "duplicate objects")[0] == 0
    assert "1.png train 2 part" in captions(out)


def test_show_draws_a_seeded_sample_and_replaces_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [str(data), "--out", str(out), "--max-images", "2"]
    code, output = show(capsys, *words)
    assert code == 0
    assert "2 images, drawn at random from 6 (--max-images)" in output
    first = links(out)
    assert show(capsys, *words)[0] == 0
    assert links(out) == first
    samples = set()
    for seed in range(1, 6):
        assert show(capsys, *words, "--seed", str(seed))[0] == 0
        samples.add(tuple(links(out)))
        assert len(list((out / "drawings").iterdir())) == 2  # those of before are gone
    assert len(samples) > 1


def test_show_places_the_images_of_a_case_next_to_each_other(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images/3.png").write_bytes((data / "images/0.png").read_bytes())
    (data / "images/valid_1.png").write_bytes((data / "images/1.png").read_bytes())
    out = tmp_path / "out"
    assert show(capsys, str(data), "--out", str(out), "--finding", "content of another")[0] == 0
    assert [Path(name).stem for name in links(out)] == ["3", "0"]
    assert show(capsys, str(data), "--out", str(out), "--finding", "another split as well")[0] == 0
    assert [Path(name).stem for name in links(out)] == ["valid_1", "1"]


def test_show_reduces_large_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert show(capsys, str(data), "--out", str(out), "--max-side", "64", "--split", "train")[0] == 0
    assert Image.open(out / "drawings/0.jpg").size == (64, 48)


def test_show_names_odd_files_in_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = make_document(2)
    name = "<script>a#b?%20&\"'.png"
    document["images"][0]["file_name"] = name
    document["categories"][0]["name"] = "<i>part</i>"
    write_split(tmp_path / "data", "train", document)
    out = tmp_path / "out"
    assert show(capsys, str(tmp_path / "data"), "--out", str(out))[0] == 0
    assert len(links(out)) == 2
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<i>" not in page


def test_show_skips_unreadable_images_and_malformed_entries(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images/3.png").write_bytes(b"no image")
    path = data / "annotations/train.json"
    document = json.loads(path.read_text())
    document["annotations"][4]["bbox"] = [1, 2]
    path.write_text(json.dumps(document))
    out = tmp_path / "out"
    code, output = show(capsys, str(data), "--out", str(out), "--split", "train")
    assert code == 0
    assert "note: train: 1 malformed entries are left out" in output
    assert "skipped: " in output
    assert "3.png" in output
    assert len(links(out)) == 3
    code, output = show(capsys, str(data), "--out", str(tmp_path / "none"), "--images", "3.png")
    assert code == 2
    assert "no image can be read" in output


def test_show_reads_a_coco_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, labels = tmp_path / "out", str(data / "annotations/train.json")
    code, _ = show(capsys, labels, "--image-folder", str(data / "images"), "--out", str(out))
    assert code == 0
    assert len(links(out)) == 4


@pytest.mark.parametrize("format", ["yolo", "labelme", "voc", "masks"])
def test_show_reads_what_convert_writes(
    format: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(data), str(tmp_path / format), "--to", format]) == 0
    out = tmp_path / "out"
    assert show(capsys, str(tmp_path / format), "--out", str(out))[0] == 0
    assert len(links(out)) == 6


def test_show_writes_nothing_into_the_folder_of_the_images(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = show(capsys, str(data), "--out", str(data / "images"))
    assert code == 2
    assert "the folder of the images" in output
    assert not (data / "images/index.html").exists()


def test_show_keeps_files_of_others(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (out / "drawings").mkdir(parents=True)
    (out / "drawings/mine.jpg").write_bytes(b"of others")
    assert show(capsys, str(data), "--out", str(out))[0] == 0
    assert show(capsys, str(data), "--out", str(out), "--split", "valid")[0] == 0
    assert (out / "drawings/mine.jpg").read_bytes() == b"of others"
    assert not (out / "drawings/0.jpg").exists()
    (out / "index.html").write_text("of others")
    code, output = show(capsys, str(data), "--out", str(out))
    assert code == 2
    assert "--overwrite" in output


WITHOUT_EXTRAS = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors", "faster_coco_eval", "pycocotools"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from sais.cli import main
data, out = sys.argv[1:]
assert main(["show", data, "--out", f"{out}/shown"]) == 0
assert main(["doctor", data, "--html", f"{out}/page.html"]) == 0
assert "matplotlib" not in sys.modules
"""


def test_pages_of_data_sets_need_jinja2_only(data: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", WITHOUT_EXTRAS, str(data), str(tmp_path)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "page.html").is_file()


def test_show_without_jinja2_names_the_extra(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, output = show(capsys, str(data), "--out", str(tmp_path / "out"))
    assert code == 2
    assert 'jinja2 is not installed. Run pip install "sais-seg[report]"' in output
    assert not (tmp_path / "out").exists()
