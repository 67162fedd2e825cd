"""A parser of report pages that checks what every page promises."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Parse a page and check what every report promises: closed tags, unique ids, no scripts, no external resources.

    Also what axe-core found missing once: lists of terms contain nothing else, what scrolls can have the focus.
    """

    def __init__(self, html: str, max_length: int = 3_000_000) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[str] = []
        self.alts: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"
        assert not {"script", "link", "iframe", "object"} & set(self.tags)
        assert {link[1:] for link in self.links} <= self.ids  # all inside the page
        assert html.count("url(") == html.count("url(#")
        assert "@import" not in html
        assert len(html) < max_length
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        assert tag != "p" or "dl" not in self.open
        assert tag != "pre" or dict(attributes).get("tabindex") == "0"  # it scrolls
        assert tag != "img" or dict(attributes).get("alt")
        for name, value in attributes:
            assert not name.startswith("on")
            if name == "id":
                assert value not in self.ids
                self.ids.add(str(value))
            if name == "href":
                self.links.append(str(value))
            if name == "src":
                assert str(value).startswith("data:image/jpeg;base64,")
                self.images.append(str(value))
                self.alts.append(str(dict(attributes).get("alt", "")))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    def pixels(self, number: int) -> np.ndarray:
        """Return the pixels of an embedded image, (H, W, 3) uint8."""
        return decode(self.images[number])


def decode(url: str) -> np.ndarray:
    """Return the pixels of a data URL, (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))
