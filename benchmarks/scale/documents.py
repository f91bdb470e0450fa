"""The tables inside docs/scale.md: between marks, so that a program can write them and a test can compare them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from .tables import TABLES, Table, as_markdown

_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def tables_in(text: str) -> dict[str, str]:
    """The tables of a page, by name."""
    return {match[2]: match[3].strip() for match in _BLOCK.finditer(text)}


def with_tables(text: str, tables: Mapping[str, Callable[[], Table]] = TABLES) -> str:
    """The page with what these tables hold now; others stay as they are."""

    def replaced(match: re.Match[str]) -> str:
        make = tables.get(match[2])
        return match[0] if make is None else f"{match[1]}\n{as_markdown(make())}\n\n{match[4]}"

    return _BLOCK.sub(replaced, text)


def write_tables(page: Path, tables: Mapping[str, Callable[[], Table]] = TABLES) -> None:
    """Bring tables of a page up to date."""
    page.write_text(with_tables(page.read_text(), tables))
