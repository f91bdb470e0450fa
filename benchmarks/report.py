"""Makes the table out of single measurements: median, spread, and how often ours fits into the peer's."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

PEER = "metaflow-checkpoint"


@dataclass(frozen=True)
class Quantity:
    """One column: the field of a measurement, its heading, and what one unit of it is."""

    field: str
    heading: str
    divisor: float
    digits: int


QUANTITIES = (
    Quantity("blocked_s", "blocked in save(), s", 1, 2),
    Quantity("stored_s", "until stored, s", 1, 2),
    Quantity("cpu_s", "CPU, s", 1, 2),
    Quantity("peak_bytes", "peak memory, MB", 1e6, 0),
)


def _cell(values: list[float], peer: list[float] | None, quantity: Quantity) -> str:
    scaled = [value / quantity.divisor for value in values]
    text = f"{statistics.median(scaled):.{quantity.digits}f}"
    if len(scaled) > 1:
        text += f" ({min(scaled):.{quantity.digits}f}–{max(scaled):.{quantity.digits}f})"
    if peer is not None and statistics.median(peer) > 0:
        text += f"  ×{statistics.median(values) / statistics.median(peer):.2g}"
    return text


def print_table(measurements: Iterable[dict[str, Any]], title: str) -> None:
    """Print the median with the lowest and the highest, and the ratio to the peer's median (below 1: ours is less)."""
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for one in measurements:
        groups.setdefault((one["store"], one["case"]), {}).setdefault(one["variant"], []).append(one)
    table = Table(title=title, caption="median (lowest–highest)  ×ratio to metaflow-checkpoint")
    for heading in ("store", "case", "variant", *(quantity.heading for quantity in QUANTITIES)):
        table.add_column(heading, overflow="fold")
    for (store, case), variants in groups.items():
        peers = variants.get(PEER)
        for variant in sorted(variants, key=lambda name: name != PEER):
            cells = []
            for quantity in QUANTITIES:
                peer = None if variant == PEER or peers is None else [one[quantity.field] for one in peers]
                cells.append(_cell([one[quantity.field] for one in variants[variant]], peer, quantity))
            table.add_row(store, case, variant, *cells)
        table.add_section()
    # Wide enough for every cell also where the output is a file.
    Console(width=150).print(table)
