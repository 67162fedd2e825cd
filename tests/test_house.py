"""The house rules, held by machine: sizes, docstrings, who imports whom, what loads without torch, public names."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sais

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src/sais").rglob("*.py"))
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 70
TORCH_FREE = (
    "structures",
    "config",
    "files",
    "detections",
    "images",
    "sources",
    "draw",
    "cli",
    "assembly",
    "patches",
    "seams",
    "tiles",
    "variants",
)
NEEDS_TORCH = ("sais.data.loader", "sais.ops.boxes")  # batches and boxes of the network, inside these packages
TORCH_FREE_PACKAGES = ("data", "geometry", "recipes", "commands", "runtimes")


def name_of(path: Path) -> str:
    """src/sais/data/index.py -> data/index.py, for the test's id."""
    return path.relative_to(ROOT / "src/sais").as_posix()


def definitions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Every function and class of a file, also inside classes and functions."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_fit(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_FILE
    for node in definitions(path):
        if not isinstance(node, ast.ClassDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_things_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), "a file opens by saying what it is"
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    for node in public:
        assert ast.get_docstring(node), node.name
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                # forward is documented by its class or itself; private and dunder methods speak for themselves
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.name != "forward":
                    assert ast.get_docstring(method), f"{node.name}.{method.name}"


def test_no_folder_called_utils() -> None:
    assert not [p for p in SOURCES if "util" in name_of(p) or "helper" in name_of(p)]


def test_public_names() -> None:
    assert sais.__all__ == ["Detections", "Experiment", "Predictor", "SaisError", "__version__"]
    assert set(sais._HOMES) | {"__version__"} == set(sais.__all__)
    for name in ("Detections", "Experiment", "SaisError"):
        assert getattr(sais, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Absent'"):
        sais.Absent  # noqa: B018


def test_predictor_is_public() -> None:
    pytest.importorskip("torch")
    assert sais.Predictor.__name__ == "Predictor"


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_sais_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'cv2', 'tyro', 'rich'}"
    assert python(f"import sys, sais; print({heavy} & set(sys.modules))").strip() == "set()"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sais.cli import main\nassert main(['--help']) == 0\n"
        "print({'torch', 'numpy', 'PIL', 'cv2', 'tyro'} & set(sys.modules))"
    )
    assert python(code).splitlines()[-1] == "set()"


def test_the_base_imports_without_torch() -> None:
    """Every module of the base install, with the packages of the extras out of reach."""
    modules = ["sais." + name for name in TORCH_FREE]
    for package in TORCH_FREE_PACKAGES:
        for path in (ROOT / "src/sais" / package).rglob("*.py"):
            parts = path.relative_to(ROOT / "src").with_suffix("").parts
            modules.append(".".join(p for p in parts if p != "__init__"))
    modules = [name for name in modules if name not in NEEDS_TORCH]
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'torchvision', 'timm', 'safetensors', 'faster_coco_eval', 'pycocotools', 'av', 'cv2'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print(len(sys.modules))"
    )
    assert int(python(code)) > 0


def test_who_imports_whom() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed (extra dev)")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
