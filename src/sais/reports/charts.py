"""Charts as SVG text: curves with few, round marks, readable on a phone, their values told where the mouse rests.

Colors are the page's variables (`--series-1` .. 6, `--ink`, `--grid`), so that a chart is dark where the page is. No
script and no package draws them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 30
"""Room around the frame, in the SVG's units, which are pixels on a wide screen."""
STRIPS = 60
"""Most places along x whose values are told."""
SERIES = 6
"""Colors there are."""


@dataclass(frozen=True)
class ChartLine:
    """One curve of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), x ascending."""
    color: int = 0
    """Place among the colors of the page, around again after the last."""
    dashed: bool = False


def smoothed(points: Sequence[tuple[float, float]], most: int = 160) -> list[tuple[float, float]]:
    """At most `most` means of neighbors, each then averaged with those around it."""
    size = max(1, -(-len(points) // most))
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    rough = [statistics.fmean(y for _, y in part) for part in parts]
    reach = max(1, len(rough) // 40)
    means = [statistics.fmean(rough[max(0, i - reach) : i + reach + 1]) for i in range(len(rough))]
    return [(statistics.fmean(x for x, _ in part), mean) for part, mean in zip(parts, means, strict=True)]


def ticks(low: float, high: float, about: int = 4, whole: bool = False) -> list[float]:
    """Round numbers in [low, high], about so many: multiples of 1, 2 or 5 times a power of ten; `whole`: integers."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda one: abs(math.log(one / rough)))
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def settled(lines: Sequence[ChartLine]) -> tuple[float, float]:
    """A frame for losses: the first tenth, which is so much higher that it would flatten the rest, may lie above it."""
    values = [y for line in lines for x, y in line.points if x >= 0.1 * line.points[-1][0]]
    low, high = min(values), max(values)
    return max(0.0, low - 0.08 * (high - low)), high + 0.12 * (high - low) + 1e-6


def chart(
    lines: Sequence[ChartLine],
    label: str,
    along: str,
    told: Callable[[float], str] = lambda value: f"{value:.4g}",
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    whole: bool = False,
    dots: bool = False,
) -> str:
    """Curves in one frame, as an <svg> element.

    Args:
        lines: at least one, each with a point.
        label: what it shows, for those who listen to the page.
        along: what x is.
        told: a value of y for a person, at the marks and where the mouse rests.
        x: frame; from the data by default.
        y: frame; by default from 0 to a little above the greatest value.
        whole: x has whole numbers.
        dots: mark each point.
    """
    every = [point for line in lines for point in line.points]
    x = x or (min(p[0] for p in every), max(p[0] for p in every))
    if x[1] <= x[0]:
        x = (x[0] - 0.5, x[1] + 0.5)
    y = y or (0.0, max(1.08 * max(p[1] for p in every), 1e-9))
    if y[1] <= y[0]:
        y = (y[0] - 0.5, y[1] + 0.5)

    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(px: float, py: float) -> tuple[float, float]:
        inside = min(max(py, 2 * y[0] - y[1]), 2 * y[1] - y[0])  # what lies far outside is not seen
        left = LEFT + (px - x[0]) / (x[1] - x[0]) * across
        return left, HEIGHT - BOTTOM - (inside - y[0]) / (y[1] - y[0]) * down

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    parts += _frame(x, y, along, told, whole, place)
    # A window of its own cuts off what leaves the frame, with a little room for the width of a line.
    window = f"{LEFT - 4} {TOP - 4} {across + 8} {down + 8}"
    size = f'x="{LEFT - 4}" y="{TOP - 4}" width="{across + 8}" height="{down + 8}"'
    parts.append(f'<svg {size} viewBox="{window}">')
    for line in lines:
        spots = [place(*point) for point in line.points]
        style = f'style="--c:var(--series-{line.color % SERIES + 1})"'
        dash = " dashed" if line.dashed else ""
        if len(spots) > 1:
            way = " ".join(f"{px:.1f},{py:.1f}" for px, py in spots)
            parts.append(f'<polyline class="line{dash}" {style} points="{way}"/>')
        if dots or len(spots) == 1:
            parts += [f'<circle class="dot" {style} cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in spots]
    parts.append("</svg>")
    parts += _strips(lines, along, told, place)
    return "".join([*parts, "</svg>"])


def legend(lines: Sequence[ChartLine]) -> str:
    """The names of curves in their colors, as HTML."""
    items = []
    for line in lines:
        dash = ' class="dashed"' if line.dashed else ""
        items.append(f'<li style="--c:var(--series-{line.color % SERIES + 1})"><i{dash}></i>{escape(line.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def figure(title: str, svg: str, below: str = "", note: str = "") -> str:
    """A chart with its title above and its legend (HTML) and a note below."""
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{svg}{below}{note}</figure>'


def _frame(
    x: tuple[float, float],
    y: tuple[float, float],
    along: str,
    told: Callable[[float], str],
    whole: bool,
    place: Callable[[float, float], tuple[float, float]],
) -> list[str]:
    """Lines across at round values, marks below, what x is."""
    parts = []
    for value in ticks(*y):
        _, py = place(x[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{py + 3.8:.1f}" text-anchor="end">{escape(told(value))}</text>')
    for value in ticks(*x, about=5, whole=whole):
        px, _ = place(value, y[0])
        if px < WIDTH - RIGHT - 6.2 * len(along) - 14:  # where the name of x stands
            parts.append(f'<text x="{px:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text class="along" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{escape(along)}</text>')
    return parts


def _strips(
    lines: Sequence[ChartLine],
    along: str,
    told: Callable[[float], str],
    place: Callable[[float, float], tuple[float, float]],
) -> list[str]:
    """Upright strips, unseen, that tell the values of all curves there."""
    places = sorted({point[0] for line in lines for point in line.points})
    chosen = places[:: max(1, -(-len(places) // STRIPS))]
    spots = [place(value, 0)[0] for value in chosen]
    edges = [LEFT, *((a + b) / 2 for a, b in itertools.pairwise(spots)), WIDTH - RIGHT]
    parts = []
    for value, left, right in zip(chosen, edges[:-1], edges[1:], strict=True):
        said = [f"{along} {value:g}"]
        for line in lines:
            nearest = min(line.points, key=lambda point: abs(point[0] - value))
            said.append(f"{line.name} {told(nearest[1])}")
        box = f'x="{left:.1f}" y="{TOP}" width="{max(0.0, right - left):.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect class="strip" {box}><title>{escape(chr(10).join(said))}</title></rect>')
    return parts
