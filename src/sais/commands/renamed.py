"""Options and commands that had other names, for one clear error with the new name."""

from __future__ import annotations

RENAMED_COMMANDS = {"shapes": "make-shapes"}
"""Former name of a command -> its name. The former name is an error."""
COMMAND_ALIASES = {"check": "doctor"}
"""Former name of a command -> its name. The former name still works, with a note."""

RENAMED_OPTIONS = {
    "--targets.rule": "--criterion.assigner",
    "--losses.box": "--criterion.box-loss",
    "--losses.class-weight": "--criterion.class-weight",
    "--losses.box-weight": "--criterion.box-weight",
    "--losses.centerness-weight": "--criterion.quality-weight",
    "--losses.mask-weight": "--criterion.mask-weight",
    "--losses.mask-positives": "--criterion.mask-positives",
    "--losses.mask-margin": "--criterion.mask-margin",
    "--test.score": "--postprocess.score-threshold",
    "--test.candidates": "--postprocess.pre-nms-topk",
    "--test.nms": "--postprocess.nms-iou",
    "--test.detections": "--postprocess.max-detections",
    "--test.mask-margin": "--postprocess.mask-margin",
    "--optim.batch": "--optim.batch-size",
    "--optim.clip": "--optim.grad-clip-norm",
    "--schedule.steps": "--schedule.milestones",
    "--schedule.factor": "--schedule.gamma",
    "--augment.expand-most": "--augment.expand-max",
    "--augment.expand-ground": "--augment.expand-fill",
    "--augment.crop-least": "--augment.crop-min",
    "--augment.compose-epochs": "--augment.mosaic-copy-paste-epochs",
    "--augment.colour-jitter": "--augment.color-jitter",
    "--input.flip": "--augment.flip",
    "--input.scale-jitter": "--augment.scale-jitter",
    "--input.colour-jitter": "--augment.color-jitter",
    "--input.color-jitter": "--augment.color-jitter",
    "--run.recompute": "--run.activation-checkpointing",
    "--run.convolutions": "--run.cpu-convolutions",
    "--run.on-bad-loss": "--run.on-nonfinite-loss",
    "--compiled": "--compile",
    "--every": "--frame-stride",
    "--most": "--max-images",
    "--any-size": "--dynamic-shape",
    "--flip": "--tta-flip",
    "--scales": "--tta-scales",
    "--recompute": "--activation-checkpointing",
    "--rule": "--assigner",
    "--input": "--input-size",
    "--input-size": "--size",
    "--times": "--time",
    "--no-times": "--no-time",
    "--counts": "--object-counts",
    "--batches": "--batch-sizes",
    "--batch": "--batch-size",
    "--steps": "--max-iterations",
    "--iterations": "--max-iterations",
    "--size": "--image-size",
    "--picture": "--image-size",
    "--image": "--image-id",
    "--images": "--image-folder",
}
"""Former name of an option -> its name. It is an error of the commands that have the latter and not the former."""
