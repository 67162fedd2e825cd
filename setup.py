"""The description that package indexes show: the README without what works in the repository only.

Everything else is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup


def index_description(readme: str) -> str:
    """Return the README without images of the repository, and with the texts of links to its files instead of links."""
    paragraphs = [part for part in readme.split("\n\n") if not re.match(r"!\[[^]]*\]\((?!https?:)", part)]
    return re.sub(r"\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", "\n\n".join(paragraphs))


if __name__ == "__main__":
    path = Path(__file__).with_name("README.md")
    description = index_description(path.read_text(encoding="utf-8"))
    setup(long_description=description, long_description_content_type="text/markdown")
