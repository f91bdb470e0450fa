"""save() returns at once, and what is stored is what was there at the call."""

from __future__ import annotations

import os

import pytest

from ckpt_async.testing.slow_line import SlowLine
from tests.engine.conftest import MakeDesk
from tests.engine.desk import Desk, paused

MB = 1_000_000


def test_what_is_done_to_the_files_later_is_not_stored(s3_desk: Desk, seaweed: object) -> None:
    files = {
        name: os.urandom(size)
        for size in (100, 3 * MB)
        for name in (f"overwritten-{size}", f"truncated-{size}", f"deleted-{size}", f"replaced-{size}", f"appended-{size}")
    }
    tree = s3_desk.tree(files)
    checkpointer = s3_desk.open()
    with paused(seaweed):  # type: ignore[arg-type]
        held = open(tree / f"overwritten-{3 * MB}", "r+b")  # noqa: SIM115 - open across the save, as a mapping would be
        reference = checkpointer.save(tree)
        held.write(b"later" * 100)
        held.close()
        for size in (100, 3 * MB):
            with open(tree / f"overwritten-{size}", "r+b") as file:
                file.write(b"later")
            os.truncate(tree / f"truncated-{size}", 10)
            os.unlink(tree / f"deleted-{size}")
            (tree / "new").write_bytes(b"new")
            os.replace(tree / "new", tree / f"replaced-{size}")
            with open(tree / f"appended-{size}", "ab") as file:
                file.write(b"later")
        (tree / "late").write_bytes(b"late")
        assert not reference.done()
    checkpointer.close(timeout_s=30)
    assert s3_desk.content(reference) == files


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["process", "thread"])
def test_training_goes_on_while_a_slow_line_is_used(make_desk: MakeDesk, s3_address: object, line: SlowLine, worker: str) -> None:
    # More than the worker holds in memory, and 10 s at least that save() may take on a busy machine before it seems to wait.
    size_bytes = 80 * MB
    line.set_rate(4 * MB)
    desk = make_desk(s3_address, worker)
    content = os.urandom(size_bytes)
    tree = desk.tree({"model.bin": content})
    checkpointer = desk.open()
    # Stored before, so that connections, imports and the worker's start are behind us.
    checkpointer.save(desk.tree({"a": b"a"}, "first"))
    checkpointer.flush()
    before_bytes = line.upstream_bytes

    reference = checkpointer.save(tree)
    assert line.upstream_bytes - before_bytes < size_bytes // 2, "save() waited for the line"
    assert not reference.done()
    os.truncate(tree / "model.bin", 0)

    steps_while_bytes_move, seen_bytes = 0, line.upstream_bytes
    while not reference.done() and steps_while_bytes_move < 5:
        sum(range(10_000))  # a step of training
        if line.upstream_bytes > seen_bytes:
            seen_bytes = line.upstream_bytes
            steps_while_bytes_move += 1
    assert steps_while_bytes_move == 5
    assert checkpointer.pending.saves == 1

    # What is left to be seen is the same at any speed.
    line.set_rate(None)
    checkpointer.close(timeout_s=60)
    assert reference.done()
    assert line.upstream_bytes - before_bytes >= size_bytes
    assert desk.content(reference) == {"model.bin": content}
    assert desk.is_clean()
