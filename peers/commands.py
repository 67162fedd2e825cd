"""The commands of `python -m peers`; each writes its results to the folder `out` and returns them as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.errors import InputError, SaisError
from sais.io.atomic import write_text

if TYPE_CHECKING:
    from peers.__main__ import Arguments

TABLE_IV_PEERS = ("peers.candidates:few", "peers.installed:candidates")
LITE_PEERS = ("peers.candidates:lite",)


def accuracy(arguments: Arguments, command: str) -> str:
    """Train SAIS and the peers with the same budget and compare AP."""
    from peers.accuracy import Comparison, compare
    from sais.data.paths import DataPaths
    from sais.paper.sweep import Budget

    if arguments.data is None:
        raise InputError("python -m peers accuracy: no data set given. Give --data DIR.")
    budget = Budget(
        base=arguments.base,
        epochs=arguments.epochs,
        max_iterations=arguments.max_iterations,
        size=(arguments.input_size, arguments.input_size) if arguments.input_size else None,
        workers=arguments.workers,
        device=arguments.device,
    )
    return compare(
        Comparison(
            DataPaths(arguments.data),
            arguments.out,
            budget,
            peers=arguments.peers,
            seeds=arguments.seeds,
            peer_seeds=arguments.peer_seeds,
            lr_factors=arguments.lr_factors,
            sais_lr_factors=arguments.sais_lr_factors,
            command=command,
        )
    )


def speed(arguments: Arguments, command: str) -> str:
    """Measure latency and memory of the models of Table IV, or of the small ones, and of the peers."""
    from sais.benchmark.timing import Conditions
    from sais.device import choose_device
    from sais.paper import experiments, table4

    device = str(choose_device(arguments.device))
    conditions = Conditions(arguments.objects, arguments.image_size, repeats=arguments.repeats, device=device)
    if arguments.lite:
        measured = table4.measure((), LITE_PEERS, conditions)
        columns, rows = table4.measured_rows(measured)
        title = "SAIS and its peers: speed of the small models"
        table = ResultTable("lite", title, table4.describe_measurement(measured), columns, rows, measured["notes"])
        return _write_table(table, arguments.out, command)
    request = experiments.ReproductionRequest(None, arguments.out, rows=arguments.rows, command=command)
    experiments.reproduce_table4(request, TABLE_IV_PEERS, conditions, train=False)
    experiments.write_index(arguments.out)
    return (arguments.out / "table4.md").read_text(encoding="utf-8")


def ratios(arguments: Arguments, command: str) -> str:
    """Measure the ratios of docs/performance.md."""
    from peers.ratios import measure_assembly, measure_systems
    from sais.benchmark.timing import Conditions
    from sais.paper.comparison import markdown_table

    time_rows, assembly_ratios = measure_assembly(arguments.repeats)
    conditions = Conditions(arguments.objects, arguments.image_size)
    latency_rows, system_ratios = measure_systems(conditions, arguments.repeats)
    limits = ("default allocator", "target", "retaining allocator", "target")
    stages = ("preprocess", "network", "postprocess", "dense masks", "end to end")
    retaining = tuple(f"{stage}, retaining allocator" for stage in ("network", "postprocess", "end to end"))
    tables = [
        (("system", "relative to", *limits), system_ratios),
        (("box-local masks of SAIS", "relative to", *limits, "memory", "target"), assembly_ratios),
        (("system", *stages, *retaining), latency_rows),
        (("case", "method", "default allocator", "retaining allocator", "additional memory, MiB"), time_rows),
    ]
    height, width = arguments.image_size
    intro = (
        f"`{command}`: {_environment('cpu')}; {arguments.objects} objects on {width} x {height}, milliseconds, medians "
        f"of {arguments.repeats} runs."
    )
    return _write_text(arguments.out, "ratios.md", [intro, *(markdown_table(*table) for table in tables if table[1])])


def memory(arguments: Arguments, command: str) -> str:
    """Measure the activations saved for backward, by part of the network."""
    from sais.benchmark.candidates import find_candidates
    from sais.benchmark.models import select_by_name
    from sais.benchmark.timing import OWN, Conditions, measure_memory
    from sais.device import choose_device
    from sais.paper import table4

    sources = [OWN, "peers.candidates:paper", "peers.candidates:other_yolacts"]
    measurable = [candidate for source in sources for candidate in find_candidates(source)]
    candidates = select_by_name(measurable, arguments.only)
    device = str(choose_device(arguments.device))
    measured = measure_memory(sources, arguments.only, Conditions(device=device), inference=False)
    columns, rows = table4.saved_memory_rows({"memory": [asdict(memory) for memory in measured]})
    intro = (
        "MiB of activations saved for backward for each additional training image with ten objects, fp32. Every "
        "storage is counted once, parameters are not; the numbers are the same on every machine. Batch-norm, stem and "
        "C2 are frozen unless stated otherwise. Mask R-CNN trains on 512 regions, a quarter of them positive, injected "
        "into its proposals as those of a trained network."
    )
    notes = table4.candidate_notes(
        [candidate for candidate in candidates if candidate.name in {row[0] for row in rows}]
    )
    table = ResultTable("memory", "Training memory by part of the network", intro, columns, rows, notes)
    return _write_table(table, arguments.out, command)


def training(arguments: Arguments, command: str) -> str:
    """Measure memory and time of training steps."""
    from peers import training
    from sais.benchmark.training import training_table
    from sais.device import choose_device
    from sais.paper.comparison import markdown_table

    device = str(choose_device(arguments.device))
    rows = training.measure(arguments.repeats, arguments.batch_size, device, arguments.only)
    times = ("s/step", "s/step, retaining allocator", "CPU s/step")
    columns = ("relative to Mask R-CNN", "memory", "target", *times, "target")
    intro = (
        f"`{command}`: {_environment(device)}; MB saved for backward per image with ten objects, every storage once, "
        f"without parameters; steps of {arguments.batch_size} images, medians of {arguments.repeats} runs."
    )
    tables = [markdown_table(*training_table(rows)), markdown_table(columns, training.ratios(rows))]
    return _write_text(arguments.out, "training.md", [intro, *tables])


def evaluation(arguments: Arguments, command: str) -> str:
    """Measure the time of an evaluation outside the network."""
    from peers import evaluation
    from sais.commands.arguments import progress_bar
    from sais.paper.comparison import markdown_table

    with progress_bar("images", arguments.images) as progress:
        costs = evaluation.measure(arguments.images, arguments.objects, progress)
    columns = ("method", "masks created and encoded, s", "matching, s", "total, s", "ratio", "box AP", "mask AP")
    intro = (
        f"`{command}`: {_environment('cpu')}; {arguments.images} images of 640 x 480, {arguments.objects} detections "
        "each."
    )
    table = markdown_table(columns, evaluation.table_rows(costs))
    return _write_text(arguments.out, "evaluation.md", [intro, table])


def loader(arguments: Arguments, command: str) -> str:
    """Measure the throughput of the data loader and compare its samples with those of torchvision's pipeline."""
    import torch

    from peers import loader
    from sais.data.formats import read_dataset
    from sais.data.paths import locate
    from sais.paper.comparison import markdown_table

    torch.set_num_threads(1)
    data = locate(arguments.data or Path("coco_mini"))
    split, side = read_dataset(data, "train"), arguments.input_size or 768
    annotations, num_images = loader.coco_file(data), min(arguments.images, len(split.images))
    pipelines = loader.timed_pipelines(split, annotations, (side, side))
    throughputs = loader.measure(pipelines, num_images, arguments.repeats)
    agreement = loader.compare(split, annotations, (side, side), num_images)
    intro = (
        f"`{command}`: {_environment('cpu')}; {num_images} images of {data.name} at {side} x {side}, one process, one "
        f"thread, {arguments.repeats} runs."
    )
    columns = ("pipeline", "images/s per core", "minimum - maximum", "speed-up of SAIS")
    tables = [
        markdown_table(columns, loader.throughput_rows(throughputs)),
        markdown_table(("compared", "difference"), loader.agreement_rows(agreement)),
    ]
    return _write_text(arguments.out, "loader.md", [intro, *tables])


