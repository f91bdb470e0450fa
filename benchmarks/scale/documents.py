"""The tables inside docs/scale.md: between marks, so that a program can write them and a test can compare them."""

from __future__ import annotations

import re
from pathlib import Path

from .tables import TABLES, as_markdown

_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def tables_in(text: str) -> dict[str, str]:
    """The tables of a page, by name."""
    return {match[2]: match[3].strip() for match in _BLOCK.finditer(text)}


def with_tables(text: str) -> str:
    """The page with what the tables hold now."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{as_markdown(TABLES[match[2]]())}\n\n{match[4]}", text)


def write_tables(page: Path) -> None:
    """Bring a page's tables up to date."""
    page.write_text(with_tables(page.read_text()))
