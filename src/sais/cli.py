"""The `sais` command: finds the command named, runs it, turns what went wrong into one line and an exit code.

Exit codes: 0 done, 2 something the user can mend (`sais: error: ...` on stderr), 130 interrupted. A fault of ours is a
traceback and 1. Each command is a file in `sais.commands` with a dataclass of arguments and `run(argv) -> int`; this
file imports none of them until asked, so `sais --help` is quick and needs no torch.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from sais._version import __version__

COMMANDS = {
    "train": ("sais.commands.train", "train a model on your labeled images"),
    "eval": ("sais.commands.evaluate", "measure a model: COCO box and mask AP"),
    "predict": ("sais.commands.predict", "find the objects in images or a video: drawn images and JSON"),
    "runs": ("sais.commands.runs", "list and compare training runs"),
    "report": ("sais.commands.report", "write the page of a run: curves, AP, errors, the best and the worst images"),
    "export": ("sais.commands.export", "write a model for other programs: ONNX, OpenVINO, torch.export"),
    "check": ("sais.commands.check", "look for mistakes in a data set before training on it"),
    "split": ("sais.commands.split", "split one COCO file into images to train on and images to measure on"),
    "shapes": ("sais.commands.make_shapes", "write a synthetic data set to try things on"),
    "recipes": ("sais.commands.recipes", "list the recipes a training run can start from"),
    "reproduce": ("sais.commands.reproduce", "the paper's tables and figures again, on your data and machine"),
    "draw-targets": ("sais.commands.draw_targets", "draw which object each location learns (the paper's Figure 2)"),
    "draw-augmented": ("sais.commands.draw_augmented", "draw images as training will see them"),
    "bench": ("sais.commands.bench", "measure time and memory"),
    "demo": ("sais.commands.demo", "the whole road on synthetic images, on this machine, in minutes"),
    "version": ("sais.commands.version", "versions of sais and of what it stands on"),
}
"""Command -> (module with `run(argv)`, one line of help)."""

EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "safetensors": "train",
    "faster_coco_eval": "train",
    "tensorboard": "train",
    "av": "video",
    "supervision": "supervision",
    "matplotlib": "reproduce",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
"""Package that may be missing -> the extra of `sais-seg` that brings it."""

_MENDABLE = (
    *(errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or os.environ.get("SAIS_DEBUG", "") not in ("", "0")
    argv = [a for a in argv if a != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        from sais.resolve import suggest

        return _say(f"unknown command '{argv[0]}'{suggest(argv[0], COMMANDS)}")
    return _run(argv[0], argv[1:], debug)


def overview() -> str:
    """What `sais --help` prints: each command with a line, and an example."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            f"sais {__version__}: single-stage anchor-free instance segmentation",
            "",
            "usage: sais COMMAND [options]      sais COMMAND --help lists the options",
            "",
            *lines,
            "",
            "example:",
            "  sais train sais-lite --data my_images --out runs/first",
            "  sais predict runs/first/best.safetensors some_folder",
            "",
            "--debug (or SAIS_DEBUG=1) shows the traceback of an error.",
        ]
    )


def _run(command: str, argv: list[str], debug: bool) -> int:
    from sais.errors import SaisError

    for stream in (sys.stdout, sys.stderr):  # a name the terminal cannot spell is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not debug:  # Pillow warns of large images and odd EXIF, which we read nonetheless
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        return int(importlib.import_module(COMMANDS[command][0]).run(argv))
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # `sais recipes | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"sais: {command} interrupted", file=sys.stderr)
        return 130
    except SaisError as error:
        if debug:
            raise
        return _say(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package not in EXTRAS:
            raise
        return _say(missing(command, package))
    except OSError as error:
        if debug or error.errno not in _MENDABLE or error.filename is None:
            raise
        return _say(f"{error.filename}: {error.strerror}; choose another place or mend its permissions")


def missing(command: str, package: str) -> str:
    """What to tell a user whose installation lacks `package`, which `command` needs."""
    name = "PyTorch" if package == "torch" else package
    return f'sais {command} needs {name}: pip install "sais-seg[{EXTRAS[package]}]"'


def _say(message: str) -> int:
    """Print an error in one line, whatever line breaks it holds."""
    print("sais: error: " + " ".join(message.split()), file=sys.stderr)
    return 2