def busy(arguments: Arguments, command: str) -> str:
    """Measure `sais train` and `sais predict` next to other busy processes."""
    from peers import busy
    from sais.paper.comparison import markdown_table

    measured = busy.measure(min(arguments.repeats, 2), arguments.seconds)
    intro = (
        f"`{command}`: {_environment('cpu')}. Images per second of a quiet machine, with one busy process, and with "
        f"one for each core; fractions of the quiet throughput (goals: {busy.GOALS['one']:.2f} and "
        f"{busy.GOALS['all']:.2f}), and of that with the default of torch (goal: 0.97)."
    )
    columns = ("command", "waiting", "quiet", "one", "all cores", "one / quiet", "all / quiet", "quiet / default")
    return _write_text(arguments.out, "busy.md", [intro, markdown_table(columns, busy.table_rows(measured))])


def kills(arguments: Arguments, command: str) -> str:
    """Kill and resume training runs and report what was lost."""
    from peers.kills import kill_and_resume
    from sais.commands.arguments import progress_bar

    with progress_bar("kills", arguments.kills, "kills") as progress:
        report = kill_and_resume(arguments.kills, arguments.out / "kills", progress=progress)
    if report.faults:
        raise SaisError(f"kills: faults after {report.kills} kills: {'; '.join(report.faults)}. Report them as a bug.")
    return (
        f"`{command}`: {report.kills} kills in {report.runs} runs, {report.before_first_checkpoint} before the first "
        f"checkpoint, {report.while_writing} while a checkpoint was written, {report.with_workers} of runs with a "
        "process that reads images. All checkpoints were readable, all runs ended with the weights of the "
        "uninterrupted run on the CPU, bit for bit, and no process and no temporary file was left behind."
    )


