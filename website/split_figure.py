"""Draw what `sais split` made: the images, and the objects of each class, in the splits.

python -m website.split_figure my_photos/annotations docs/images/walkthrough-split.svg
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from website.svg import SANS, THEMES, text, write_figure

SPLITS = {
    "train": "the model learns from these images",
    "valid": "measures the model while it trains",
    "test": "set aside for the final measurement",
}
"""Name of a split -> what it is for."""
STYLE = f"""{THEMES}
text {{ font: 15px {SANS} }} .title {{ font-weight: 650 }}
.train {{ fill: #0b6e8a }} .valid {{ fill: #f0a030 }} .test {{ fill: #8d5bb5 }}
.on-train, .on-test {{ fill: #ffffff }} .on-valid {{ fill: #1b2126 }}
"""
WIDTH, LEFT, RIGHT = 540, 96, 524
"""Width of the figure, left and right end of the bars in pixels."""


def main(annotations: Path, out: Path) -> None:
    """Draw the figure.

    Args:
        annotations: folder with train.json, valid.json and test.json.
        out: path of the SVG file.
    """
    images: Counter[str] = Counter()
    objects: dict[str, Counter[str]] = {}
    for split in SPLITS:
        content = json.loads((annotations / f"{split}.json").read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in content["categories"]}
        images[split] = len(content["images"])
        for annotation in content["annotations"]:
            objects.setdefault(names[annotation["category_id"]], Counter())[split] += 1
    elements = [*_bar("images", images, 16, 40), text(16, 182, "Objects of each class", "ink title")]
    for row, (split, purpose) in enumerate(SPLITS.items()):
        y = 72 + 26 * row
        elements += [f'<rect class="{split}" x="{LEFT}" y="{y}" width="16" height="16" rx="3"/>']
        elements += [text(LEFT + 26, y + 13, split, "ink title"), text(LEFT + 74, y + 13, purpose, "soft")]
    for row, name in enumerate(sorted(objects)):
        elements += _bar(name, objects[name], 196 + 32 * row, 24)
    title = f"Images and objects of each class in the splits {', '.join(SPLITS)}"
    write_figure(out, (WIDTH, 206 + 32 * len(objects)), title, STYLE, elements)


def _bar(name: str, counts: Counter[str], top: float, height: float) -> list[str]:
    """Return a bar of the full width, divided in proportion to the counts of the splits."""
    middle, left = top + height / 2 + 5, float(LEFT)
    elements = [text(16, middle, name)]
    for split in SPLITS:
        width = (RIGHT - LEFT) * counts[split] / counts.total()
        elements.append(
            f'<rect class="{split}" x="{left:.1f}" y="{top:g}" width="{max(0.0, width - 2):.1f}" height="{height:g}"/>'
        )
        elements.append(
            text(round(left + width / 2 - 1, 1), middle, str(counts[split]), f"on-{split}", 'text-anchor="middle"')
        )
        left += width
    return elements


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
