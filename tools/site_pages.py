"""A hook of mkdocs: pages that stand outside of docs/ become pages of the site, and links to them lead there.

In the repository links follow the files; on the site the README is the first page, and the examples are pages with their source.
A page that would load anything from another host ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent

#: Where a file of the repository stands on the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}

_LOADED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"')
_LINK = re.compile(r"(?<=\]\()([^)\s:]+?)(#[^)\s]*)?(?=[\s)])")


def _place_on_site(path: str) -> str | None:
    """Return where a file of the repository is on the site, relative to its top; None where it is not."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("examples/") and path.endswith(".py"):
        return path.removesuffix(".py") + ".md"
    return None


def _relinked(text: str, source: str, target: str) -> str:
    """Return a page with its links turned: it stands at `source` in the repository and at `target` on the site."""

    def turn(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        place = _place_on_site(path)
        if place is None or not (ROOT / path).is_file():
            return match[0]
        return posixpath.relpath(place, posixpath.dirname(target) or ".") + (match[2] or "")

    return _LINK.sub(turn, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside, and those of the examples."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=_relinked((ROOT / source).read_text(), source, target)))
    for example in sorted((ROOT / "examples").rglob("*.py")):
        path = example.relative_to(ROOT).as_posix()
        text = f"# {path}\n\n```python\n{example.read_text()}```\n"
        files.append(File.generated(config, path.removesuffix(".py") + ".md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of the pages in docs/ that lead out of it."""
    uri = page.file.src_uri
    return markdown if page.file.generated_by else _relinked(markdown, f"docs/{uri}", uri)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """See to it that the page can be read without a network."""
    if (loaded := _LOADED.search(output)) is not None:
        raise PluginError(f"{page.file.src_uri} loads {loaded[1]}")
    return output
