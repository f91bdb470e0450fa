"""Thousands of tasks, terabytes, months: requests, money, line and disk, from the engine's own plans in simulated time.

    python benchmarks/scale_sim.py --table cluster     one of the tables of docs/scale.md
    python benchmarks/scale_sim.py --write-docs        all of them, into docs/scale.md, with the plots
    python benchmarks/scale_sim.py --measure           the counts beside the engine at work, in front of the sink
    python benchmarks/scale_sim.py --tasks 2000 --file-bytes 4e9 --interval-s 900      a cluster of your own

No network, no store, no clock: a simulation is the same each time. What is counted, what is simulated and what is assumed stands in
docs/scale.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from scale.cluster import Cluster, simulate
from scale.counting import Content, by_kind
from scale.documents import write_tables
from scale.money import DAYS, S3, growing_storage_cost, request_cost, storage_cost
from scale.tables import TABLES, Table, dollars, seconds, size
from scale.timing import StoreModel

from ckpt_async import InvalidArgument
from ckpt_async.words.settings import coerce_settings

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scale.md"


def show(title: str, table: Table) -> None:
    """Print a table for people."""
    rich = RichTable(title=title)
    for heading in table.header:
        rich.add_column(heading, overflow="fold")
    for row in table.rows:
        rich.add_row(*row)
    # Wide enough for every cell also where the output is a file.
    Console(width=170).print(rich)


def own_cluster(options: argparse.Namespace) -> Table:
    """What comes out for the cluster of the options."""
    settings = coerce_settings(dict(options.setting))
    prices = dataclasses.replace(S3, **{name: float(value) for name, value in options.price})
    store = StoreModel(latency_s=options.latency_s, partitions=options.partitions)
    content = Content(options.files, int(options.file_bytes), "tar" if options.tar else "files", options.changed)
    cluster = Cluster(
        content,
        tasks=options.tasks,
        tasks_per_host=options.tasks_per_host,
        line_bytes_per_s=options.line_gbit * 1e9 / 8,
        disk_bytes=options.disk_bytes,
        interval_s=options.interval_s,
        spread_s=options.spread_s,
        settings=settings,
        store=store,
        outage=(options.outage_at_s, options.outage_s),
    )
    began_s = time.monotonic()
    found = simulate(cluster, options.hours, options.seed)
    took_s = time.monotonic() - began_s
    per_month = DAYS * 24 / found.hours
    rows = [
        ("saves stored; given up; refused", f"{found.saves:,}; {found.dropped:,}; {found.refused_saves:,}"),
        ("requests", ", ".join(f"{kind} {number:,}" for kind, number in sorted(by_kind(found.requests).items()))),
        ("SlowDown", f"{found.slow_down:,}, over {seconds(found.throttled_s)} with more asked than the store takes"),
        ("sent; copied in the store", f"{size(found.sent_bytes)}; {size(found.copied_bytes)}"),
        ("progress at risk, median; worst", f"{seconds(found.at_risk_s)}; {seconds(found.at_risk_worst_s)}"),
        ("save() waited, of the training's time", f"{found.blocked_s / (found.hours * 3600 * cluster.tasks):.1%}"),
        ("spool of a host at most", size(found.spool_peak_bytes)),
        ("flush, median; worst", f"{seconds(found.flush_s)}; {seconds(found.flush_worst_s)}"),
        ("requests, a month", dollars(request_cost(found.requests, prices) * per_month)),
        (
            "storage of a first month, all kept",
            dollars(growing_storage_cost(content.size_bytes * found.saves * 24 / found.hours, prices=prices)),
        ),
        ("in the store at the end", size(found.kept_bytes)),
        ("what that costs a month", dollars(storage_cost(found.kept_bytes, prices))),
        ("simulated in", f"{took_s:.1f} s"),
    ]
    return Table((f"{cluster.tasks:,} tasks, {found.hours:g} h", ""), rows)


def pair(text: str) -> tuple[str, str]:
    """A NAME=VALUE of the command line."""
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def above_zero(text: str) -> float:
    """A number of the command line that is none of 0 and below."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def whole(text: str) -> int:
    """A whole number of the command line, likewise."""
    return int(above_zero(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=[*TABLES, "all"], help="print a table of docs/scale.md")
    parser.add_argument("--write-docs", action="store_true", help="put all tables into docs/scale.md, and draw the plots")
    parser.add_argument(
        "--measure", action="store_true", help="compare the counts with the engine at work (into the page: --write-docs)"
    )
    parser.add_argument("--scratch", help="where --measure writes (default: in memory where there is room)")
    own = parser.add_argument_group("a cluster of your own")
    own.add_argument("--tasks", type=whole, default=64)
    own.add_argument("--tasks-per-host", type=whole, default=1)
    own.add_argument("--files", type=whole, default=1)
    own.add_argument("--file-bytes", type=above_zero, default=1e9)
    own.add_argument("--tar", action="store_true", help='storage_format="tar"')
    own.add_argument("--changed", type=float, default=1.0, help="the share that changes between saves")
    own.add_argument("--interval-s", type=above_zero, default=600.0)
    own.add_argument("--spread-s", type=float, default=600.0, help="the tasks start within so much time; 0: all at once")
    own.add_argument("--line-gbit", type=above_zero, default=10.0, help="of a host")
    own.add_argument("--disk-bytes", type=above_zero, default=4e12, help="of a host")
    own.add_argument("--latency-s", type=above_zero, default=StoreModel.latency_s)
    own.add_argument("--partitions", type=whole, default=1, help="of the store, over which the tasks are spread")
    own.add_argument("--outage-at-s", type=float, default=0.0)
    own.add_argument("--outage-s", type=float, default=0.0, help="the store answers nothing for so long")
    own.add_argument("--hours", type=above_zero, default=24.0)
    own.add_argument("--seed", type=int, default=1)
    own.add_argument(
        "--setting", type=pair, action="append", default=[], metavar="NAME=VALUE", help="such as max_lag=1800; repeat it"
    )
    own.add_argument(
        "--price", type=pair, action="append", default=[], metavar="NAME=VALUE", help="such as per_write=5e-6; repeat it"
    )
    options = parser.parse_args()
    if options.measure:
        from scale.measuring import measured_table

        measured = measured_table(options.scratch)
        show("the engine in front of the sink, and what was counted", measured)
        if options.write_docs:
            write_tables(DOCUMENT, {"measured": lambda: measured})
    elif options.write_docs:
        from scale.plots import draw_all

        write_tables(DOCUMENT)
        for path in draw_all(DOCUMENT.parent / "plots"):
            print(f"drawn: {path}")
    elif options.table:
        for name in TABLES if options.table == "all" else [options.table]:
            show(name, TABLES[name]())
    else:
        try:
            show("simulated", own_cluster(options))
        except (InvalidArgument, TypeError, ValueError) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