def fuzz(arguments: Arguments, command: str) -> str:
    """Run mutated files and odd command lines; print each fault with the command that reproduces it."""
    from peers.fuzz import session

    minutes = arguments.minutes if arguments.cases is None else None
    summaries = session.fuzz(
        arguments.out / "fuzz",
        minutes,
        arguments.cases,
        arguments.seed,
        arguments.only,
        arguments.processes,
        report=lambda fault: print(fault.report(), end="\n\n", flush=True),
    )
    table = session.table(summaries)
    faults = sum(len(summary.faults) for summary in summaries.values())
    if faults:
        print(table)
        raise SaisError(f"fuzz: {faults} faults, printed above with their commands. Fix them.")
    return f"`{command}`: {_environment('cpu')}.\n\n{table}"


def planted_faults(arguments: Arguments, command: str) -> str:
    """Plant one fault of each kind in a copy of a data set and report what `sais doctor` finds."""
    from peers.planted_faults import measure
    from sais.data.paths import locate

    source = locate(arguments.data or Path("animals"))
    workers = 2 if arguments.workers is None else arguments.workers
    result = measure(source, arguments.out / "planted_faults", arguments.seed, workers)
    lines = [f"- missed: {fault.name} ({fault.split}, {fault.evidence})" for fault in result.counts.missed]
    lines += [f"- healthy: {text}" for text in result.counts.healthy]
    intro = (
        f"`{command}`: {_environment('cpu')}; {result.images} images of {source.name}, {result.faults} planted faults: "
        f"{len(result.counts.found)} found, {len(result.counts.missed)} missed, {len(result.counts.healthy)} findings "
        f"about something healthy; {result.seconds:.1f} s with {workers} threads."
    )
    return _write_text(arguments.out, "planted_faults.md", [intro, *lines])


def tracking(arguments: Arguments, command: str) -> str:
    """Measure the tracks of a model on a synthetic video, or those of ideal detections on several."""
    from peers import ideal_tracks, video
    from sais.paper.comparison import markdown_table

    if arguments.model is None:
        found = ideal_tracks.ideal_quality(arguments.seeds, arguments.frames)
        intro = (
            f"`{command}`: ten crossing shapes in {arguments.frames} frames, {len(arguments.seeds)} videos; detections "
            "are the exact masks, or these shifted, dropped and with wrong classes. Sums of switches, means of IDF1 "
            "and HOTA, IoU of masks."
        )
        table = markdown_table(ideal_tracks.HEADER, ideal_tracks.quality_rows(found))
        return _write_text(arguments.out, "ideal_tracks.md", [intro, table])
    quality = video.quality(arguments.model, arguments.frames, arguments.seed, arguments.device, arguments.score)
    intro = (
        f"`{command}`: {_environment(arguments.device)}. Ten crossing shapes in {arguments.frames} frames, exact "
        "identities, IoU of masks."
    )
    rows = [[name, f"{q.hota:.3f}", f"{q.idf1:.3f}", str(q.switches)] for name, q in quality.items()]
    table = markdown_table(("tracker", "HOTA", "IDF1", "identity switches"), rows)
    return _write_text(arguments.out, "tracking.md", [intro, table])


def gpu(arguments: Arguments, command: str) -> str:
    """Verify and measure training, inference and export on one device."""
    from peers.gpu.session import verify_and_measure

    return verify_and_measure(
        arguments.out, arguments.device, arguments.minutes, command, arguments.only, arguments.screening
    )


@dataclass(frozen=True)
class ResultTable:
    """A table of measurements with its explanations."""

    key: str
    """Name of the files without suffix."""
    title: str
    intro: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[tuple[str, str]]
    """(system, what a reader has to know about it)."""


def _write_table(table: ResultTable, out: Path, command: str) -> str:
    """Write a table as JSON, from which the page is built, and as Markdown, which is returned."""
    from sais.paper import experiments
    from sais.paper.comparison import markdown_list, markdown_table

    state: dict[str, Any] = {"kind": "plain", "title": table.title, "intro": table.intro, "command": command}
    state |= {"tables": [[table.columns, table.rows]], "notes": table.notes}
    write_text(out / f"{table.key}.json", json.dumps(state, indent=1) + "\n")
    parts = [f"## {table.title}", table.intro, markdown_table(table.columns, table.rows), markdown_list(table.notes)]
    text = _write_text(out, f"{table.key}.md", parts)
    experiments.write_index(out)
    return text


def _write_text(out: Path, name: str, parts: Sequence[str]) -> str:
    text = "\n\n".join(parts) + "\n"
    write_text(out / name, text)
    return text


def _environment(device: str) -> str:
    """Describe processor, device and versions in one line."""
    from sais.commands.bench_tables import environment

    return environment(device)
