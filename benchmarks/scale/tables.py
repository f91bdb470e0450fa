"""The tables of docs/scale.md: each a function without arguments, and quick."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckpt_async.transfer import fetch
from ckpt_async.transfer.catalog import READS_AT_ONCE
from ckpt_async.transfer.upload import SMALL_BYTES
from ckpt_async.words.settings import Settings

from . import counting, money
from .cluster import Cluster, Outcome, simulate
from .counting import (
    Content,
    by_kind,
    count_deletion,
    count_group,
    count_list,
    count_load,
    count_pass,
    count_save,
    part_bytes_of,
    total,
    writes_in,
)
from .storm import Storm, simulate_storm
from .timing import StoreModel, data_rate, load_rate, service_of

GB, TB = 10**9, 10**12
MIB = 1024 * 1024
GBIT = 1e9 / 8
INTERVAL_S = 600.0
HOURS = 1.0
TASKS = (1, 64, 1000, 5000)

#: What is saved: the full state of a model with 70 billion parameters is about 1 TB (14 bytes for each).
CONTENTS = {
    "1 GB": Content(1, GB),
    "16 GB, a 64th of 1 TB": Content(1, TB // 64),
    "5,000 × 10 KiB": Content(5000, 10 * 1024),
    "5,000 × 10 KiB, `tar`": Content(5000, 10 * 1024, "tar"),
}
WHOLE = {"1 TB, one file": Content(1, TB), "1 TB, 64 files": Content(64, TB // 64)}
PARTLY = {
    "1 GB, a tenth has changed": Content(1, GB, changed=0.1),
    "16 GB, a tenth has changed": Content(1, TB // 64, changed=0.1),
}


@dataclass(frozen=True)
class Table:
    """A table as text: the heading of each column, and rows."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def seconds(value: float) -> str:
    """A time for people."""
    if value < 100:
        return f"{value:.2g} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(value: float) -> str:
    """Bytes for people."""
    for unit, one in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= one:
            return f"{_short(value / one)} {unit}"
    return f"{_short(value / 1e3)} KB" if value else "0"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(value: float) -> str:
    """A number for people: whole, or with two digits."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def dollars(value: float) -> str:
    """Money for people."""
    if value >= 0.1 or not value:
        return f"${value:,.0f}" if value >= 100 else f"${value:.2f}"
    return f"${value:.6f}".rstrip("0")


def most_table() -> Table:
    """How far the scarce things go."""
    store, rows = StoreModel(), []
    for name, content in {**CONTENTS, **PARTLY}.items():
        saved = count_save(content, first=False)
        service = service_of(content, saved, 10 * GBIT, store)
        rows.append(
            (
                name,
                f"{int(StoreModel.writes_per_s * INTERVAL_S / writes_in(saved.requests)):,}",
                seconds(service.seconds),
                f"{int(10 * GBIT * INTERVAL_S / saved.sent_bytes):,}",
            )
        )
    header = ("a save of", "tasks for a partition", "the shortest interval of a task, 10 Gbit/s", "tasks for a line of 10 Gbit/s")
    return Table(header, rows)


def requests_table() -> Table:
    """What a save asks of the store, a later one of a task; and what loading and deleting it asks."""
    rows = []
    for name, content in {**CONTENTS, **WHOLE, **PARTLY}.items():
        saved = count_save(content, first=False)
        kinds = by_kind(saved.requests)
        part_bytes = part_bytes_of(content)
        rows.append(
            (
                name,
                f"{kinds['put'] + kinds['put_part']:,} of {size(part_bytes)}",
                f"{kinds['create_upload'] + kinds['complete_upload']:,}",
                f"{kinds['copy'] + kinds['copy_part']:,}",
                f"{kinds['head']:,} + {kinds['get']:,}",
                size(saved.text_bytes),
                dollars(1000 * money.request_cost(saved.requests)),
                f"{total(count_load(content, by_pointer=True)):,}",
                f"{total(count_deletion(content)):,}",
            )
        )
    header = ("a save of", "PUT", "begin, complete", "copy", "HEAD + GET", "texts", "1,000 saves", "to load it", "to delete it")
    return Table(header, rows)


def line_table() -> Table:
    """How long one task's upload and load take, alone, by the line of its host."""
    store, rows = StoreModel(), []
    for name, content in {**CONTENTS, **WHOLE}.items():
        saved = count_save(content, first=False)
        part_bytes = part_bytes_of(content)
        cells, limits = [], []
        for gbit in (1, 10, 100):
            line = gbit * GBIT
            service = service_of(content, saved, line, store)
            cells.append(seconds(service.seconds))
            if part_bytes <= SMALL_BYTES:
                limits.append(f"{service.at_once} requests at once")
            else:
                fills_line = data_rate(line, part_bytes, store) >= line
                limits.append("line" if fills_line else f"{service.at_once} parts at once")
        loads = total(count_load(content, by_pointer=True))
        load_s = max(content.size_bytes / load_rate(10 * GBIT, store), loads / fetch.REQUESTS_AT_ONCE * store.mean_latency_s)
        rows.append((name, *cells, ", ".join(dict.fromkeys(limits)), seconds(load_s)))
    return Table(("a save of", "1 Gbit/s", "10 Gbit/s", "100 Gbit/s", "held back by", "load, 10 Gbit/s"), rows)


