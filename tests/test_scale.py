"""The counts that the simulation of scale rests on are those of the engine at work: request by request, byte by byte."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from scale import counting
from scale.cluster import Cluster, Outcome, simulate
from scale.counting import (
    SOME_TASK,
    Content,
    count_commit,
    count_deletion,
    count_list,
    count_load,
    count_recall,
    count_save,
    record_of,
    writes_in,
)
from scale.documents import tables_in
from scale.money import abandoned_cost, growing_storage_cost, request_cost, storage_cost
from scale.sinking import Bench
from scale.storm import Storm, simulate_storm
from scale.tables import TABLES, as_markdown
from scale.timing import StoreModel, data_rate, refused_share

from ckpt_async import Settings
from ckpt_async.stores.contract import ObjectInfo
from ckpt_async.stores.memory import MemoryStore
from ckpt_async.transfer.gathering import store_part
from ckpt_async.words.groups import GROUP_STRIDE
from ckpt_async.words.manifest import Manifest

MIB = 1024 * 1024
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scale.md"

CASES = {
    "one file of many parts, of which some change": Content(1, 2 * 16 * MIB + 1, changed=0.4),
    "files of one part, some unchanged": Content(8, 2 * MIB, changed=0.25),
    "small files": Content(1005, 700),
    "small files in an archive": Content(105, 700, "tar"),
    "an archive of parts": Content(3, 6 * MIB, "tar"),
}


@pytest.mark.parametrize("content", CASES.values(), ids=CASES.keys())
def test_the_engine_asks_for_what_is_counted(content: Content, tmp_path: Path) -> None:
    with Bench(tmp_path) as bench:
        for version in range(2):
            fresh = round(content.size_bytes * content.changed) if version else None
            seen = bench.save(content, fresh=fresh)
            counted = count_save(content, first=not version, version=version)
            assert seen.requests == counted.requests
            assert (seen.data_bytes, seen.text_bytes) == (counted.sent_bytes, counted.text_bytes)
        first, newest = bench.keys
        with bench.seen() as load:
            bench.reader.load(newest, str(tmp_path / "loaded"))
        assert load[0].requests == count_load(content, by_pointer=False)
        with bench.seen() as found:
            assert len(bench.reader.list(SOME_TASK.pathspec)) == 2
        assert found[0].requests == count_list(2)
        with bench.seen() as deletion:
            bench.reader.delete(first)
        assert deletion[0].requests == count_deletion(content)


def test_refused_requests_come_on_top(tmp_path: Path) -> None:
    content = Content(60, 1000)
    counted = count_save(content, first=True, version=0)
    with Bench(tmp_path, refuse_every=9) as bench:
        seen = bench.save(content)
    assert seen.requests == counted.requests
    # Every ninth try: so many, in whatever order they came.
    assert seen.refused == (counting.total(counted.requests) - 1) // 8


def test_a_retry_asks_what_was_stored_before_and_sends_what_has_changed(tmp_path: Path) -> None:
    content = Content(2, 2 * MIB, changed=0.5)
    with Bench(tmp_path) as bench:
        bench.save(content)
    with Bench(tmp_path, objects=bench.objects, attempt=1) as bench:
        seen = bench.save(content, fresh=2 * MIB)
    counted = count_save(content, first=False)
    assert seen.requests == counted.requests + count_recall()
    assert seen.data_bytes == counted.sent_bytes


@pytest.mark.parametrize("content", [Content(2, 1000), Content(3, 700, "tar")], ids=["files", "tar"])
def test_retention_asks_for_what_is_counted(content: Content, tmp_path: Path) -> None:
    with Bench(tmp_path, keep_last=2) as bench:
        for _ in range(4):
            bench.save_and_prune(content)
        seen = bench.save_and_prune(content)
    assert seen.requests == count_save(content, first=False).requests + counting.count_pass(content)


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_nodes_of_a_gang_ask_for_what_is_counted(nodes: int, tmp_path: Path) -> None:
    """One after the other, so that the last comes alone."""
    content = Content(1, 1000)
    parts = counting.count_upload(counting.plan_of(content)).requests
    with Bench(tmp_path, nodes=nodes) as bench:
        bench.save_group(content)
        with bench.seen() as found:
            bench.save_group(content)
    expected = counting.count_group(nodes) if nodes > 1 else counting.count_commit(first=False)
    for _ in range(nodes):
        expected = expected + parts
    # A flush looks whether what the others had not stored yet, now and the first time, is whole.
    expected = expected + counting.Requests({("head", counting.BY_KEY): 2 * (nodes - 1)})
    assert found[0].requests == expected


class _CountingMemory(MemoryStore):
    """Nobody looks which parts are there before all are."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.requests = 0
        self._parts_to_come = parts
        self._all_there = anyio.Event()

    async def put(self, key: str, *arguments: Any, **more: Any) -> ObjectInfo:
        self.requests += 1
        self._parts_to_come -= f"/{counting.GROUPS}/" in key
        if not self._parts_to_come:
            self._all_there.set()
        return await super().put(key, *arguments, **more)

    async def get(self, *arguments: Any, **more: Any) -> bytes:
        self.requests += 1
        return await super().get(*arguments, **more)

    async def head(self, key: str) -> ObjectInfo | None:
        self.requests += 1
        return await super().head(key)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        self.requests += 1
        await self._all_there.wait()
        return await super().list(prefix)


