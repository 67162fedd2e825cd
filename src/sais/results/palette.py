"""The colors of classes: the same class has the same color in every drawing, frame and page."""

from __future__ import annotations

from typing import Literal

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

PALETTE: tuple[Color, ...] = (
    (255, 153, 20),
    (56, 170, 245),
    (0, 205, 150),
    (212, 52, 98),
    (250, 228, 90),
    (30, 100, 255),
    (255, 120, 190),
    (209, 94, 52),
    (90, 235, 250),
    (209, 52, 178),
    (150, 225, 50),
    (8, 145, 120),
    (209, 186, 120),
    (150, 75, 225),
    (255, 175, 150),
    (175, 175, 250),
)
"""Color of the classes in order; repeated after the last.

The colors differ in lightness as well as in hue, so that color-blind readers can distinguish the first eight."""

COLOR_BLIND_PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (235, 235, 235),
)
"""The colors of Okabe and Ito (2008), made for color-blind readers, with light gray for their black, which is hard to
see on photographs. Repeated after the eighth: more colors cannot be distinguished by everyone."""

PaletteName = Literal["default", "color-blind"]
PALETTES: dict[PaletteName, tuple[Color, ...]] = {"default": PALETTE, "color-blind": COLOR_BLIND_PALETTE}
"""The palettes by name."""

DARK_INK: Color = (16, 18, 22)
LIGHT_INK: Color = (255, 255, 255)
"""Colors of text on the colors of the palette."""


def class_color(index: int, palette: PaletteName = "default") -> Color:
    """Return the color of a class from its index (label), from 0."""
    colors = PALETTES[palette]
    return colors[index % len(colors)]


def ink_on(color: Color) -> Color:
    """Return the color of readable text on a background."""
    red, green, blue = ((value / 255) ** 2.2 for value in color)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return DARK_INK if luminance > 0.19 else LIGHT_INK  # both have the same contrast at about 0.19
