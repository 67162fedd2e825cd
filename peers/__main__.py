"""Compare SAIS with its peers; run from the root of a checkout.

    python -m peers COMMAND [OPTIONS]

    accuracy     train SAIS and the peers on one data set with the same budget, and compare AP
    speed        latency and memory of the models of the paper's Table IV and of the peers
    ratios       the ratios of docs/performance.md: mask assembly, small models, Mask R-CNN, YOLACT, runtimes
    memory       activations saved for backward, by part of the network
    training     memory and time of a training step of SAIS-R50-768, Mask R-CNN, FCOS and YOLACT
    evaluation   time of an evaluation outside the network, against full-frame masks and pycocotools
    loader       images per second and core, against the standard torchvision pipeline, and their agreement
    kills        kill a training run at random times and resume it; nothing may be lost
    gpu          verify and measure training, inference and export on one device, next to Mask R-CNN and YOLACT
    busy         throughput of training and prediction next to other busy processes
    fuzz         mutated files and odd command lines: only errors of sais, in time, in memory, without other effects
    planted-faults   what `sais doctor` finds in a copy of a data set with one fault of each kind
    tracking     HOTA, IDF1 and identity switches of a model's tracks
    speedrun     core-minutes in which recipes reach a mask AP; its options: python -m peers speedrun --help
    few-images   mask AP over the number of training images; its options: python -m peers few-images --help
    video        speed of `sais predict` on a video against the network; its options: python -m peers video --help

Results are written to --out, the folder of `sais reproduce`, and shown on its page.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from peers.entry import run_main
from sais.commands.arguments import check_writable, parse, prepare_torch

Command = Literal[
    "accuracy",
    "speed",
    "ratios",
    "memory",
    "training",
    "evaluation",
    "loader",
    "kills",
    "gpu",
    "busy",
    "fuzz",
    "planted-faults",
    "tracking",
]


@dataclass(frozen=True)
class Arguments:
    """Compare SAIS with its peers under the same conditions; see peers/README.md.

    accuracy: train SAIS, YOLACT and Mask R-CNN on one data set with the same budget, and compare AP.
    speed: latency and memory of the models of the paper's Table IV and of the peers.
    ratios: the ratios of docs/performance.md, about 20 minutes.
    memory: activations saved for backward, by part of the network.
    training: memory and time of a training step of SAIS-R50-768 and three peers.
    evaluation: time of an evaluation outside the network, against full-frame masks and pycocotools.
    loader: images per second and core, against the standard torchvision pipeline, and their agreement.
    kills: kill a training run at random times and resume it; nothing may be lost.
    gpu: verify and measure training, inference and export on one device, for --minutes; continues in the same --out.
    busy: throughput of training and prediction next to other busy processes, about 7 minutes.
    fuzz: mutated files and odd command lines, for --minutes or --cases of each kind.
    planted-faults: what `sais doctor` finds in a copy of --data (animals) with one fault of each kind.
    tracking: tracks of ten crossing shapes by --model, a model of `sais make-shapes`; without it, of ideal detections.
    speedrun: core-minutes in which recipes reach a mask AP; its options: `python -m peers speedrun --help`.
    few-images: mask AP over the number of training images; its options: `python -m peers few-images --help`.
    video: speed of `sais predict` on a video against the network; its options: `python -m peers video --help`.
    """

    command: tyro.conf.Positional[Command]
    """Comparison to run."""
    data: Path | None = None
    """accuracy, loader, planted-faults: folder of the data set, or its name in $SAIS_DATA."""
    out: Path = Path("runs/reproduce")
    """Folder of runs and results, shared with `sais reproduce`."""
    base: str = "paper-lite0"
    """accuracy: recipe whose backbone, width, input and optimizer all systems share."""
    epochs: int | None = None
    """accuracy: number of epochs. Default: that of the recipe."""
    max_iterations: int | None = None
    """accuracy: stop after this number of iterations, for a trial."""
    input_size: int | None = None
    """accuracy, loader: side of the square network input in pixels."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """accuracy: seeds of SAIS. tracking: seeds of the videos of ideal detections."""
    peer_seeds: tuple[int, ...] = (0,)
    """accuracy: seeds of the peers, with the best learning rate of their search."""
    peers: tuple[Literal["yolact", "mask-rcnn"], ...] = ("yolact", "mask-rcnn")
    """accuracy: peers to train."""
    lr_factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """accuracy: learning rates of the peers' search, relative to that of the recipe."""
    sais_lr_factors: tuple[float, ...] = ()
    """accuracy: further learning rates of SAIS, reported with the peers' search."""
    workers: int | None = None
    """accuracy: number of data loading processes."""
    device: str = "auto"
    """Device: auto, cpu or cuda. gpu: small sizes on cpu, to test the checks themselves."""
    repeats: int = 5
    """speed, ratios, training, loader: number of runs of each system; the median counts."""
    objects: int = 100
    """speed, ratios, evaluation: number of detections of an image."""
    image_size: tuple[int, int] = (960, 1280)
    """speed, ratios: height and width of the image in pixels."""
    rows: tuple[str, ...] = ("sais-640-r50", "sais-768-r50")
    """speed: rows of Table IV to measure."""
    lite: bool = False
    """speed: measure the small models of `accuracy` at 192x192 instead."""
    kills: int = 200
    """kills: number of kills."""
    images: int = 500
    """evaluation, loader: maximum number of images."""
    only: tuple[str, ...] = ()
    """memory, training: names of the systems to measure. fuzz: kinds of input. gpu: sections. Default: all."""
    batch_size: int = 2
    """training: number of images in a timed step."""
    screening: Path | None = None
    """gpu: plan of `python -m peers.screening`, run in the time that remains."""
    seconds: float = 8.0
    """busy: length of each measurement."""
    minutes: float = 8.0
    """gpu: skip the remaining measurements after this time; tests always run. fuzz: start no case after it."""
    cases: int | None = None
    """fuzz: number of cases of each kind, instead of --minutes."""
    seed: int = 0
    """fuzz: seed of the first case of each kind; that of the next is one higher. planted-faults: of the choice."""
    processes: int = 2
    """fuzz: number of processes that run cases."""
    model: Path | None = None
    """tracking: model to measure. Default: ideal detections, exact and with noise, on the videos of --seeds."""
    frames: int = 300
    """tracking: number of frames of each video."""
    score: float | None = None
    """tracking: minimum score. Default: that of the model."""


OWN_OPTIONS = {"speedrun": "peers.speedrun", "few-images": "peers.few_images", "video": "peers.video_speed"}
"""Commands with options of their own -> their module, which has a `main`."""


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers`."""
    if argv and argv[0] in OWN_OPTIONS:
        return int(importlib.import_module(OWN_OPTIONS[argv[0]]).main(argv[1:]))
    arguments = parse(Arguments, argv, "python -m peers COMMAND")
    prepare_torch("peers")
    check_writable(arguments.out)
    from peers import commands

    command = getattr(commands, arguments.command.replace("-", "_"))
    print(command(arguments, shlex.join(["python", "-m", "peers", *argv])))
    return 0


if __name__ == "__main__":
    run_main(main)