@pytest.mark.anyio
async def test_nodes_that_come_at_once_ask_for_no_more_than_is_counted() -> None:
    nodes = 16
    store = _CountingMemory(nodes)
    whole = dataclasses.replace(record_of(Content(1, 1), GROUP_STRIDE), num_nodes=nodes, group=True)
    async with anyio.create_task_group() as group:
        for node_index in range(nodes):
            record = dataclasses.replace(whole, node_index=node_index)
            group.start_soon(store_part, store, SOME_TASK, record, Manifest(record.part(node_index).key, "files", (), ()))
    least, most = (counting.total(counting.count_group(nodes, at_once)) for at_once in (1, nodes))
    assert least < store.requests <= most


@pytest.mark.slow
def test_the_tables_of_the_page_are_those_of_the_program() -> None:
    """`make scale` writes them."""
    written = tables_in(DOCUMENT.read_text())
    assert set(written) == {*TABLES, "measured"}
    for name, make in TABLES.items():
        assert _alike(written[name], as_markdown(make())), f"the table {name!r} of docs/scale.md is stale: make scale"


def _alike(one: str, other: str) -> bool:
    """The same words, and numbers that differ by a twentieth: another machine's logarithm has another last digit."""
    numbers = r"[0-9][0-9,.e-]*"
    if re.sub(numbers, "#", one) != re.sub(numbers, "#", other):
        return False
    pairs = zip(re.findall(numbers, one), re.findall(numbers, other), strict=True)
    return all(abs(_number(left) - _number(right)) <= 0.05 * _number(left) for left, right in pairs)


def _number(text: str) -> float:
    return float(text.replace(",", "").rstrip(".-"))


def test_what_the_page_says_in_words() -> None:
    text = DOCUMENT.read_text()
    rate = data_rate(1e12, 16 * MIB, StoreModel())
    assert round(rate / 1e7) == 23 and "that is 230 MB/s" in text
    parts_per_s = rate / (16 * MIB)
    assert round(parts_per_s) == 14 and round(StoreModel.writes_per_s / parts_per_s, -1) == 260
    assert round(StoreModel.writes_per_s * 16 * MIB / 1e9) == 59
    retention = counting.count_pass(Content(1, 1))
    assert counting.total(retention, ("get", "head")) == 18 and counting.total(retention, ("put", "list")) == 4
    assert writes_in(count_commit(first=False)) == 5 and counting.total(count_commit(first=False)) == 9
    assert counting.plan_of(Content(1, 150 * 10**9)).part_bytes == 16 * MIB < counting.plan_of(Content(1, 152 * 10**9)).part_bytes


# The simulation, where the outcome is known.

GB = 10**9
#: 100 s for a save of 10 GB, whatever else there is.
SLOW = Cluster(Content(1, 10 * GB), line_bytes_per_s=1e8, store=StoreModel(latency_s=1e-6, connection_bytes_per_s=1e12))


def _of(cluster: Cluster, **changes: object) -> Outcome:
    return simulate(dataclasses.replace(cluster, **changes), 3)  # type: ignore[arg-type]


def test_a_task_alone() -> None:
    found = _of(SLOW)
    assert found.saves == 17 and not (found.dropped or found.refused_saves or found.blocked_s or found.slow_down)
    assert found.at_risk_s == pytest.approx(700, rel=0.05)
    assert found.spool_peak_bytes == 10 * GB
    assert found.sent_bytes == pytest.approx(170 * GB, rel=1e-4)
    assert counting.total(found.requests) == 16 * counting.total(count_save(SLOW.content, first=False).requests) + counting.total(
        count_save(SLOW.content, first=True).requests
    )


