"""The notebooks of examples/ as pages of the site: their text and their code, without outputs."""

from __future__ import annotations

import json
from pathlib import Path


def notebook_as_markdown(path: Path) -> str:
    """Return the cells of a notebook as Markdown; the first one has the title and is followed by the file's name."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```\n" if cell["cell_type"] == "code" else f"{source}\n")
    parts.insert(1, f"The notebook is `{path.parent.name}/{path.name}`.\n")
    return "\n".join(parts)
