"""`sais bench curves`: how the time and the memory of masks grow with the objects and with the image.

Masks are made from the same prototypes, coefficients and boxes in two ways: ours, in the boxes, and the usual one, on
whole frames, a few objects at a time (all at once takes several times the memory). Where the usual way would need more
than `MOST_PIXELS` of masks, or minutes, it is left out; so are its points in the plot.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sais.benchmark.masks import METHODS, MaskCase, make_inputs, measured_memory, measured_times
from sais.errors import SaisError

OURS, USUAL = "ours", "usual, in chunks"
MAX_PIXELS = 3e9
"""Objects times pixels of the usual way: about half a minute a run, and as many bytes of masks."""
MIN_MEGAPIXELS = 0.001
RATIO = 4 / 3


@dataclass(frozen=True)
class ScalingPoint:
    """One case in one way."""

    way: str
    objects: int
    megapixels: float
    milliseconds: float
    mebibytes: float | None


def scaling_cases(objects: Sequence[int], megapixels: Sequence[float]) -> list[tuple[str, MaskCase]]:
    """("objects" or "image", case): one image with ever more objects, and 100 objects on ever larger images.

    Raises:
        SaisError: a number that is not positive.
    """
    if not objects or not megapixels or min(objects) < 1 or min(megapixels) < MIN_MEGAPIXELS:
        raise SaisError(f"sais bench curves: --counts must be 1 or more, --megapixels {MIN_MEGAPIXELS} or more")
    found = [("objects", replace(MaskCase(), objects=count)) for count in objects]
    for million in megapixels:
        height = round((million * 1e6 / RATIO) ** 0.5)
        found.append(("image", replace(MaskCase(), size=(height, round(height * RATIO)))))
    return found


def measure_scaling(
    chosen: Sequence[tuple[str, MaskCase]],
    repeats: int = 5,
    memory: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, list[ScalingPoint]]:
    """Medians of `repeats` interleaved runs of both ways for each case; memory in fresh processes.

    Returns:
        Points by the curve's name; ready for `asdict`.
    """
    curves: dict[str, list[ScalingPoint]] = {"objects": [], "image": []}
    for name, case in chosen:
        pixels = case.size[0] * case.size[1]
        ways = [OURS, USUAL] if case.objects * pixels <= MAX_PIXELS else [OURS]
        times = measured_times(case, make_inputs(case), repeats, {way: METHODS[way] for way in ways})
        for way in ways:
            added = measured_memory(case, way) if memory else None
            curves[name].append(ScalingPoint(way, case.objects, pixels / 1e6, times[way], added))
        progress(1)
    return curves


def to_json(curves: dict[str, list[ScalingPoint]]) -> dict[str, list[dict[str, Any]]]:
    """Ready for JSON."""
    return {name: [asdict(point) for point in points] for name, points in curves.items()}


def plot(curves: dict[str, list[ScalingPoint]], title: str) -> bytes:
    """A PNG of four panels: time and memory against objects and against megapixels, both axes logarithmic.

    Raises:
        SaisError: matplotlib is not installed.
    """
    need_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 7), layout="constrained")
        panels = figure.subplots(2, 2, sharex="col")
        for column, (name, label, of) in enumerate(
            (("objects", "objects on 1280 x 960", "objects"), ("image", "megapixels, 100 objects", "megapixels"))
        ):
            for row, (value, unit) in enumerate((("milliseconds", "time, ms"), ("mebibytes", "memory added, MiB"))):
                _panel(panels[row][column], curves[name], of, value)
                panels[row][column].set_ylabel(unit)
            panels[1][column].set_xlabel(label)
        panels[0][0].legend(frameon=False)
        figure.suptitle(title)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def need_matplotlib() -> None:
    """Raise SaisError where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SaisError('plots need matplotlib: pip install "sais-seg[reproduce]"')


def _panel(axes: Any, points: Sequence[ScalingPoint], of: str, value: str) -> None:
    labels = {OURS: "in the boxes (ours)", USUAL: "whole frames, ten at a time (usual)"}
    for way, color, marker in ((OURS, "#0072b2", "o"), (USUAL, "#d55e00", "s")):
        mine = [p for p in points if p.way == way and getattr(p, value) is not None]
        x, y = [getattr(p, of) for p in mine], [max(getattr(p, value), 0.01) for p in mine]
        axes.plot(x, y, color=color, marker=marker, label=labels[way])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color="#c3c9ce", linewidth=0.5)
