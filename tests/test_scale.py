"""The counts that the simulation of scale rests on are those of the engine at work: request by request, byte by byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scale import counting, storm
from scale.cluster import Cluster, simulate
from scale.counting import SOME_TASK, Content, count_deletion, count_list, count_load, count_recall, count_save
from scale.documents import tables_in
from scale.sinking import Bench
from scale.tables import TABLES, as_markdown
from scale.timing import StoreModel, refused_share

from ckpt_async import Settings

MIB = 1024 * 1024
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scale.md"

CASES = {
    "one file of many parts, of which some change": Content(1, 4 * 16 * MIB + 1, changed=0.4),
    "files of one part, some unchanged": Content(8, 2 * MIB, changed=0.25),
    "small files": Content(1005, 700),
    "small files in an archive": Content(1005, 700, "tar"),
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