def test_what_retention_keeps() -> None:
    kept = _of(SLOW, tasks=5, settings=Settings(keep_last=3))
    every = _of(SLOW, tasks=5)
    assert (kept.kept_bytes, every.kept_bytes) == (5 * 30 * GB, every.saves * 10 * GB)
    # 17 saves, each 10 minutes after the other: the last one, and one for each hour that has begun.
    hourly = _of(SLOW, settings=Settings(keep_last=1, keep_every="1h"))
    assert hourly.kept_bytes in (30 * GB, 40 * GB)
    deletions = counting.total(kept.requests) - counting.total(every.requests)
    assert deletions == (kept.saves - 15) * counting.total(counting.count_pass(SLOW.content))


def test_a_line_that_is_too_slow_fills_the_spool_up_to_its_bound() -> None:
    faster = dataclasses.replace(SLOW, interval_s=50.0)
    waits = _of(faster, settings=Settings(max_pending=4))
    assert waits.spool_peak_bytes == 40 * GB
    # It saves at the pace of the line; what lies in the spool when the training ends is stored after it.
    assert waits.saves == pytest.approx(3 * 36 + 4, abs=3) and waits.blocked_s == pytest.approx(3 * 3600 / 2, rel=0.1)
    assert waits.flush_s == pytest.approx(350, abs=60)
    given_up = _of(faster, settings=Settings(max_pending=4, on_full="drop_oldest"))
    assert given_up.saves + given_up.dropped == pytest.approx(3 * 72, abs=3) and not given_up.blocked_s
    late = _of(faster, settings=Settings(max_lag_s=250.0))
    # An interval before the oldest that was not stored, and one after it was looked at.
    assert 250 < late.at_risk_worst_s <= 250 + 2 * 50 and late.blocked_s > 0
    refused = _of(faster, settings=Settings(max_pending_bytes=9 * GB))
    assert refused.refused_saves == pytest.approx(3 * 72, abs=2) and not refused.saves


def test_the_limit_of_a_partition_slows_all_of_them_alike() -> None:
    store = StoreModel(latency_s=0.01, latency_sigma=0.0, writes_per_s=100.0)
    alone = Cluster(Content(1000, 1000), tasks=1, spread_s=0.0, store=store)
    assert not _of(alone, store=dataclasses.replace(store, writes_per_s=1e6)).slow_down
    crowd = _of(alone, tasks=50)
    # 50 × 1,005 writes in 600 s where 100 a second are taken: 503 s.
    assert crowd.throttled_s > 0 and crowd.slow_down > 0
    assert crowd.at_risk_s == pytest.approx(600 + 503, rel=0.1)
    assert _of(alone, tasks=50, store=dataclasses.replace(store, partitions=100)).at_risk_s == pytest.approx(600, rel=0.02)


def test_an_outage_is_caught_up_with() -> None:
    found = _of(SLOW, outage=(5000.0, 1200.0))
    assert found.saves == 17 and found.at_risk_worst_s > 1200
    assert found.flush_s == pytest.approx(_of(SLOW).flush_s, abs=30)


def test_a_simulation_is_the_same_each_time() -> None:
    cluster = dataclasses.replace(SLOW, tasks=40, tasks_per_host=4)
    assert simulate(cluster, 2, seed=7) == simulate(cluster, 2, seed=7) != simulate(cluster, 2, seed=8)


def test_the_estimate_of_refusals_is_near_to_each_request() -> None:
    """What the simulation of hours estimates, that of seconds has request by request."""
    for tasks, requests in ((256, 250), (600, 60)):
        outcome = simulate_storm(Storm(tasks, requests))
        fair = Storm.per_s * StoreModel().mean_latency_s / tasks
        assert 1 / 3 < refused_share(fair) / (outcome.refused / outcome.granted) < 3
        # The partition is kept busy.
        assert outcome.granted == tasks * requests and outcome.median_s < 1.3 * tasks * requests / Storm.per_s
    assert simulate_storm(Storm(10, 20)).refused == 0


def test_money_by_hand() -> None:
    requests = counting.Requests({("put", "x"): 1000, ("list", "x"): 1000, ("get", "x"): 1000, ("delete_many", ""): 10**6})
    assert request_cost(requests) == pytest.approx(0.0104)
    assert storage_cost(100_000 * GB) == pytest.approx(50_000 * 0.023 + 50_000 * 0.022)
    assert growing_storage_cost(1000 * GB) == pytest.approx(15_000 * 0.023)
    assert abandoned_cost(100 * GB, 30, 1) == pytest.approx(50 * 0.023)
