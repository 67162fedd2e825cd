"""Hooks of MkDocs: pages that are made from the code, and links to files outside of docs/.

The pages in docs/ are also read in the repository, where a link such as ../src/sais/io/sources.py opens the file. On
the site, every linked file of the repository is a page below repository/. Run MkDocs in the repository's root, as
`make docs` does: this file imports its neighbors from there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from website.markdown_links import github_slug, link_targets, replace_links
from website.notebooks import notebook_as_markdown
from website.reference_pages import api_page, commands_page, messages_page

ROOT = Path(__file__).resolve().parents[1]
GENERATED: dict[str, Callable[[], str]] = {
    "api.md": api_page,
    "commands.md": commands_page,
    "messages.md": messages_page,
}
"""Pages made from the code, by path below docs/."""
PROJECT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "peers/README.md")
"""Documents outside of docs/ that the navigation names."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}
MAX_LISTED_FILES = 10
"""Folders with at most as many files are shown with the text of each."""


def on_config(config: Any) -> Any:
    """Give headings the same anchors as in the repository, where links name them."""
    config.mdx_configs["toc"]["slugify"] = github_slug
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and a page for every file of the repository that a page links to."""
    for path, write in GENERATED.items():
        files.append(File.generated(config, path, content=write()))
    pages = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    added = list(PROJECT_PAGES)
    for path in (*pages, *PROJECT_PAGES):
        text = pages.get(path) or repository_page(path)
        added += [name for target in link_targets(text) if _is_outside(name := _resolve(path, target))]
    for path in dict.fromkeys(added):
        files.append(File.generated(config, _page_of(path), content=repository_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to files outside of docs/ to their pages; the page's own path is that of its source file."""
    uri: str = page.file.src_uri
    added = uri.startswith("repository/")
    source = uri.removeprefix("repository/").removesuffix(".page.md") if added else f"docs/{uri}"

    def point(target: str) -> str:
        name = _resolve(source, target)
        if not name or not (_is_outside(name) or added):
            return target
        _, mark, anchor = target.partition("#")
        page_uri = _page_of(name) if _is_outside(name) else name.removeprefix("docs/")
        return posixpath.relpath(page_uri, posixpath.dirname(uri) or ".") + mark + anchor

    return replace_links(markdown, point) if source.endswith((".md", ".ipynb")) else markdown


def repository_page(name: str) -> str:
    """Return the Markdown of a page that shows a file or folder of the repository."""
    path = ROOT / name
    if name.endswith(".md"):
        return path.read_text(encoding="utf-8")
    if name.endswith(".ipynb"):
        return notebook_as_markdown(path)
    header = f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n"
    if path.is_file():
        return header + _fenced(path)
    children = sorted(child for child in path.iterdir() if child.is_file() and child.name != "__pycache__")
    if len(children) > MAX_LISTED_FILES:
        return header + "".join(f"- `{child.name}`\n" for child in children)
    return header + "\n".join(f"## {child.name}\n\n{_fenced(child)}" for child in children)


def _fenced(path: Path) -> str:
    language = LANGUAGES.get(path.suffix, "text")
    return f"````{language}\n{path.read_text(encoding='utf-8').rstrip()}\n````\n"


def _resolve(source: str, target: str) -> str:
    """Return the path of a link's target in the repository; "" for addresses, and anchors of the same page."""
    path = target.partition("#")[0]
    if not path or re.match(r"[a-z]+:", target):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def _is_outside(name: str) -> bool:
    """Return whether a path of the repository is no page or image in docs/, but exists; folders are no pages."""
    path = ROOT / name
    return bool(name) and path.exists() and (path.is_dir() or not name.startswith("docs/"))


def _page_of(name: str) -> str:
    """Return the page, below docs/, that shows a file outside of docs/."""
    return f"repository/{name}" if name.endswith(".md") else f"repository/{name}.page.md"
