"""The `sais` command: run the command named first, and turn errors into one line and an exit code.

Exit codes: 0 success, 2 an error that the user can fix (`sais: error: ...` on stderr), 130 interrupted. A bug of sais
is a traceback and 1. Each command is a file in `sais.commands`, with a row in `sais.commands.table`; none is imported
until it is called, so that `sais --help` is fast and needs no torch.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sais._version import __version__
from sais.commands.table import COMMANDS, arguments_of
from sais.text import (
    error_message,
    print_lines,
    print_text,
    printable,
    printable_lines,
    quiet_output,
    text_to_stderr,
)

__all__ = ["COMMANDS", "EXTRAS", "arguments_of", "main", "name_options", "overview"]

EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "safetensors": "train",
    "faster_coco_eval": "eval",
    "tensorboard": "train",
    "av": "video",
    "supervision": "supervision",
    "matplotlib": "reproduce",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "optuna": "tune",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "huggingface_hub": "hub",
    "ray": "ray",
    "pyarrow": "parquet",
    "fsspec": "parquet",
}
"""Package that may be missing -> the extra of `sais-seg` that installs it."""

FIXABLE_ERRORS = (
    *(errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
"""Error numbers of the file system that the user can fix: disk full, permissions, a file in place of a folder."""

TORCHVISION_MISMATCH = "operator torchvision::nms does not exist"
"""What importing torchvision raises when its compiled part cannot be loaded into the installed torch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name) and return the exit code."""
    own_process = argv is None  # called with arguments, main runs in somebody else's
    if own_process:
        from sais.commands.threads import let_threads_sleep
        from sais.engine.signals import exit_on_signals, exit_soon

        let_threads_sleep()
        exit_on_signals()
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or os.environ.get("SAIS_DEBUG", "") not in ("", "0")
    without_cache, quiet = "--no-cache" in argv, "--quiet" in argv and not {"-h", "--help"} & set(argv)
    argv = [word for word in argv if word not in ("--debug", "--no-cache", "--quiet")]
    try:
        with _annotation_cache_off() if without_cache else contextlib.nullcontext():
            code = _dispatch(argv, debug, quiet)
        if own_process and code > 128:  # a signal: threads and processes may wait for files that never arrive
            exit_soon(code)
        sys.stdout.flush()  # not left to the end of Python, which would print a traceback
        return code
    except BrokenPipeError:  # the reader has closed the pipe: `sais recipes | head`
        _discard_output()
        return 0
    except OSError as error:
        if debug or error.errno not in FIXABLE_ERRORS:
            raise
        _discard_output()
        return _print_error(f"output cannot be written: {error.strerror}. Free disk space, or choose another place.")


@contextlib.contextmanager
def _annotation_cache_off() -> Iterator[None]:
    """Switch the annotation cache off inside the block, for this process and those that it starts."""
    previous = os.environ.get("SAIS_CACHE")
    os.environ["SAIS_CACHE"] = "off"
    try:
        yield
    finally:
        del os.environ["SAIS_CACHE"]
        if previous is not None:
            os.environ["SAIS_CACHE"] = previous


def _dispatch(argv: list[str], debug: bool, quiet: bool) -> int:
    """Run a command line and return the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print_lines(overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print_text(__version__)
        return 0
    from sais.commands.renamed import COMMAND_ALIASES

    if argv[0] in COMMAND_ALIASES:
        former, argv = argv[0], [COMMAND_ALIASES[argv[0]], *argv[1:]]
        print_text(f"sais: note: the command {former} is now called {argv[0]}", file=sys.stderr)
    if argv[0] not in COMMANDS:
        return _print_error(_unknown_command(argv[0]))
    if _is_directory_deleted():  # PyTorch's libraries end the process there, without an exception
        return _print_error("the working directory has been deleted. Change to a folder that exists.")
    return _run(argv[0], argv[1:], debug, quiet and not COMMANDS[argv[0]].is_listing)


def overview() -> str:
    """Return the text of `sais --help`: every command with a line, and an example."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
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
            "  sais predict runs/first some_folder",
            "",
            "--debug (or SAIS_DEBUG=1) shows the traceback of an error.",
            "--quiet shows errors only, and the JSON that --json asks for.",
            "--no-cache (or SAIS_CACHE=off) reads large annotation files again, not from the annotation cache.",
        ]
    )


def _run(command: str, argv: list[str], debug: bool, quiet: bool) -> int:
    from sais.errors import SaisError

    for stream in (sys.stdout, sys.stderr):  # print names that the terminal's encoding lacks with escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _format_warning
    if not debug:  # Pillow warns about large images and odd EXIF data, which are read all the same
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with _redirected_output(command, argv, quiet):
            return int(importlib.import_module(f"sais.commands.{COMMANDS[command].module}").run(argv))
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print_text(f"sais: {command} interrupted", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:  # NotImplementedError is a RuntimeError
        operator = None if debug else _missing_mps_operator(error)
        if operator is not None:
            return _print_error(
                f"sais {command}: this version of PyTorch has no {operator} on MPS. Set the environment variable "
                "PYTORCH_ENABLE_MPS_FALLBACK=1, which computes it on the CPU, or use --device cpu."
            )
        if not debug and TORCHVISION_MISMATCH in str(error):
            return _print_error(
                f"sais {command}: torch and torchvision do not fit together: their versions differ, or only one is a "
                "build without CUDA. Install both again in one pip command, from the same index."
            )
        from sais.engine.signals import is_worker_death

        if not debug and is_worker_death(error):
            return _print_error(
                f"sais {command}: a process that reads images ended, usually because of too little memory. Use fewer "
                "--workers, or 0."
            )
        if debug or not _is_out_of_memory(error):
            raise
        return _print_error(
            f"sais {command}: memory does not suffice. Close other programs, or ask for less at once, such as fewer or "
            "smaller images."
        )
    except SaisError as error:
        if debug:
            raise
        return _print_error(name_options(str(error), arguments_of(command), argv))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package not in EXTRAS:
            raise
        return _print_error(missing_package(command, package))
    except OSError as error:
        if debug or error.errno not in FIXABLE_ERRORS or error.filename is None:
            raise
        return _print_error(f"{error.filename}: {error.strerror}. Choose another path or change the permissions.")


def _redirected_output(command: str, argv: list[str], quiet: bool) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a command prints as --quiet and --json ask."""
    if quiet:
        return quiet_output()
    return text_to_stderr() if prints_json(arguments_of(command), argv) else contextlib.nullcontext()


def prints_json(kind: type, argv: Sequence[str]) -> bool:
    """Return whether a command line asks for a JSON document on the standard output.

    Args:
        kind: the dataclass of the command's arguments. Its option --json is a flag, or it names a file, where - and no
            name are the standard output.
        argv: the command line after the command's name.
    """
    if isinstance(getattr(kind, "json", None), bool):
        return "--json" in argv
    from sais.commands.arguments import with_json_file

    return "--json=-" in with_json_file(argv) if hasattr(kind, "json") else False


def _discard_output() -> None:
    """Let nothing more be written to the standard output, so that the end of Python reports no error."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_directory_deleted() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _missing_mps_operator(error: BaseException) -> str | None:
    """Return the operator that PyTorch does not implement for Apple's MPS; None for any other error."""
    if not isinstance(error, NotImplementedError) or "MPS" not in str(error):
        return None
    return str(error).partition("The operator '")[2].partition("'")[0] or "operator of the network"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from sais.engine.out_of_memory import is_out_of_memory

    return is_out_of_memory(error)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of sais as one line, without its place in the code; others as Python prints them."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"sais: note: {error_message(message)}\n"
    return f"{printable(filename)}:{lineno}: {category.__name__}: {printable_lines(str(message))}\n"


def name_options(message: str, kind: type, argv: Sequence[str] = ()) -> str:
    """Replace the names of settings and arguments in a library's error by the options of a command.

    ``optim.lr``, ``skip_broken=True`` and, at the start of the message, ``score`` become ``--optim.lr``,
    ``--skip-broken`` and ``--score``, where the command has such an option.

    Args:
        message: the error's message.
        kind: the dataclass of the command's arguments.
        argv: the command line after the command's name. A value on it, and the name of a file in the working directory,
            is not the name of a setting: `--out search`, or the folder "images" of `--data .`.
    """
    from sais.commands.options import options_of

    values = {value for word in argv for value in (word, word.partition("=")[2])}
    fields = {option.field: option.name for option in options_of(kind) if not option.positional}

    def option(match: re.Match[str]) -> str:
        name, flag = match[1], match[2]
        if not flag and (name in values or os.path.lexists(name)):
            return match[0]
        heads = match.start() == 0 and message[match.end() : match.end() + 1] == ":"
        return fields[name] if name in fields and (heads or flag or "." in name or "_" in name) else match[0]

    return re.sub(r"(?<![\w/.\-'\"])([a-z]\w*(?:\.[a-z]\w*)?)(=True)?(?![\w/'\"])(?!\.\w)", option, message)


def missing_package(command: str, package: str) -> str:
    """Return the message for an installation without `package`, which `command` needs."""
    name = "PyTorch" if package == "torch" else package
    return f'sais {command}: {name} is not installed. Run pip install "sais-seg[{EXTRAS[package]}]".'


def _unknown_command(name: str) -> str:
    from sais.commands.renamed import RENAMED_COMMANDS
    from sais.resolve import suggest

    if name in RENAMED_COMMANDS:
        return f"the command {name} has been renamed. Use sais {RENAMED_COMMANDS[name]}."
    return f"{name}: unknown command{suggest(name, COMMANDS)}"


def _print_error(message: Any) -> int:
    """Print an error in one line, without its line breaks, and return the exit code."""
    print_text("sais: error: " + error_message(message), file=sys.stderr)
    return 2
