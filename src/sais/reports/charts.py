"""Charts as SVG text, drawn by matplotlib; the same data gives the same SVG, byte for byte.

The text of a chart stays text. Every color comes from `CHART_COLORS`, and the pages' style sheet maps each of them to
a CSS variable, so that a chart follows the light or dark scheme of its page. matplotlib is imported when the first
chart is drawn.
"""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from sais.errors import MissingDependencyError
from sais.text import printable, printable_lines

SERIES_COLORS = ("#0072b2", "#d55e00", "#009e73", "#a5528c", "#8c6d00", "#3a9bd4")
"""Colors that color-blind readers can distinguish (after Okabe and Ito)."""
INK, SOFT, GRID = "#1b2126", "#59636c", "#d9dde0"
"""Colors of text, of tick labels, and of grid lines."""
PAPER, MEASURED = "#f6f0e2", "#e9f2f8"
"""Backgrounds of the paper's figures and of measured figures."""
CHART_COLORS = {"ink": INK, "soft": SOFT, "grid": GRID, "paper": PAPER, "measured": MEASURED} | {
    f"series-{number}": color for number, color in enumerate(SERIES_COLORS, 1)
}
"""CSS variable -> its color in the SVG."""

WIDTH, HEIGHT = 380, 230
"""Size of a line chart in SVG units, which are pixels on a wide screen."""
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 14, 12, 40
"""Margins around the plot area of a line chart, in SVG units."""
MAX_TOOLTIPS = 60
"""Maximum number of positions along x at which a tooltip shows the values."""

SVG_NAMESPACE = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG_NAMESPACE)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text remains text
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
"""matplotlib's settings for every chart."""


@dataclass(frozen=True)
class Series:
    """One curve of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y) pairs, x ascending."""
    color: int = 0
    """Index into `SERIES_COLORS`, modulo its length."""
    dashed: bool = False

    @property
    def color_number(self) -> int:
        """The number of the color's CSS variable, from 1."""
        return self.color % len(SERIES_COLORS) + 1


@dataclass(frozen=True)
class Chart:
    """A chart with its title, for a page."""

    title: str
    svg: str
    legend: tuple[Series, ...] = ()
    """Series named below the chart."""


