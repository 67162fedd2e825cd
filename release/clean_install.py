"""Install a wheel into a clean environment and use it there.

    python -m release.clean_install dist                       # no torch: predict and serve with an ONNX model
    python -m release.clean_install dist --tests --lowest      # quick tests with the lowest versions of pyproject.toml
    python -m release.clean_install dist --tests --python 3.13 # and with the newest ones

uv (extra `release`) makes the environments: pip cannot choose lowest versions. The tests run in a copy of the
repository without src/, so that they import what the wheel installed. The environments are deleted afterwards.
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

EXTRAS = "train,imagenet-lite,video,track,hub,export,onnx,openvino,serve,report,reproduce,eval,heif,dev"
"""What the tests need; `dev` has pytest."""
QUICK_TESTS = (
    "tests/test_checkpoint.py tests/test_cli.py tests/test_public_names.py",
    "tests/export tests/inference",
    "tests/engine tests/modeling tests/converters",
    "tests/data tests/evaluation tests/io",
    "tests/ops tests/results tests/recipes tests/reports",
    "tests/serving tests/commands tests/extension tests/tracking tests/test_hub.py",
)
"""Parts of the tests; the tests of the documents and of the style do not depend on versions."""
COPIED = ("tests", "docs", "examples", "peers", "website", "release", "deploy")
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


def run_tests(programs: Path, folder: Path, parts: Sequence[str]) -> None:
    """Run parts of the quick tests with the installed package; the first part with a failed test ends the program."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "mkdocs.yml", ROOT / "Makefile"):
        shutil.copy(path, folder)
    data = os.environ.get("SAIS_DATA", str(ROOT.parent / "shared/data"))
    for part in parts:
        command = [str(programs / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *part.split()]
        done = subprocess.run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "SAIS_DATA": data})
        if done.returncode:
            raise SystemExit(f"{part}: status {done.returncode}")


def main() -> None:
    """Read the command line, install the wheel and check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder with one wheel")
    parser.add_argument("--python", default=sys.executable, help="interpreter or version of the environment")
    parser.add_argument("--lowest", action="store_true", help="lowest versions of the direct dependencies")
    parser.add_argument("--tests", nargs="*", help="run these tests; without a value, the quick ones")
    arguments = parser.parse_args()
    wheels = sorted(arguments.dist.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{arguments.dist}: {len(wheels)} wheels. Empty it and build again.")
    extras = "serve,onnx" if arguments.tests is None else EXTRAS
    with tempfile.TemporaryDirectory(prefix="sais-release-") as name:
        folder = Path(name)
        programs = install(folder / "environment", wheels[0], extras, arguments.python, arguments.lowest)
        print(run([programs / "sais", "version"]), end="")
        (folder / "work").mkdir()
        if arguments.tests is None:
            make_model(folder / "work")
            print(check_service(programs, folder / "work"))
        else:
            run_tests(programs, folder / "work", arguments.tests or QUICK_TESTS)


if __name__ == "__main__":
    main()
