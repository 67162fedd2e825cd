"""`sais split FILE`: one COCO file into a training and a validation split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from sais.commands.arguments import check_writable, parse
from sais.errors import SaisError


@dataclass(frozen=True)
class SplitArguments:
    """Split one COCO file into images to train on and images to measure on, every class shared out as evenly as
    can be. Images are neither moved nor copied.

    Images that belong together (frames of a video, views of one thing) should be on one side: split those yourself.
    """

    file: tyro.conf.Positional[Path]
    """COCO JSON with all images."""
    valid: float = 0.2
    """Share of the images to measure on."""
    out: Path | None = None
    """Folder of the data set: annotations/train.json and annotations/valid.json are written there. When not given, the
    folder the file lies in (or the one above, where that is called annotations)."""
    seed: int = 0
    """The same seed draws the same images."""


def run(argv: Sequence[str]) -> int:
    """Run `sais split`."""
    arguments = parse(SplitArguments, argv, "sais split FILE")
    if not 0 < arguments.valid < 1:
        raise SaisError(f"--valid {arguments.valid:g}: must be between 0 and 1, 0.2 for a fifth")
    from sais.data.annotations import summarize
    from sais.data.formats import read_dataset
    from sais.data.formats.coco import read_coco
    from sais.data.split import split_document
    from sais.io.atomic import write_text

    read_coco(arguments.file, None)  # says what is wrong with it
    beside = arguments.file.resolve().parent
    out = arguments.out or (beside.parent if beside.name == "annotations" else beside)
    paths = [out / "annotations" / f"{name}.json" for name in ("train", "valid")]
    for path in paths:
        if path.exists():
            raise SaisError(f"{path} is there already; choose another --out")
    check_writable(out)
    parts = split_document(json.loads(arguments.file.read_bytes()), arguments.valid, arguments.seed)
    for path, part in zip(paths, parts, strict=True):
        write_text(path, json.dumps(part))
        print(f"wrote {path}: {len(part['images'])} images")
    try:
        for path in paths:
            print(summarize(read_dataset(out, path.stem)))
    except SaisError as error:
        print(f"the images are still to be put into {out / 'images'} ({error})")
    print(f"next: sais check {out}")
    return 0
