"""Makes the table out of single measurements: median, spread, and how they compare with one of the variants."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Quantity:
    """One column: the field of a measurement, its heading, what one unit of it is, and whether the ratio is shown."""

    field: str
    heading: str
    divisor: float = 1.0
    digits: int = 2
    with_ratio: bool = True


def spread(values: Sequence[float], digits: int) -> str:
    """The median with the lowest and the highest."""
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _cell(values: list[float], baseline: list[float] | None, quantity: Quantity) -> str:
    text = spread([value / quantity.divisor for value in values], quantity.digits)
    if baseline and quantity.with_ratio and statistics.median(baseline) > 0:
        text += f"  ×{statistics.median(values) / statistics.median(baseline):.2g}"
    return text


def print_table(
    measurements: Iterable[Mapping[str, Any]],
    title: str,
    *,
    group_by: Sequence[str],
    quantities: Sequence[Quantity],
    baseline: str | None,
    notes: Sequence[str] = (),
) -> None:
    """Print a row for each group and variant: median, lowest and highest, and the ratio to the median of the variant `baseline`.

    Parameters
    ----------
    measurements : iterable of mapping
        Each with a field ``variant``, the fields of `group_by`, and those of `quantities` that were measured.
    notes : sequence of str
        Lines below the table.
    """
    groups: dict[tuple[str, ...], dict[str, list[Mapping[str, Any]]]] = {}
    for one in measurements:
        groups.setdefault(tuple(str(one[name]) for name in group_by), {}).setdefault(one["variant"], []).append(one)
    caption = "median (lowest–highest)" + (f"  ×ratio to {baseline}" if baseline else "")
    table = Table(title=title, caption="\n".join([caption, *notes]))
    for heading in (*group_by, "variant", *(quantity.heading for quantity in quantities)):
        table.add_column(heading, overflow="fold")
    for group, variants in groups.items():
        base = variants.get(baseline or "")
        for variant in sorted(variants, key=lambda name: name != baseline):
            cells = []
            for quantity in quantities:
                values = [one[quantity.field] for one in variants[variant] if quantity.field in one]
                compared = (
                    None if variant == baseline or base is None else [one[quantity.field] for one in base if quantity.field in one]
                )
                cells.append(_cell(values, compared, quantity) if values else "")
            table.add_row(*group, variant, *cells)
        table.add_section()
    # Wide enough for every cell also where the output is a file.
    Console(width=160).print(table)
