"""The counts and times of the simulation beside the engine at work, in front of the sink on a line of known speed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common import scratch_folder
from sink import Line

from .counting import Content, count_save, total
from .sinking import Bench
from .tables import Table, seconds, size
from .timing import StoreModel, rounds_refused_at_random, service_of

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
                    version = 1 if first else 2
                    # Something else was saved before: the pointers are there, what could be copied is not.
                    whole = dataclasses.replace(content, changed=1.0)
                    counted = count_save(whole if first else content, first=False, version=version)
                    seen = bench.save(content, fresh=None if first else round(content.size_bytes * content.changed))
                    modelled_s = service_of(content, counted, LINE_BYTES_PER_S, store).seconds
                    if refuse_every:
                        modelled_s = rounds_refused_at_random(total(counted.requests), refuse_every) * LATENCY_S
                    rows.append(
                        (
                            f"{name}, {'first' if first else 'second'} save",
                            f"{total(seen.requests):,}",
                            f"{total(counted.requests):,}",
                            size(seen.data_bytes),
                            size(counted.sent_bytes),
                            f"{seen.refused:,}",
                            seconds(seen.stored_s),
                            seconds(modelled_s),
                        )
                    )
    header = ("", "requests seen", "counted", "data seen", "counted", "refused", "stored after", "modelled")
    return Table(header, rows)
