"""How the time and memory of mask assembly grow with the number of objects and the size of the image.

Masks are created from the same prototypes, coefficients and boxes by two methods: box-local masks, and full-frame masks
in chunks of a few objects (all at once needs several times the memory). Full-frame masks are skipped where they would
exceed `MAX_PIXELS`.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sais.benchmark.masks import BOX_LOCAL, CHUNKED, METHODS, MaskCase, make_inputs, measured_memory, measured_times
from sais.errors import InputError, MissingDependencyError
from sais.io.outputs import mark_text

MAX_PIXELS = 3e9
"""Maximum number of objects times pixels of full-frame masks: about half a minute per run, and 3 GB of masks."""
MIN_MEGAPIXELS = 0.001
ASPECT_RATIO = 4 / 3


@dataclass(frozen=True)
class ScalingPoint:
    """The measurement of one case with one method."""

    method: str
    num_objects: int
    megapixels: float
    milliseconds: float
    mebibytes: float | None


def scaling_cases(object_counts: Sequence[int], megapixels: Sequence[float]) -> list[tuple[str, MaskCase]]:
    """Return the cases of both curves, each with the name of its curve.

    Args:
        object_counts: numbers of objects on an image of 1280 x 960 pixels; the curve "objects".
        megapixels: sizes of an image with 100 objects; the curve "image".

    Raises:
        InputError: a number is not positive.
    """
    if not object_counts or not megapixels or min(object_counts) < 1 or min(megapixels) < MIN_MEGAPIXELS:
        raise InputError(
            f"scaling: sizes too small. Give object counts of 1 or more and megapixels of {MIN_MEGAPIXELS} or more."
        )
    cases = [("objects", replace(MaskCase(), num_objects=count)) for count in object_counts]
    for size in megapixels:
        height = round((size * 1e6 / ASPECT_RATIO) ** 0.5)
        cases.append(("image", replace(MaskCase(), size=(height, round(height * ASPECT_RATIO)))))
    return cases


def measure_scaling(
    cases: Sequence[tuple[str, MaskCase]],
    repeats: int = 5,
    memory: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, list[ScalingPoint]]:
    """Measure both methods on each case.

    Args:
        cases: the cases with the names of their curves.
        repeats: the number of interleaved runs; the median counts.
        memory: whether to measure memory, in fresh processes, as well.
        progress: called with the number of cases done since the last call.

    Returns:
        The points of each curve.
    """
    curves: dict[str, list[ScalingPoint]] = {"objects": [], "image": []}
    for name, case in cases:
        pixels = case.size[0] * case.size[1]
        methods = [BOX_LOCAL, CHUNKED] if case.num_objects * pixels <= MAX_PIXELS else [BOX_LOCAL]
        times = measured_times(case, make_inputs(case), repeats, {method: METHODS[method] for method in methods})
        for method in methods:
            peak = measured_memory(case, method) if memory else None
            curves[name].append(ScalingPoint(method, case.num_objects, pixels / 1e6, times[method], peak))
        progress(1)
    return curves


def to_json(curves: dict[str, list[ScalingPoint]]) -> dict[str, list[dict[str, Any]]]:
    """Convert the curves to values that JSON can represent."""
    return {name: [asdict(point) for point in points] for name, points in curves.items()}


def plot(curves: dict[str, list[ScalingPoint]], title: str) -> bytes:
    """Plot time and memory against objects and megapixels, all axes logarithmic: a PNG of four panels.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = (("objects", "objects on 1280 x 960", "num_objects"), ("image", "megapixels, 100 objects", "megapixels"))
    rows = (("milliseconds", "time, ms"), ("mebibytes", "additional memory, MiB"))
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 7), layout="constrained")
        panels = figure.subplots(2, 2, sharex="col")
        for column, (name, label, variable) in enumerate(columns):
            for row, (value, unit) in enumerate(rows):
                _plot_panel(panels[row][column], curves[name], variable, value)
                panels[row][column].set_ylabel(unit)
            panels[1][column].set_xlabel(label)
        panels[0][0].legend(frameon=False)
        figure.suptitle(title)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file, metadata={"Comment": mark_text("sais bench")})
    return file.getvalue()


def require_matplotlib() -> None:
    """Raise MissingDependencyError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            'plots: matplotlib is not installed. Run pip install "sais-seg[reproduce]".', "matplotlib", "reproduce"
        )


def _plot_panel(axes: Any, points: Sequence[ScalingPoint], variable: str, value: str) -> None:
    labels = {BOX_LOCAL: "box-local (ours)", CHUNKED: "full-frame, in chunks of ten"}
    for method, color, marker in ((BOX_LOCAL, "#0072b2", "o"), (CHUNKED, "#d55e00", "s")):
        measured = [point for point in points if point.method == method and getattr(point, value) is not None]
        x = [getattr(point, variable) for point in measured]
        y = [max(getattr(point, value), 0.01) for point in measured]
        axes.plot(x, y, color=color, marker=marker, label=labels[method])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color="#c3c9ce", linewidth=0.5)
