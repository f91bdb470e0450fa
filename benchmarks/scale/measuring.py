"""The counts and times of the simulation beside the engine at work, in front of the sink on a line of known speed."""

from __future__ import annotations

import time
from pathlib import Path

from common import scratch_folder
from sink import Line

from .counting import Content, count_save, total
from .sinking import Bench
from .tables import Table, seconds, size
from .timing import StoreModel, service_of

MIB = 1024 * 1024

#: A line on which neither this machine nor the sink is what is measured.
LATENCY_S = 0.05
LINE_BYTES_PER_S = 60e6

CASES: dict[str, tuple[Content, int]] = {
    "one file": (Content(1, 256 * MIB), 0),
    "one file, a quarter has changed": (Content(1, 256 * MIB, changed=0.25), 0),
    "40 files of 5 MiB, half have changed": (Content(40, 5 * MIB, changed=0.5), 0),
    "2,000 × 10 KiB": (Content(2000, 10 * 1024), 0),
    "2,000 × 10 KiB, `tar`": (Content(2000, 10 * 1024, "tar"), 0),
    "2,000 × 10 KiB, every 50th request refused": (Content(2000, 10 * 1024), 50),
}


def measured_table(scratch: str | None = None) -> Table:
    """Save each case twice with a sidecar, and set what the sink saw beside what was counted."""
    store = StoreModel(latency_s=LATENCY_S, latency_sigma=0.0, connection_bytes_per_s=LINE_BYTES_PER_S)
    rows = []
    for name, (content, refuse_every) in CASES.items():
        with scratch_folder(scratch) as folder:
            line = Line(0.0, None)
            with Bench(Path(folder), refuse_every=refuse_every, line=line, worker="process") as bench:
                bench.save(Content(1, 1))  # Connections, imports, the sidecar's start.
                line.latency_s, line.bytes_per_s = LATENCY_S, LINE_BYTES_PER_S
                for first in (True, False):
                    time.sleep(0.05)  # What the line lets through at once after a pause is the same each time.
                    version = 1 if first else 2
                    counted = count_save(content, first=first, version=version)
                    seen = bench.save(content, fresh=None if first else round(content.size_bytes * content.changed))
                    service = service_of(content, counted, LINE_BYTES_PER_S, store)
                    rows.append(
                        (
                            f"{name}, {'first' if first else 'second'} save",
                            f"{total(seen.requests):,}",
                            f"{total(counted.requests):,}",
                            size(seen.data_bytes),
                            size(counted.sent_bytes),
                            f"{seen.refused:,}",
                            seconds(seen.stored_s),
                            seconds(service.seconds),
                        )
                    )
    header = ("", "requests seen", "counted", "data seen", "counted", "refused", "stored after", "modelled")
    return Table(header, rows)
