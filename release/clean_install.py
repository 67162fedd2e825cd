"""Install a wheel into a clean environment and use it there.

    python -m release.clean_install dist                             # no torch: predict and serve with an ONNX model
    python -m release.clean_install dist --tests --lowest --python 3.11 # all tests, lowest versions of pyproject.toml
    python -m release.clean_install dist --tests --python 3.13       # all tests, newest versions
    python -m release.clean_install dist --tests tests/io --quick    # the quick tests of a folder

uv (extra `release`) makes the environments: pip cannot choose lowest versions. The tests run in a copy of the files
that git tracks and import what the wheel installed. Environment and copy are deleted afterwards; with `--folder
FOLDER`, they are kept, to repeat a failed test.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from release.contents import ROOT

EXTRAS = (
    "train,imagenet-lite,tune,video,track,hub,export,onnx,openvino,serve,ray,parquet,report,reproduce,eval,heif,fonts,"
    "supervision,browser,docs,release,dev"
)
"""What the tests use; the two loggers of other makers, wandb and mlflow, are replaced in the tests."""
NEWEST_EXTRAS = "track-eval"
"""What the tests use in addition, and which needs newer packages than the lowest versions."""
ALL_TESTS = ("-m", "slow or not slow", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
QUICK_TESTS = ("-m", "not slow", *ALL_TESTS[2:])
"""Options of pytest; `make test` has those of ALL_TESTS."""
SECONDS = 60
"""How long the server may take to start."""


def run(command: Sequence[str | Path], folder: Path | None = None, **environment: str) -> str:
    """Run a command, pass on its standard error, and return what it printed; an error ends this program."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def install(folder: Path, wheel: Path, extras: str, python: str, lowest: bool) -> Path:
    """Install a wheel into a new environment and return its folder of programs.

    Args:
        folder: the environment, which does not exist yet.
        wheel: the .whl file.
        extras: names of extras, separated by commas.
        python: interpreter or version.
        lowest: whether the dependencies that pyproject.toml names get their lowest versions.
    """
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    uv = shutil.which("uv", path=search)
    if uv is None:
        raise SystemExit('uv is not installed. Run pip install -e ".[release]".')
    run([uv, "venv", "--quiet", "--python", python, folder])
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", programs / "python"]
    if lowest:  # of the wheel's own dependencies, uv would take the newest: they are not direct
        names = [word for name in extras.split(",") for word in ("--extra", name)]
        run([*pip, "--resolution", "lowest-direct", "-r", ROOT / "pyproject.toml", *names])
    run([*pip, f"sais-seg[{extras}] @ {wheel.resolve().as_uri()}"])
    return programs


def make_model(folder: Path) -> None:
    """Write model.onnx and the images that it was trained on, with the sais and the torch of this environment."""
    sais = [sys.executable, "-m", "sais"]
    network = ("--model.backbone", "tf_efficientnet_lite0.in1k", "--model.channels", "64")
    small = ("--size", "64", "--batch-size", "4", "--epochs", "1", "--workers", "0", "--device", "cpu", "--no-report")
    run([*sais, "make-shapes", "shapes", "--train", "8", "--valid", "2"], folder, OMP_NUM_THREADS="1")
    run([*sais, "train", "sais-lite", "--data", "shapes", "--out", "run", *network, *small], folder)
    run([*sais, "export", "run", "--graph", "raw", "--out", "model.onnx"], folder)  # the others drop low scores


def answer(url: str, body: bytes | None = None) -> Any:
    """Return the JSON of an address, of a POST request if there is an image."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "image/jpeg"} if body else {})
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        return json.load(response)


def check_service(programs: Path, folder: Path, port: int = 8017) -> str:
    """Predict and serve with model.onnx in an environment without torch; return what was found in words."""
    missing = "import importlib.util as u; print([n for n in ('torch', 'timm', 'cv2') if u.find_spec(n)])"
    if run([programs / "python", "-c", missing]).strip() != "[]":
        raise SystemExit("the environment without extras has torch, timm or OpenCV")
    images = sorted((folder / "shapes/images/valid").iterdir())
    words = ["predict", "model.onnx", "shapes/images/valid", "--score", "0.001", "--out", "predictions"]
    run([programs / "sais", *words], folder)
    saved = json.loads((folder / "predictions/predictions.json").read_text(encoding="utf-8"))["annotations"]
    process = subprocess.Popen([programs / "sais", "serve", "model.onnx", "--port", str(port)], cwd=folder)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(SECONDS):
            try:
                urllib.request.urlopen(f"{address}/readyz", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        body = images[0].read_bytes()
        objects = answer(f"{address}/v1/predict?score=0.001", body)["images"][0]["objects"]
        page = urllib.request.urlopen(f"{address}/", timeout=SECONDS).read()
    finally:
        process.terminate()
        process.wait(SECONDS)
    first = [item for item in saved if item["image_id"] == min(item["image_id"] for item in saved)]
    if len(objects) != len(first) or not objects or b"<html" not in page:
        raise SystemExit(f"the service found {len(objects)} objects, the command {len(first)}")
    return f"without torch: {len(objects)} objects by the command and by the service, which also has its page"


def copy_repository(folder: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree, into a new folder."""
    for name in filter(None, run(["git", "ls-files", "-z"], ROOT).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def run_tests(programs: Path, folder: Path, options: Sequence[str]) -> None:
    """Run tests in a copy of the repository with the installed package; a failed test ends this program.

    Args:
        programs: the environment's folder of programs.
        folder: the copy, which does not exist yet.
        options: options of pytest and paths of tests; without paths, all tests.
    """
    copy_repository(folder)
    data = os.environ.get("SAIS_DATA", str(ROOT.parent / "shared/data"))
    command = [programs / "python", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--max-worker-restart", "0"]
    done = subprocess.run(
        [*map(str, command), *options], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "SAIS_DATA": data}
    )
    if done.returncode:
        raise SystemExit(f"pytest: status {done.returncode}")


def check(arguments: argparse.Namespace, wheel: Path, folder: Path) -> None:
    """Install a wheel below a folder and check it as the arguments of the command line say."""
    extras = "serve,onnx"
    if arguments.tests is not None:
        extras = EXTRAS if arguments.lowest else f"{EXTRAS},{NEWEST_EXTRAS}"
    programs = install(folder / "environment", wheel, extras, arguments.python, arguments.lowest)
    print(run([programs / "sais", "version"]), end="", flush=True)
    if arguments.tests is None:
        (folder / "work").mkdir()
        make_model(folder / "work")
        print(check_service(programs, folder / "work"))
    else:
        options = QUICK_TESTS if arguments.quick else ALL_TESTS
        run_tests(programs, folder / "work", [*options, *arguments.tests])


def main() -> None:
    """Read the command line, install the wheel and check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder with one wheel")
    parser.add_argument("--python", default=sys.executable, help="interpreter or version of the environment")
    parser.add_argument("--lowest", action="store_true", help="lowest versions of the direct dependencies")
    parser.add_argument("--tests", nargs="*", metavar="PATH", help="run these tests; without a value, all of them")
    parser.add_argument("--quick", action="store_true", help="leave out the tests that are marked slow")
    parser.add_argument("--folder", type=Path, help="new folder for environment and copy, which is kept")
    arguments = parser.parse_args()
    wheels = sorted(arguments.dist.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{arguments.dist}: {len(wheels)} wheels. Empty it and build again.")
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True)
        check(arguments, wheels[0], arguments.folder.resolve())
        return
    with tempfile.TemporaryDirectory(prefix="sais-release-") as name:
        check(arguments, wheels[0], Path(name))


if __name__ == "__main__":
    main()
