"""The checks and measurements of `peers.gpu`: training, inference, evaluation and export on one device."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from sais.benchmark.recipe_candidates import recipe_candidate, set_up_training
from sais.benchmark.timing import Conditions, clock_of, time_candidates
from sais.benchmark.workload import make_workload, training_batch
from sais.config import Experiment, OptimConfig, ScheduleConfig
from sais.converters.for_training import for_training
from sais.data.synthetic import make_scene, write_shapes
from sais.engine.train_step import forward, micro_batches, total
from sais.engine.trainer import train
from sais.evaluation.evaluate import evaluate
from sais.export.exporter import export_model
from sais.export.options import ExportOptions
from sais.export.parity import ParityReport
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.modeling.architecture import find_architecture
from sais.modeling.criterion import sum_normalizers
from sais.ops.transfers import move_batch
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings

NUM_CLASSES = 20
MAX_LOGIT_DIFFERENCE = 2e-3
MAX_GRADIENT_DIFFERENCE = 1e-3
MAX_LOSS_DIFFERENCE = 0.1
"""Maximum relative difference of the last loss after resuming on a GPU, which adds in a nondeterministic order."""
MAX_AP_DIFFERENCE = 0.005
MAX_SCORE_DIFFERENCE, MAX_BOX_DIFFERENCE, MIN_MASK_IOU = 5e-3, 0.5, 0.97
MIN_SCORE, QUICK_MIN_SCORE = 0.1, 0.01
"""Minimum score of the detections that are compared, and that after few training steps."""
IMAGE_SIZE = (128, 128)
"""Height and width of the synthetic images in pixels."""


@dataclass(frozen=True)
class Plan:
    """The device and the sizes of all checks."""

    out: Path
    device: str
    quick: bool

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.startswith("cuda")

    @property
    def min_score(self) -> float:
        """Minimum score of the detections that are compared."""
        return QUICK_MIN_SCORE if self.quick else MIN_SCORE

    def experiments(self) -> list[Experiment]:
        """Return the measured recipes, with small inputs if quick."""
        experiments = [recipe("sais-lite"), recipe("sais-r50-768")]
        size = (96, 96)
        return [replace_settings(e, "input", mode="fixed", size=size) if self.quick else e for e in experiments]

    def training_precisions(self) -> tuple[str, ...]:
        """Return the precisions of the measured training steps."""
        return ("fp32", "bf16") if self.on_gpu else ("fp32",)

    def inference_variants(self) -> list[tuple[str, bool]]:
        """Return precision and whether to compile of the measured networks."""
        if not self.on_gpu:
            return [("fp32", False)]
        return [("fp32", False), ("bf16", False), ("fp16", False), ("bf16", True)]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check."""

    passed: bool | None
    """None for a measurement."""
    text: str
    limit: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Disable TF32 in matrix products and convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    previous = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = previous


