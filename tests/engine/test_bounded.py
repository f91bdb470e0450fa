"""Disk and memory stay within their limits, however many saves there are, and however large they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async import StoreAddress
from ckpt_async.testing.access import ACCESS_SPEC, access_variables
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is looked up in /proc"),
]

KIB = 1024
MIB = 1024 * KIB

SAVES = 200
MOVED_BYTES = 512 * MIB
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
MODEL_BYTES = 300 * KIB

#: What an entry has beside the files that were saved, in whole blocks: its folder, its description, the notes of its upload.
BESIDE_BYTES = 32 * KIB

#: Of the task, or the sidecar, from save 50 to the last: a hundredth of what went through them.
GROWTH_BYTES = 8 * MIB


def memory_bytes(pid: int, what: str = "VmRSS") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * KIB
    raise AssertionError(f"{what} is not told")


def disk_bytes(folder: str) -> int:
    """What a folder takes, as the disk counts it. What is removed meanwhile may count; nothing can be missing."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in [".", *folders, *files]:
            try:
                state = os.lstat(os.path.join(base, name))
            except FileNotFoundError:
                continue
            found[state.st_ino] = state.st_blocks * 512
    return sum(found.values())


@pytest.fixture
def desk(quick_folder: Path) -> Iterator[Desk]:
    (quick_folder / "store").mkdir()
    desk = Desk(quick_folder, StoreAddress(str(quick_folder / "store")))
    yield desk
    desk.end()


@pytest.mark.parametrize("on_full", ["block", "drop_oldest"])
def test_saves_that_come_faster_than_the_line_forever(desk: Desk, on_full: str) -> None:
    tree = desk.tree({"model": os.urandom(MODEL_BYTES), "step": bytes(8)})
    size_bytes = MODEL_BYTES + 8
    checkpointer = desk.open(max_pending_bytes=4 * size_bytes, on_full=on_full)
    (sidecar,) = desk.sidecars()
    limit_bytes = 4 * (size_bytes + BESIDE_BYTES) + 2 * BESIDE_BYTES
    early: list[tuple[int, int, int]] = []

    def held() -> tuple[int, int, int]:
        return memory_bytes(os.getpid()), memory_bytes(sidecar), len(os.listdir(f"/proc/{sidecar}/fd"))

    for number in range(SAVES):
        # In place, over what is linked in the spool: each save then has a copy of its own there. That is when the spool is fullest.
        (tree / "model").write_bytes(os.urandom(MODEL_BYTES))
        assert disk_bytes(checkpointer.spool_folder) <= limit_bytes
        checkpointer.save(tree, metadata={"number": number})
        assert disk_bytes(checkpointer.spool_folder) <= limit_bytes
        if number == 50:
            early.append(held())
    for before, now in zip(early[0][:2], held()[:2], strict=True):
        assert now - before < GROWTH_BYTES
    checkpointer.flush()
    assert held()[2] <= early[0][2] and not checkpointer._ledger._live
    stats = checkpointer.stats
    assert stats.committed + stats.dropped == SAVES
    assert stats.waited_s > 0 if on_full == "block" else stats.dropped > 0
    assert desk.sidecars() == [sidecar]


@pytest.mark.parametrize(("set_bytes", "limit_bytes"), [(None, 150 * 10**6), (16 * MIB, 105 * 10**6)])
def test_the_sidecar_needs_little_memory_whatever_it_moves(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch, set_bytes: int | None, limit_bytes: int
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from sink import Sink

    with Sink() as sink:
        for name, value in access_variables(sink.endpoint_url, "key", "secret").items():
            monkeypatch.setenv(name, value)
        desk = make_desk(StoreAddress("s3://bucket/prefix", ACCESS_SPEC))
        checkpointer = desk.open(max_memory_bytes=set_bytes)
        (sidecar,) = desk.sidecars()
        tree = desk.tree({}, name="large")
        with open(tree / "model", "wb") as file:
            file.truncate(MOVED_BYTES)  # a hole: takes no room, and is sent all the same
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": 1}
        checkpointer.flush()
        assert sink.stats()["body_bytes"] >= MOVED_BYTES
        assert memory_bytes(sidecar, "VmHWM") < limit_bytes
        checkpointer.close(timeout_s=DEADLINE_S)
