"""The rules of the package's layout: sizes, docstrings, imports, what loads without torch."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
FILES = sorted((SOURCE / "sais").rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
CLOSURES = {
    "predictor with network": (
        ("sais.inference.predictor", "sais.inference.backends.torch", "sais.modeling.sais_architecture"),
        3_460,
        29,
    ),
    "predictor": (("sais.inference.predictor", "sais.inference.backends.torch"), 2_700, 21),
    "trainer": (("sais.engine.trainer",), 8_100, None),
}
"""Name -> modules, the maximum number of lines of all that they import, and of modules.

"predictor" is everything outside of the architecture; it names the network's module in a table and imports it from
there. "predictor with network" is all that a prediction with torch at default settings reads, except what is imported
inside of functions: the converter `fuse` with its two helpers, on a CPU also `for_device` and `winograd_inference`, and
tiles and test-time augmentation where the options ask for them."""
TORCH_FREE = (
    *("_version", "cli", "commands", "config", "config_ranges", "device", "errors", "recipes", "resolve", "structures"),
    *("data", "io", "ops", "results", "serving", "tracking"),
    *("inference.assemble", "inference.numpy_postprocess", "inference.options", "inference.predictor"),
    *("inference.slice_merging", "inference.slicing", "inference.tta"),
    *("inference.backends.onnxruntime", "inference.backends.openvino"),
)
"""Modules and packages, below `sais`, that import without the packages of the extras."""
NEEDS_TORCH = (
    *("sais.data.loader", "sais.ops.boxes", "sais.ops.derivatives", "sais.ops.distances", "sais.ops.transfers"),
    *("sais.ops.fixed_nms", "sais.ops.masks_on_device"),
)
"""Exceptions inside the packages of `TORCH_FREE`: batches of tensors, and boxes of the network."""
_AXIS = r"(?:\.\.\.|\.|\*|[A-Za-z]?\d*|[a-z]+_?[a-z]*|1\ or\ \d|\d+)(?:\ ?[*+/\-x]\ ?\w+)*"
SHAPE = re.compile(
    rf"""\((?=[^)]*(?:\b[A-Z]\b|\bh\b|\bheight\b|\d|\.\.\.))(?:{_AXIS},\s*)+(?:{_AXIS})?\)  # (B, 3, H, W), (N,)
    | \b[A-Z]\ x\ [A-Z]\b                                                              # H x W
    | \b(?:scalars?|0-d|any\ shape|same\ shape|shape\ of)\b""",
    re.VERBOSE,
)
"""How a docstring states the shape of a tensor or an array."""


def name_of(path: Path) -> str:
    """Return the test id of a source file: src/sais/data/split.py -> data/split.py."""
    return path.relative_to(SOURCE / "sais").as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = tree_of(path)
    if tree.body:
        assert ast.get_docstring(tree), "the file has no docstring"
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    for node in public:
        assert ast.get_docstring(node), node.name
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                # The docstring of a module's class documents its `forward`.
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.name != "forward":
                    assert ast.get_docstring(method), f"{node.name}.{method.name}"


def functions_without_shapes(path: Path) -> list[str]:
    """Return the public functions of a file that take or return arrays and whose docstrings state no shape."""
    findings = []
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            functions, outer = [node], ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            functions = [n for n in methods if not n.name.startswith("_") or n.name == "__call__"]
            outer = ast.get_docstring(node) or ""
        else:
            continue
        for function in functions:
            text = ast.get_docstring(function) or ""
            if function.name in ("forward", "__call__"):
                text += outer
            if handles_arrays(function) and not SHAPE.search(text):
                owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                findings.append(f"{name_of(path)}:{function.lineno}: {owner}{function.name}")
    return findings


def handles_arrays(function: ast.FunctionDef) -> bool:
    """Return whether the signature of a function names a tensor or an array."""
    arguments = function.args
    annotations = [argument.annotation for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    text = " ".join(ast.unparse(node) for node in (*annotations, function.returns) if node is not None)
    return re.search(r"\b(Tensor|ndarray|NDArray)\b", text) is not None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_of_arrays_state_shapes(path: Path) -> None:
    assert not functions_without_shapes(path)


def path_of(module: str) -> Path | None:
    """Return the file of a module below `src`, or None where no such module exists."""
    place = SOURCE / module.replace(".", "/")
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def imports_of(module: str) -> set[str]:
    """Return the modules of `sais` that `module` imports when it is loaded: not inside functions, not for types."""
    path = path_of(module)
    assert path is not None, module
    names: set[str] = set()
    nodes: list[ast.AST] = list(tree_of(path).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "sais"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sais":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if path_of(inner) else str(node.module))
        nodes += ast.iter_child_nodes(node)
    return names


def closure_of(modules: tuple[str, ...]) -> dict[str, int]:
    """Return every module that loading `modules` loads, and its number of lines."""
    lines: dict[str, int] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = path_of(module)
        if module not in lines and path is not None:
            lines[module] = len(path.read_text(encoding="utf-8").splitlines())
            waiting += imports_of(module)
    return lines


@pytest.mark.parametrize("name", CLOSURES)
def test_closure_is_small(name: str) -> None:
    modules, max_lines, max_modules = CLOSURES[name]
    lines = closure_of(modules)
    listing = "\n".join(f"{count:5} {module}" for module, count in sorted(lines.items()))
    assert sum(lines.values()) <= max_lines, f"{sum(lines.values())} lines:\n{listing}"
    assert max_modules is None or len(lines) <= max_modules, f"{len(lines)} modules:\n{listing}"


def test_no_folder_is_called_utils() -> None:
    assert not [path for path in FILES if "util" in name_of(path) or "helper" in name_of(path)]


def python(code: str) -> str:
    """Run code in a new interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
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


def test_base_install_imports_without_torch() -> None:
    """Import every module of `TORCH_FREE` where the packages of the extras are not installed."""
    modules = []
    for name in TORCH_FREE:
        path = path_of(f"sais.{name}")
        assert path is not None, name
        for file in path.parent.rglob("*.py") if path.name == "__init__.py" else [path]:
            parts = file.relative_to(SOURCE).with_suffix("").parts
            modules.append(".".join(part for part in parts if part != "__init__"))
    modules = [name for name in modules if name not in NEEDS_TORCH]
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'torchvision', 'timm', 'safetensors', 'faster_coco_eval', 'pycocotools', 'av', 'cv2',\n"
        "             'onnxruntime', 'openvino', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print(len(sys.modules))"
    )
    assert int(python(code)) > 0


def test_import_contracts_hold() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed (extra dev)")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
