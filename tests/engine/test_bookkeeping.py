"""News of a worker that never comes, and what nobody waits for because of that."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import ckpt_async.assembly
from ckpt_async import CheckpointNotStored, InvalidArgument, SpoolDamaged, StoreAddress, WorkerDied
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.events import EntryCommitted, Event
from ckpt_async.worker.sidecar_client import SidecarClient
from ckpt_async.worker.thread import ThreadWorker
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, paused, wait_for


@pytest.mark.parametrize("worker", ["process", "thread"])
def test_a_spool_that_its_own_sidecar_removes_meanwhile_is_not_waited_for(
    make_desk: MakeDesk, local_address: StoreAddress, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    desk = make_desk(local_address, worker)
    older = desk.open(0)
    older_folder = Path(older.spool_folder)
    kept = shutil.copytree(older_folder, desk.folder / "kept")
    older.close(timeout_s=DEADLINE_S)
    shutil.copytree(kept, older_folder)

    name, kind = ("ThreadWorker", ThreadWorker) if worker == "thread" else ("SidecarClient", SidecarClient)

    class Late(kind):  # type: ignore[misc,valid-type]
        def start(self) -> None:
            shutil.rmtree(older_folder)  # after the checkpointer has looked, before the worker does
            super().start()

    monkeypatch.setattr(ckpt_async.assembly, name, Late)
    later = desk.open(1)
    later.flush(DEADLINE_S)
    later.close(timeout_s=DEADLINE_S)


def test_a_commit_whose_news_died_with_the_worker_is_known(
    make_desk: MakeDesk, local_address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(local_address, "thread")
    died = []

    class Dying(ThreadWorker):
        def __init__(self, folder: str, make_store: Any, on_event: Any, on_death: Any) -> None:
            def tell(event: Event) -> None:
                if isinstance(event, EntryCommitted) and not died:
                    died.append(event)
                    raise RuntimeError("killed before it could tell")
                on_event(event)

            super().__init__(folder, make_store, tell, on_death)

    monkeypatch.setattr(ckpt_async.assembly, "ThreadWorker", Dying)
    checkpointer = desk.open()
    first = checkpointer.save(desk.tree())
    assert first.wait(DEADLINE_S).done()
    second = checkpointer.save(desk.tree())
    checkpointer.close(timeout_s=DEADLINE_S)
    assert died and second.done()
    assert sum("killed before it could tell" in line for line in desk.said) == 1


def test_a_worker_that_can_never_run_is_told_and_ends_every_wait(
    make_desk: MakeDesk, local_address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(local_address)
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # an interpreter that can't start
    checkpointer = desk.open()
    reference = checkpointer.save(desk.tree())
    with pytest.raises(CheckpointNotStored, match="last words"):
        reference.wait()
    with pytest.raises(WorkerDied, match="kept there"):
        checkpointer.save(desk.tree())
    with pytest.raises(WorkerDied):
        checkpointer.flush()
    with pytest.raises(WorkerDied):
        checkpointer.close(timeout_s=DEADLINE_S)
    monkeypatch.delenv("PYTHONHOME")
    assert desk.spools() == ["0000"]
    desk.open(1).close(timeout_s=DEADLINE_S)
    assert [record.attempt for record in desk.records()] == [0]
    assert desk.is_clean()


@pytest.mark.parametrize("worker", ["thread"])
def test_a_save_that_waits_while_another_thread_closes_is_refused(
    make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer, worker: str
) -> None:
    desk = make_desk(s3_address, worker)
    checkpointer = desk.open(max_pending=1)
    outcome: list[object] = []

    def save() -> None:
        try:
            outcome.append(checkpointer.save(desk.tree()))
        except InvalidArgument as error:
            outcome.append(error)

    saving = threading.Thread(target=save)
    closing = threading.Thread(target=checkpointer.close, kwargs={"timeout_s": DEADLINE_S})
    with paused(seaweed):
        first = checkpointer.save(desk.tree({"a": b"a"}, "first"))
        saving.start()
        wait_for(lambda: any("save() waits" in line for line in desk.said), "the save waits")
        closing.start()
        wait_for(lambda: checkpointer._closed, "close() has begun")
    saving.join(DEADLINE_S)
    closing.join(DEADLINE_S)
    assert isinstance(outcome[0], InvalidArgument) and "closed" in str(outcome[0])
    assert first.done() and len(desk.records()) == 1
    assert desk.is_clean()


@pytest.mark.parametrize("what", ["not a header", None])
def test_an_older_spool_that_cannot_be_read_stops_nothing(
    make_desk: MakeDesk, local_address: StoreAddress, what: str | None
) -> None:
    desk = make_desk(local_address)
    older = desk.open(0)
    entry = Path(older.spool_folder, "ready", "0000000000")
    header = Path(older.spool_folder, "spool.json")
    text = header.read_text()
    older.close(timeout_s=DEADLINE_S)
    entry.mkdir(parents=True)
    header.write_text(text if what is None else what)

    later = desk.open(1)
    target = desk.target()
    assert later.resume("fresh", str(target)) is None
    reference = later.save(desk.tree())
    later.close(timeout_s=DEADLINE_S)
    assert reference.done()
    assert any("can't be read" in line for line in desk.said)
    assert any("attempt 0 left could not be stored" in line for line in desk.said)


@pytest.mark.parametrize(("worker", "damage"), [("process", "missing"), ("thread", "short")])
def test_a_save_whose_files_somebody_removed_fails_and_holds_up_no_other(
    make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer, worker: str, damage: str
) -> None:
    desk = make_desk(s3_address, worker)
    checkpointer = desk.open()
    with paused(seaweed):
        whole = [checkpointer.save(desk.tree()) for _ in range(2)]
        damaged = checkpointer.save(desk.tree({"a": b"12345"}, "more"))
        packs = list(Path(checkpointer.spool_folder).glob(f"*/{damaged.state.entry}/pack"))
        if damage == "missing":
            packs[0].unlink()
        else:
            packs[0].write_bytes(b"1")
    with pytest.raises(SpoolDamaged, match="pack"):
        checkpointer.close(timeout_s=DEADLINE_S)
    assert [one.status for one in (*whole, damaged)] == ["committed", "committed", "failed"]
    assert [record.version_id for record in desk.records()] == [1, 0]
