"""`sais eval MODEL --data DIR`: COCO box and mask AP, and results in the COCO submission format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sais.commands.arguments import check_writable, need_torch, parse, progress_bar
from sais.commands.open_predictor import Way, check_model, open_model
from sais.commands.slicing import OVERLAP, check_tiles, in_tiles
from sais.errors import SaisError
from sais.io.atomic import write_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.results.detections import DetectFunction


@dataclass(frozen=True)
class EvalArguments:
    """Measure a model on labeled images: COCO AP and AR of boxes and masks, over all and per class.

    Images without annotations (COCO's test-dev) are not measured, but --results still writes what was found.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, the folder of a run, or what `sais export` wrote (.onnx, .xml)."""
    data: Path | None = None
    """Folder of the data set (also a name in the folder $SAIS_DATA)."""
    split: str = "valid"
    """Split to measure on."""
    annotations: Path | None = None
    """COCO JSON to measure on, instead of --data."""
    images: Path | None = None
    """Folder of its images."""
    json: str = ""
    """Write the figures to this file as JSON; - prints them instead of the table."""
    results: Path | None = None
    """Write every detection to this file in the COCO submission format."""
    batch: int = 8
    """Images in one pass."""
    score: float | None = None
    """Least score (class x centerness) of a detection; COCO's AP wants none, and then takes all whose class
    probability is above the model's 0.05."""
    flip: bool = False
    """Look at the mirrored images too, and fuse what both ways find."""
    scales: tuple[float, ...] = (1.0,)
    """Look at the images so many times as large as the model's input, and fuse: 0.8 1.0 1.25."""
    tiles: Annotated[str, tyro.conf.arg(metavar="SIDE|auto")] = ""
    """Look at each image in overlapping tiles of so many pixels, as sais predict --tiles does; auto: twice the
    model's input. COCO's AP goes by the best 100 detections of an image, with tiles too."""
    tile_overlap: float = OVERLAP
    """Least share of a tile's side that neighboring tiles have in common, 0 to 0.9."""
    workers: int = 2
    """Processes that read images."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 are faster on GPUs, bf16 on some CPUs (AVX-512 BF16, AMX), and less exact. A graph for OpenVINO
    (.xml) takes fp32 and bf16, an .onnx file is as it was exported."""
    compiled: bool = False
    """Let torch.compile fuse the network: half a minute at the start, faster afterwards on GPUs."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and say how many, instead of stopping."""


def run(argv: Sequence[str]) -> int:
    """Run `sais eval`."""
    arguments = parse(EvalArguments, argv, "sais eval MODEL")
    need_torch("eval")
    if arguments.batch < 1:
        raise SaisError(f"--batch {arguments.batch}: must be 1 or more")
    for file in (arguments.results, Path(arguments.json) if arguments.json not in ("", "-") else None):
        if file is not None:
            check_writable(file.parent)
    check_tiles(arguments.tiles, arguments.tile_overlap)
    check_model(arguments.model)
    from sais.evaluation.evaluate import evaluate

    way = Way(
        arguments.device, arguments.score, arguments.flip, arguments.scales, arguments.precision, arguments.compiled
    )
    predictor = open_model("eval", arguments.model, way)
    index = _index(arguments, tuple(predictor.class_names))
    find: DetectFunction | None = predictor.batch if arguments.flip or arguments.scales != (1.0,) else None
    batch = arguments.batch
    if arguments.tiles:  # the batch is one of tiles, and big images are read one by one
        no_bar = nullcontext(lambda tiles: None)
        find, batch = in_tiles(predictor, arguments.tiles, arguments.tile_overlap, batch, lambda tiles: no_bar), 1
    with progress_bar("measuring", len(index.images)) as progress:
        found = evaluate(predictor, index, batch, arguments.workers, arguments.skip_broken, progress, find)
    figures = {
        "model": str(arguments.model),
        "data": str(arguments.annotations or arguments.data),
        "split": None if arguments.annotations else arguments.split,
        "flip": arguments.flip,
        "scales": list(arguments.scales),
        "tiles": arguments.tiles or None,
        "images": len(index.images),
        "left_out": len(found.unreadable_images),
        "detections": len(found.results),
        "metrics": None if found.metrics is None else found.metrics.to_dict(),
    }
    if arguments.results is not None:
        write_text(arguments.results, json.dumps(found.results))
    if arguments.json == "-":
        print(json.dumps(figures, indent=2))
        return 0
    print("no annotations: nothing was measured" if found.metrics is None else found.metrics.table())
    print(f"{len(found.results)} detections in {len(index.images) - len(found.unreadable_images)} images")
    if found.unreadable_images:
        print(
            f"left out {len(found.unreadable_images)} images that cannot be read, the first: {found.unreadable_images[0]}"
        )
    if arguments.json:
        write_text(Path(arguments.json), json.dumps(figures, indent=2))
    written = [str(file) for file in (arguments.results, arguments.json) if file]
    if written:
        print("wrote " + ", ".join(written))
    return 0


def _index(arguments: EvalArguments, classes: tuple[str, ...]) -> DatasetSplit:
    from sais.data.formats import read_dataset, read_dataset_files
    from sais.data.paths import locate

    if arguments.annotations is not None and arguments.images is not None:
        return read_dataset_files(arguments.annotations, arguments.images, classes)
    if arguments.annotations is not None or arguments.images is not None:
        raise SaisError("--annotations FILE and --images DIR go together: one is missing")
    if arguments.data is None:
        raise SaisError("no data: give --data DIR, or --annotations FILE and --images DIR")
    return read_dataset(locate(arguments.data), arguments.split, classes)