@functools.cache
def _outcome(cluster: Cluster, hours: float = HOURS) -> Outcome:
    return simulate(cluster, hours)


def _outcome_cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        seconds(outcome.at_risk_s),
        seconds(outcome.at_risk_worst_s),
        size(outcome.spool_peak_bytes),
        seconds(outcome.flush_worst_s),
    )


def cluster_table() -> Table:
    """Tasks by the thousand, each on a host of its own with 10 Gbit/s, one partition."""
    rows = []
    for name, content in CONTENTS.items():
        saved = count_save(content, first=False)
        for tasks in TASKS:
            outcome = _outcome(Cluster(content, tasks=tasks))
            wanted = tasks * writes_in(saved.requests) / INTERVAL_S
            slow_down = outcome.slow_down / max(1, total(outcome.requests))
            rows.append(
                (
                    name,
                    f"{tasks:,}",
                    count(wanted),
                    f"{math.ceil(wanted / StoreModel.writes_per_s)}",
                    f"{size(tasks * saved.sent_bytes / INTERVAL_S)}/s",
                    *_outcome_cells(outcome),
                    f"{slow_down:.1g}" if slow_down else "0",
                )
            )
    header = (
        "a save of", "tasks", "writes/s", "partitions needed", "into the store", "at risk, median", "worst", "spool of a host",
        "flush, worst", "SlowDown for each request",
    )  # fmt: skip
    return Table(header, rows)


def settings_table() -> Table:
    """A host whose line is too slow for what its tasks save, and what each setting makes of it."""
    slow = Cluster(Content(1, 15 * GB), tasks=8, tasks_per_host=8, line_bytes_per_s=GBIT, disk_bytes=2 * TB)

    def with_settings(**values: object) -> Cluster:
        return dataclasses.replace(slow, settings=Settings(**values))  # type: ignore[arg-type]

    variants: dict[str, Cluster] = {
        "defaults": slow,
        '`max_pending_bytes="30GB"`': with_settings(max_pending_bytes=30 * GB),
        "`max_lag=1800`": with_settings(max_lag_s=1800.0),
        '`max_pending=2, on_full="drop_oldest"`': with_settings(max_pending=2, on_full="drop_oldest"),
        "a tenth of it changes": dataclasses.replace(slow, content=Content(1, 15 * GB, changed=0.1)),
        "a save every 20 minutes": dataclasses.replace(slow, interval_s=1200.0),
        "a line of 10 Gbit/s": dataclasses.replace(slow, line_bytes_per_s=10 * GBIT),
        '`max_bandwidth="125MB"` on it': dataclasses.replace(
            slow, line_bytes_per_s=10 * GBIT, settings=Settings(max_bandwidth_bytes_per_s=125_000_000)
        ),
    }
    rows = []
    for name, cluster in variants.items():
        outcome = _outcome(cluster, 24.0)
        stood_still = outcome.blocked_s / (outcome.hours * 3600 * cluster.tasks)
        rows.append((name, f"{outcome.saves:,}", f"{outcome.dropped:,}", f"{stood_still:.0%}", *_outcome_cells(outcome)))
    outcome_header = ("at risk, median", "worst", "spool of the host", "flush, worst")
    return Table(("", "saves stored", "given up", "training stood still", *outcome_header), rows)


STORMS: dict[str, Storm] = {
    "1,000 tasks look for their newest checkpoint in one moment": Storm(1000, 3, at_once=1, per_s=5500),
    "5,000 tasks": Storm(5000, 3, at_once=1, per_s=5500),
    "5,000 tasks within 30 s": Storm(5000, 3, at_once=1, per_s=5500, start_s=30),
    "16 tasks store 2,000 small files each in one moment": Storm(16, 2000),
    "256 tasks store 250 small files each": Storm(256, 250),
    "256 tasks, were requests never halved": Storm(256, 250, halving=False),
    "1,000 tasks store 16 parts each, 4 at once": Storm(1000, 16, at_once=4),
    "200 tasks go on after the store was away for 2 min": Storm(200, 32, down_s=120.0),
}


