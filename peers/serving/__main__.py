"""Load and faults of `sais serve`; run from the root of a checkout.

python -m peers.serving load --model cats.onnx --data animals      # throughput, latency, memory: 15 minutes
python -m peers.serving memory --model cats.onnx --data animals    # memory after 2,000 and 20,000 requests: 6 minutes
python -m peers.serving faults --model cats.onnx --requests 5000   # malformed and hostile requests: 5 minutes
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from peers.entry import run_main
from peers.serving.faults import attack_service
from peers.serving.load import LoadPlan, measure_load, measure_memory
from sais.commands.arguments import check_writable, parse
from sais.data.paths import locate
from sais.errors import InputError
from sais.io.atomic import write_text


@dataclass(frozen=True)
class Arguments:
    """Measure `sais serve` from outside.

    load: throughput with clients on this machine against the same runtime without HTTP, percentiles of the latency,
    answers beyond the capacity, growth of memory.
    memory: growth of memory only.
    faults: malformed and hostile requests; each must get the right status or be closed in time.
    """

    command: tyro.conf.Positional[Literal["load", "memory", "faults"]]
    """Measurement to run."""
    model: Path
    """Model file; .onnx for the torch-free service."""
    data: Path = Path("animals")
    """load: folder of images, or the name of a data set in $SAIS_DATA."""
    images: int = 64
    """load: number of images, sent in turns."""
    clients: tuple[int, ...] = (16, 64)
    """load: numbers of clients."""
    seconds: float = 60.0
    """load: time with each number of clients."""
    threads: int = 0
    """load: threads of the runtime. 0: all cores."""
    max_batch: int = 8
    """load: maximum number of images in a batch."""
    locust: str | None = None
    """load: program of locust. Default: the one found, else clients of our own."""
    requests: int | None = None
    """load, memory: number of requests after which memory is measured last, default 20,000. faults: number of requests,
    default 5,000."""
    seed: int = 0
    """faults: seed of the first request."""
    out: Path = Path("runs/serving")
    """Folder for the results."""


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers.serving`."""
    arguments = parse(Arguments, argv, "python -m peers.serving COMMAND")
    check_writable(arguments.out)
    command = shlex.join(["python", "-m", "peers.serving", *argv])
    if arguments.command == "faults":
        report = attack_service(arguments.model, arguments.requests or 5000, arguments.seed, arguments.out)
        text = f"`{command}`\n\n{report.markdown()}"
        write_text(arguments.out / "faults.md", text)
        print(text)
        return 1 if report.faults else 0
    images = sorted(locate(arguments.data).rglob("*.jpg"))
    if not images:
        raise InputError(f"{arguments.data}: no JPEG image in it. Give a folder of photographs.")
    plan = LoadPlan(
        arguments.model,
        images[:: max(1, len(images) // arguments.images)][: arguments.images],
        arguments.clients,
        arguments.seconds,
        arguments.threads,
        arguments.max_batch,
        arguments.locust or shutil.which("locust"),
        arguments.requests or 20_000,
    )
    measure = measure_memory if arguments.command == "memory" else measure_load
    print(f"`{command}`\n\n{measure(plan, arguments.out)}")
    return 0


if __name__ == "__main__":
    run_main(main)