def smooth(points: Sequence[tuple[float, float]], max_points: int = 160) -> list[tuple[float, float]]:
    """Thin a curve to `max_points` means of adjacent points and average each mean with its neighbors."""
    size = max(1, -(-len(points) // max_points))
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    means = [statistics.fmean(y for _, y in part) for part in parts]
    reach = max(1, len(means) // 40)
    averages = [statistics.fmean(means[max(0, i - reach) : i + reach + 1]) for i in range(len(means))]
    return [(statistics.fmean(x for x, _ in part), mean) for part, mean in zip(parts, averages, strict=True)]


def loss_limits(curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """Compute y limits for losses that leave out the first tenth of each curve, which would flatten the remainder."""
    values = [y for points in curves for x, y in points if x >= 0.1 * points[-1][0]]
    low, high = min(values), max(values)
    return max(0.0, low - 0.08 * (high - low)), high + 0.12 * (high - low) + 1e-6


def format_fraction(value: float) -> str:
    """Format a fraction of 1 for the axis of a chart and its tooltips: "0.4", "0.384"."""
    return f"{value:.3f}".rstrip("0").removesuffix(".")


def line_chart(
    name: str,
    series: Sequence[Series],
    label: str,
    x_label: str,
    format_y: Callable[[float], str] = lambda value: f"{value:.4g}",
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
    integer_x: bool = False,
    markers: bool = False,
) -> str:
    """Draw curves in one plot area, with tooltips that show all values at a position along x.

    Args:
        name: unique name of the chart on its page.
        series: at least one series, each with at least one point.
        label: accessible name of the chart.
        x_label: name of the x axis.
        format_y: formatter of a y value, for tick labels and tooltips.
        x_limits: limits of x; those of the data by default.
        y_limits: limits of y; from 0 to slightly above the maximum by default.
        integer_x: whether x ticks are integers.
        markers: whether each point has a marker.

    Returns:
        An <svg> element.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    xs = [x for curve in series for x, _ in curve.points]
    ys = [y for curve in series for _, y in curve.points]
    x_limits = _widened(x_limits or (min(xs), max(xs)))
    y_limits = _widened(y_limits or (0.0, max(1.08 * max(ys), 1e-9)))

    def draw(figure: Any) -> None:
        """Draw the curves on an empty figure."""
        axes = _add_axes(figure, x_label, format_y, integer_x)
        axes.set_xlim(x_limits)
        axes.set_ylim(y_limits)
        outside = any(not y_limits[0] <= y <= y_limits[1] for y in ys)
        for curve in series:
            marker = "o" if markers or len(curve.points) == 1 else None
            axes.plot(
                *zip(*curve.points, strict=True),
                color=SERIES_COLORS[curve.color % len(SERIES_COLORS)],
                linewidth=1.8,
                linestyle=(0, (2.8, 2.2)) if curve.dashed else "-",
                marker=marker,
                markersize=6,
                markeredgewidth=0,
                clip_on=outside,
            )

    svg = _draw_svg(name, label, (WIDTH, HEIGHT), draw)
    _add_tooltips(svg, _tooltips(series, x_label, format_y, x_limits))
    return ElementTree.tostring(svg, encoding="unicode")


def render_svg(
    name: str,
    label: str,
    size: tuple[float, float],
    draw: Callable[[Any], None],
    layout: Literal["constrained"] | None = None,
) -> str:
    """Render a matplotlib figure as one <svg> element, on its own or inside a page.

    Args:
        name: unique name of the chart on its page, from which the ids inside the SVG are derived.
        label: accessible name of the chart.
        size: (width, height) in SVG units.
        draw: function that draws on an empty matplotlib figure.
        layout: layout engine of the figure, as in matplotlib.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    return ElementTree.tostring(_draw_svg(name, label, size, draw, layout), encoding="unicode")


def _draw_svg(
    name: str,
    label: str,
    size: tuple[float, float],
    draw: Callable[[Any], None],
    layout: Literal["constrained"] | None = None,
) -> ElementTree.Element:
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'charts: matplotlib is not installed. Run pip install "sais-seg[train]".', "matplotlib", "train"
        ) from error
    text = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a personal matplotlibrc must not change a report
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout=layout)
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = ElementTree.fromstring(text.getvalue())
    svg.attrib |= {"role": "img", "aria-label": printable(label)}
    # The ids of groups repeat in every figure of a page, and nothing refers to them.
    for group in svg.iter(f"{{{SVG_NAMESPACE}}}g"):
        group.attrib.pop("id", None)
    return svg


def _add_axes(figure: Any, x_label: str, format_y: Callable[[float], str], integer_x: bool) -> Any:
    """Add the axes of a line chart: horizontal grid lines, no frame, the name of x at its right end."""
    from matplotlib.ticker import MaxNLocator

    width, height = WIDTH - MARGIN_LEFT - MARGIN_RIGHT, HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
    axes = figure.add_axes((MARGIN_LEFT / WIDTH, MARGIN_BOTTOM / HEIGHT, width / WIDTH, height / HEIGHT))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=SOFT, labelsize=11, pad=7)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10), integer=integer_x))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: format_y(value))
    axes.set_xlabel(x_label, loc="right", color=SOFT, fontsize=11, labelpad=1)
    return axes


def _add_tooltips(svg: ElementTree.Element, strips: Sequence[tuple[float, float, str]]) -> None:
    """Add transparent strips with titles, which browsers show as tooltips, to a line chart."""
    height = HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
    for left, right, text in strips:
        size = {"x": left, "y": MARGIN_TOP, "width": max(0.0, right - left), "height": height}
        attributes = {"class": "strip", "fill": "transparent"} | {key: f"{value:.1f}" for key, value in size.items()}
        strip = ElementTree.SubElement(svg, f"{{{SVG_NAMESPACE}}}rect", attributes)
        ElementTree.SubElement(strip, f"{{{SVG_NAMESPACE}}}title").text = printable_lines(text)


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits with a positive distance."""
    low, high = limits
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tooltips(
    series: Sequence[Series], x_label: str, format_y: Callable[[float], str], x_limits: tuple[float, float]
) -> list[tuple[float, float, str]]:
    """(left, right, text) of vertical strips that cover the plot area, left and right in SVG units."""
    positions = sorted({x for curve in series for x, _ in curve.points})
    positions = positions[:: max(1, -(-len(positions) // MAX_TOOLTIPS))]
    scale = (WIDTH - MARGIN_LEFT - MARGIN_RIGHT) / (x_limits[1] - x_limits[0])
    centers = [MARGIN_LEFT + (x - x_limits[0]) * scale for x in positions]
    edges = [MARGIN_LEFT, *((a + b) / 2 for a, b in itertools.pairwise(centers)), WIDTH - MARGIN_RIGHT]
    strips = []
    for x, left, right in zip(positions, edges[:-1], edges[1:], strict=True):
        lines = [f"{x_label} {x:g}"]
        for curve in series:
            nearest = min(curve.points, key=lambda point: abs(point[0] - x))
            lines.append(f"{curve.name} {format_y(nearest[1])}")
        strips.append((left, right, "\n".join(lines)))
    return strips
