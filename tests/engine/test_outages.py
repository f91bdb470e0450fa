"""A store that is away for a while: uploads go on when it is back, and who waits is told."""

from __future__ import annotations

import re
import threading

import pytest

from ckpt_async import CheckpointNotStored, FlushTimeout, StoreAddress
from ckpt_async.testing.slow_line import SlowLine
from ckpt_async.words.events import EntryStarted, Trouble
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, alive, wait_for

pytestmark = pytest.mark.parametrize("worker", ["process", "thread"])


def test_uploads_go_on_when_the_line_is_back(make_desk: MakeDesk, s3_address: StoreAddress, line: SlowLine, worker: str) -> None:
    desk = make_desk(s3_address, worker)
    checkpointer = desk.open()
    line.cut()
    reference = checkpointer.save(desk.tree())
    wait_for(desk.happened(Trouble), "the trouble is told")
    with pytest.raises(FlushTimeout) as caught:
        checkpointer.flush(0.2)
    text = str(caught.value)
    for word in (s3_address.url, "200 ms", "1 save", "the last trouble was", checkpointer.spool_folder):
        assert word in text
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(FlushTimeout, match="safe on local disk"):
        reference.wait(0.01)
    flushing = threading.Thread(target=checkpointer.flush)
    flushing.start()
    wait_for(lambda: any("Uploading to" in said for said in desk.said), "who waits is told")

    line.restore()
    flushing.join(DEADLINE_S)
    assert reference.done()
    told = [said for said in desk.said if "Uploading to" in said]
    assert len(told) == 1 and s3_address.url in told[0] and "trouble, being retried" in told[0]
    assert checkpointer._ledger.trouble is None
    checkpointer.close(timeout_s=DEADLINE_S)
    assert desk.is_clean()


def test_a_task_that_ends_while_the_line_is_cut_loses_nothing(
    make_desk: MakeDesk, s3_address: StoreAddress, line: SlowLine, worker: str
) -> None:
    desk = make_desk(s3_address, worker)
    checkpointer = desk.open()
    desk.sidecars()
    line.cut()
    reference = checkpointer.save(desk.tree())
    wait_for(desk.happened(EntryStarted), "the upload has begun")
    with pytest.raises(FlushTimeout, match=re.escape(checkpointer.spool_folder)):
        checkpointer.close(timeout_s=0.3)
    checkpointer.close(timeout_s=0.3)  # says nothing more
    with pytest.raises(CheckpointNotStored, match="task ended"):
        reference.wait()
    assert desk.spools() == ["0000"]
    line.restore()
    if worker == "process":
        sidecar = desk.sidecars()[0]
        wait_for(lambda: not alive(sidecar), "the sidecar has finished by itself")
    else:
        desk.open(1).close(timeout_s=DEADLINE_S)
    wait_for(desk.is_clean, "the scratch folder is empty")
    assert desk.content(reference["key"]) == {"model.bin": b"weights"}


def test_connections_that_break_in_the_middle_cost_nothing_but_time(
    make_desk: MakeDesk, s3_address: StoreAddress, line: SlowLine, worker: str
) -> None:
    desk = make_desk(s3_address, worker)
    checkpointer = desk.open()
    files = {"model.bin": bytes(range(256)) * 40_000, "more.bin": b"m" * 5_000_000}
    tree = desk.tree(files)
    checkpointer.save(desk.tree({"a": b"a"}, "first"))
    checkpointer.flush()
    line.set_rate(30_000_000)
    sent_bytes = line.upstream_bytes
    reference = checkpointer.save(tree)
    for _ in range(2):
        sent_bytes += 3_000_000
        line.wait_for_upstream(sent_bytes)
        line.reset()
    line.set_rate(None)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert desk.content(reference) == files