def storm_table() -> Table:
    """What one partition makes of many tasks in the same moment, request by request."""
    rows = []
    for name, storm in STORMS.items():
        outcome = simulate_storm(storm)
        least = storm.tasks * storm.requests / storm.per_s
        rows.append(
            (
                name,
                count(outcome.granted),
                seconds(least),
                seconds(outcome.median_s - storm.down_s),
                seconds(outcome.ended_s - storm.down_s),
                f"{outcome.refused / outcome.granted:.2g}",
            )
        )
    return Table(("", "requests", "the partition's own time", "half of the tasks", "all tasks", "refused for each"), rows)


def money_table() -> Table:
    """A month of it."""
    rows = []
    saves_a_month = money.DAYS * 24 * 3600 / INTERVAL_S
    for name, content in {**CONTENTS, **PARTLY}.items():
        for tasks in (64, 1000):
            saved = count_save(content, first=False)
            times = tasks * saves_a_month
            sent = (saved.sent_bytes + saved.text_bytes) * times
            deletions = money.request_cost(count_pass(content)) * times
            rows.append(
                (
                    name,
                    f"{tasks:,}",
                    count(total(saved.requests) * times / 1e6) + " M",
                    dollars(money.request_cost(saved.requests) * times),
                    size(sent),
                    dollars(sent / GB * money.S3.per_gb_nat),
                    dollars(money.growing_storage_cost(content.size_bytes * times / money.DAYS)),
                    dollars(money.storage_cost(content.size_bytes * 3 * tasks) + deletions),
                )
            )
    header = (
        "a save of", "tasks", "requests", "for requests", "sent", "were it through a NAT", "storage, all kept",
        "storage, `keep_last=3`",
    )  # fmt: skip
    return Table(header, rows)


def abandoned_table() -> Table:
    """What parts cost that belong to no object: of machines that were lost while they uploaded."""
    rows = []
    for name, size_bytes in (("1 GB", GB), ("16 GB", TB // 64), ("1 TB", TB)):
        for lost in (10, 1000):
            cells = [dollars(money.abandoned_cost(size_bytes, lost, days)) for days in (1, 7)]
            after_a_year = 12 * lost * size_bytes / 2
            rows.append((name, f"{lost:,}", *cells, f"{size(after_a_year)}, {dollars(money.storage_cost(after_a_year))}"))
    header = ("a save of", "machines lost a month", "a month, ended after a day", "after a week", "never ended, after a year")
    return Table(header, rows)


def lists_table() -> Table:
    """What finding checkpoints costs, by how many there are."""
    store, rows = StoreModel(), []
    for name, checkpoints, area in (
        ("a task that saved for a day", 144, counting.BY_TASK),
        ("a task that saved for a week", 1008, counting.BY_TASK),
        ("a task that saved for a month", 4320, counting.BY_TASK),
        ("a scope of 1,000 runs", 100_000, counting.BY_KEY),
    ):
        requests = count_list(checkpoints, area)
        pages = total(requests, ("list",))
        took_s = (pages + -(-checkpoints // READS_AT_ONCE)) * store.mean_latency_s
        cost = dollars(money.request_cost(requests))
        rows.append((name, f"{checkpoints:,}", f"{pages:,}", f"{checkpoints:,}", seconds(took_s), cost))
    return Table(("a list of", "checkpoints", "LIST", "GET", "at 0.1 s each, 32 at once", "costs"), rows)


def groups_table() -> Table:
    """What the nodes of a gang ask for besides their data."""
    rows = []
    for nodes in (8, 64, 512, 1000):
        cells = [f"{nodes:,}"]
        for at_once in (1, 4, nodes):
            cells.append(f"{total(count_group(nodes, at_once)):,}")
        rows.append(tuple(cells))
    return Table(("nodes", "requests, the last comes alone", "up to, where four come at once", "up to, where all do"), rows)


TABLES: dict[str, Callable[[], Table]] = {
    "most": most_table,
    "requests": requests_table,
    "line": line_table,
    "cluster": cluster_table,
    "settings": settings_table,
    "storm": storm_table,
    "money": money_table,
    "abandoned": abandoned_table,
    "lists": lists_table,
    "groups": groups_table,
}


def as_markdown(table: Table) -> str:
    """The table as it stands in a page."""
    lines: list[Sequence[str]] = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