def describe_versions(plan: Plan) -> Outcome:
    """Report versions, device memory and the default precision of matrix products and convolutions."""
    import torchvision

    values: dict[str, Any] = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    if plan.on_gpu:
        values["memory"] = f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
        values["cuda"], values["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
        values["tf32"] = f"matmul {torch.backends.cuda.matmul.allow_tf32}, cudnn {torch.backends.cudnn.allow_tf32}"
    return Outcome(None, ", ".join(f"{name} {value}" for name, value in values.items()), values=values)


def compare_outputs(plan: Plan) -> Outcome:
    """Compare the dense outputs (B, L, .) of networks with random weights on the device and on the CPU."""
    differences = {}
    for experiment in plan.experiments():
        torch.manual_seed(0)
        network = find_architecture(experiment.model.architecture).build(experiment, NUM_CLASSES).eval()
        images = torch.randint(0, 256, (2, 3, *experiment.input.size), dtype=torch.uint8)
        with torch.inference_mode():
            expected, actual = network(images), network.to(plan.device)(images.to(plan.device))
        for name, value in vars(expected).items():
            if isinstance(value, torch.Tensor):
                difference = (value - getattr(actual, name).cpu()).abs().max() / value.abs().max().clamp(min=1)
                differences[f"{experiment.name} {name}"] = float(difference)
    worst = max(differences, key=lambda name: differences[name])
    limit = f"<= {MAX_LOGIT_DIFFERENCE:g}"
    passed = differences[worst] <= MAX_LOGIT_DIFFERENCE
    return Outcome(passed, f"maximum relative difference {differences[worst]:.1e} ({worst})", limit, differences)


def compare_micro_batches(plan: Plan) -> Outcome:
    """Compare the gradients of a batch of four images with those of two micro-batches of two."""
    experiment, device = plan.experiments()[0], torch.device(plan.device)
    architecture, workload = (
        find_architecture(experiment.model.architecture),
        make_workload(12, (240, 320), NUM_CLASSES),
    )
    torch.manual_seed(0)
    network = for_training(architecture.build(experiment, NUM_CLASSES), experiment, device).train()
    criterion = architecture.build_criterion(experiment)
    batch = move_batch(training_batch(workload, experiment.input.size, 4), device)
    gradients = []
    for size in (4, 2):
        network.zero_grad(set_to_none=True)
        parts = micro_batches(batch, size)
        assignments = sum_normalizers([criterion.assign(part, None, 0) for part in parts])
        for part, assignment in zip(parts, assignments, strict=True):
            total(criterion.losses(forward(network, part.images, "fp32"), part, assignment)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    difference = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    text = f"relative difference of the gradients {difference:.1e}"
    return Outcome(difference <= MAX_GRADIENT_DIFFERENCE, text, f"<= {MAX_GRADIENT_DIFFERENCE:g}")


def shapes_experiment(plan: Plan) -> tuple[Experiment, int]:
    """Return the experiment of the training run on synthetic shapes, and its number of iterations."""
    side, images, iterations = (96, 16, 8) if plan.quick else (192, 64, 240)
    experiment = replace_settings(recipe("sais-lite"), "input", mode="fixed", size=(side, side))
    batch_size = 4 if plan.quick else 8
    epochs = iterations * batch_size // images
    optim = OptimConfig(name="adamw", lr=1e-3, batch_size=batch_size)
    schedule = ScheduleConfig(epochs=epochs, kind="cosine", warmup=10, warmup_kind="linear")
    run = replace(experiment.run, device=plan.device, workers=0, precision="fp32", loggers=(), evaluate_every=epochs)
    return replace(experiment, name="gpu-check", optim=optim, schedule=schedule, run=run), iterations


def _train(plan: Plan, name: str, iterations: int, resume: bool = False) -> list[float]:
    """Train on synthetic shapes and return the losses of the iterations in the log of the run."""
    data, images = plan.out / "shapes", 16 if plan.quick else 64
    if not data.exists():
        write_shapes(data, train=images, valid=8, size=IMAGE_SIZE)
    experiment, _ = shapes_experiment(plan)
    with open(plan.out / "training.txt", "a") as file, contextlib.redirect_stdout(file):
        train(experiment, data, plan.out / name, resume=resume, max_iterations=iterations, random_init=True)
    return _logged_losses(plan.out / name)


def _logged_losses(folder: Path) -> list[float]:
    """Return the losses in the log of a run, one per iteration."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["total"] for entry in entries if entry["kind"] == "iteration"]


def train_on_shapes(plan: Plan) -> Outcome:
    """Train on synthetic shapes without interruption; all losses must be finite and the last below the first."""
    _, iterations = shapes_experiment(plan)
    shutil.rmtree(plan.out / "uninterrupted", ignore_errors=True)
    losses = _train(plan, "uninterrupted", iterations)
    finite = all(math.isfinite(loss) for loss in losses)
    return Outcome(finite and losses[-1] < losses[0], f"loss {losses[0]:.2f} -> {losses[-1]:.2f}", "decreasing")


def compare_resumed(plan: Plan) -> Outcome:
    """Train the first half, resume, and compare the last loss with that of the uninterrupted run."""
    _, iterations = shapes_experiment(plan)
    expected = _logged_losses(plan.out / "uninterrupted")
    shutil.rmtree(plan.out / "resumed", ignore_errors=True)
    _train(plan, "resumed", iterations // 2)
    losses = _train(plan, "resumed", iterations, resume=True)
    difference = abs(losses[-1] - expected[-1]) / abs(expected[-1])
    limit = 0.0 if plan.device == "cpu" else MAX_LOSS_DIFFERENCE
    same_length = len(losses) == len(expected)
    text = f"{len(losses)} iterations, relative difference of the last loss {difference:.1e}"
    return Outcome(same_length and difference <= limit, text, f"<= {limit:g}")


def _detections_report(plan: Plan, expected: Predictor, actual: Predictor) -> Outcome:
    """Compare the detections of two predictors on synthetic images."""
    report = ParityReport()
    for number in range(8):
        image = make_scene(0, "valid", number, IMAGE_SIZE).image
        report.add(expected(image), actual(image), plan.min_score)
    passed = (
        report.objects > 0
        and report.unmatched <= 0.02 * report.objects
        and report.max_score_difference <= MAX_SCORE_DIFFERENCE
        and report.max_box_difference <= MAX_BOX_DIFFERENCE
        and report.min_mask_iou >= MIN_MASK_IOU
    )
    limit = f"scores {MAX_SCORE_DIFFERENCE:g}, boxes {MAX_BOX_DIFFERENCE:g} pixels, mask IoU {MIN_MASK_IOU:g}"
    return Outcome(passed, str(report), limit, asdict(report))


def _predictor(plan: Plan, device: str) -> Predictor:
    """Return a predictor of the uninterrupted run on a device."""
    return Predictor(plan.out / "uninterrupted", InferenceOptions(score=plan.min_score, device=device))


def compare_detections(plan: Plan) -> Outcome:
    """Compare the detections of the trained network on the device and on the CPU."""
    return _detections_report(plan, _predictor(plan, "cpu"), _predictor(plan, plan.device))


def compare_evaluation(plan: Plan) -> Outcome:
    """Compare the AP of the trained network on the device and on the CPU."""
    scores = []
    for device in ("cpu", plan.device):
        predictor = Predictor(plan.out / "uninterrupted", InferenceOptions(device=device))
        metrics = evaluate(predictor, plan.out / "shapes", workers=0).metrics
        assert metrics is not None
        scores.append([kind.AP for kind in (metrics.box, metrics.mask) if kind is not None])
    difference = max(abs(first - second) for first, second in zip(*scores, strict=True))
    text = f"box and mask AP {', '.join(f'{ap:.4f}' for ap in scores[1])}, maximum difference {difference:.1e}"
    return Outcome(difference <= MAX_AP_DIFFERENCE, text, f"<= {MAX_AP_DIFFERENCE:g}")


def compare_export(plan: Plan) -> Outcome:
    """Export the trained network to ONNX and compare the detections of ONNX Runtime with those on the device."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        graph: Literal["raw", "detections"] = "raw" if plan.quick else "detections"  # raw has no score threshold
        export_model(plan.out / "uninterrupted", path, ExportOptions(graph=graph))
        exported = Predictor(path, InferenceOptions(score=plan.min_score, device="cpu"))
        return _detections_report(plan, _predictor(plan, plan.device), exported)


def measure_training(plan: Plan, experiment: Experiment, precision: str) -> Outcome:
    """Measure time, peak memory and host synchronizations of a training step with random weights."""
    batch_size, steps = (2, 2) if plan.quick else (8, 20)
    experiment = replace_settings(experiment, "run", device=plan.device, precision=precision)
    workload = make_workload(12, (240, 320) if plan.quick else (960, 1280), 80)
    training = set_up_training(experiment, experiment.input.size, workload, plan.device)
    optimizer = torch.optim.SGD([p for p in training.model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)
    clock, times, losses = clock_of(plan.device), [], []
    synchronizations: int | None = None
    if plan.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for step in range(steps + 2):  # the first two are a warm-up
        start = clock()
        counting = plan.on_gpu and step == 1
        with count_synchronizations(counting) as counted:
            optimizer.zero_grad(set_to_none=True)
            loss = total(training.losses(batch_size))
            loss.backward()
            optimizer.step()
        synchronizations = len(counted) if counting else synchronizations
        losses.append(float(loss.detach()))
        if step > 1:
            times.append(clock() - start)
    seconds = statistics.median(times)
    values: dict[str, Any] = {"seconds": seconds, "images_per_second": batch_size / seconds, "losses": losses}
    text = f"{1000 * seconds:.1f} ms, {batch_size / seconds:.1f} images/s at batch {batch_size}"
    if plan.on_gpu:
        values["peak_bytes"], values["synchronizations"] = torch.cuda.max_memory_allocated(), synchronizations
        text += f", peak {values['peak_bytes'] / 2**30:.2f} GiB, {synchronizations} host synchronizations"
    return Outcome(all(math.isfinite(loss) for loss in losses), text, "finite losses", values)


@contextlib.contextmanager
def count_synchronizations(enabled: bool) -> Iterator[list[warnings.WarningMessage]]:
    """Collect a warning for each operation that synchronizes the CUDA device with the host; none if not enabled."""
    if not enabled:
        yield []
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")


def measure_latency(plan: Plan, experiment: Experiment, options: InferenceOptions) -> Outcome:
    """Measure the latency of each stage per image, with 100 injected objects (20 if quick)."""
    objects, size, repeats = (20, (240, 320), 2) if plan.quick else (100, (960, 1280), 10)
    conditions = Conditions(objects, size, repeats=repeats, device=plan.device)
    candidate = recipe_candidate(experiment.name, experiment, options)
    if plan.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    (timing,) = time_candidates([candidate], conditions.workload(), conditions)
    values: dict[str, Any] = asdict(timing)
    text = (
        f"{timing.end_to_end:.1f} ms = preprocess {timing.preprocess:.1f} + network {timing.network:.1f} + "
        f"postprocess {timing.postprocess:.1f}, {1000 / timing.end_to_end:.1f} images/s"
    )
    if plan.on_gpu:
        values["peak_bytes"] = torch.cuda.max_memory_allocated()
        text += f", peak {values['peak_bytes'] / 2**30:.2f} GiB"
    return Outcome(None, text, values=values)
