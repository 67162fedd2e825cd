"""The plan of a prediction over many images."""

from __future__ import annotations

from pathlib import Path

import pytest

from sais.errors import InputError
from sais.scaling.items import ImageItem, choose_shard_size, read_shards, write_plan

ITEMS = [
    ImageItem("a.jpg", "/photos/a.jpg"),
    ImageItem("b\udcff.jpg", "/photos/b\udcff.jpg"),  # a file name that is not UTF-8
    ImageItem("c.jpg", "s3://bucket/train.tar", 512, 99),
    ImageItem("row", "/data/x.parquet", 7),
    ImageItem("é.png", "http://host/é.png"),
]


def test_plan_returns_its_images_in_whole_shards(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.jsonl", ITEMS)
    lines = (tmp_path / "plan.jsonl").read_text(encoding="ascii").splitlines()
    shards = list(read_shards(lines, 5, 2, {1}))
    assert [(shard.number, shard.first, shard.name) for shard in shards] == [
        (0, 0, "shard-00000-of-00003"),
        (2, 4, "shard-00002-of-00003"),
    ]
    assert [item for shard in read_shards(lines, 5, 2, ()) for item in shard.items] == ITEMS


@pytest.mark.parametrize("change", ["cut off", "no JSON"])
def test_damaged_plan_is_reported_with_its_shard(change: str, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.jsonl", ITEMS)
    lines = (tmp_path / "plan.jsonl").read_text().splitlines()
    lines = lines[:4] if change == "cut off" else [*lines[:4], "[}", lines[5]]
    with pytest.raises(InputError, match="damaged at shard 1"):
        list(read_shards(lines, 5, 2, ()))


@pytest.mark.parametrize(
    ("images", "batch_size", "size"), [(0, 8, 16), (549, 8, 16), (6_400, 8, 104), (10**7, 8, 1000), (10**7, 7, 1001)]
)
def test_shards_hold_whole_batches(images: int, batch_size: int, size: int) -> None:
    assert choose_shard_size(images, batch_size) == size
