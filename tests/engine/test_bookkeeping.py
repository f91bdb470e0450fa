"""News of a worker that never comes, and what nobody waits for because of that."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import ckpt_async.assembly
from ckpt_async import (
    CheckpointNotStored,
    CheckpointRecord,
    CheckpointReference,
    FlushTimeout,
    InvalidArgument,
    SnapshotFailed,
    SpoolDamaged,
    StoreAddress,
    StoreMissing,
    WorkerDied,
    supervisor,
)
from ckpt_async.ledger import Ledger
from ckpt_async.stores.contract import StoreTraits
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.events import AdoptionEnded, EntryCommitted, EntryFailed, Event, WorkerReady
from ckpt_async.worker.sidecar_client import SidecarClient
from ckpt_async.worker.thread import ThreadWorker
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, identity_of, paused, wait_for


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
        # At once, not when there is room: the store stands still.
        saving.join(DEADLINE_S)
        assert outcome and closing.is_alive()
    closing.join(DEADLINE_S)
    assert isinstance(outcome[0], InvalidArgument) and "closed" in str(outcome[0])
    assert first.done() and len(desk.records()) == 1
    assert desk.is_clean()


def test_a_spool_that_vanishes_with_its_worker_is_not_taken_for_stored(
    make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer
) -> None:
    desk = make_desk(s3_address)
    checkpointer = desk.open()
    sidecar = desk.sidecars()[0]
    with paused(seaweed):
        reference = checkpointer.save(desk.tree())
        os.kill(sidecar, signal.SIGSTOP)
        shutil.rmtree(checkpointer.spool_folder)
        os.kill(sidecar, signal.SIGKILL)
        with pytest.raises(CheckpointNotStored, match="removed or damaged the spool"):
            reference.wait(DEADLINE_S)
    assert checkpointer.stats.committed == 0
    with pytest.raises(WorkerDied):
        checkpointer.flush()
    assert not desk.records()


def test_a_spool_that_somebody_removes_ends_the_wait_for_it(
    s3_desk: Desk, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_LINE_S", 0.05)
    monkeypatch.setattr(supervisor, "LINE_EVERY_S", 0.05)
    checkpointer = s3_desk.open()
    with paused(seaweed):
        checkpointer.save(s3_desk.tree())
        os.rename(checkpointer.spool_folder, s3_desk.folder / "gone")  # at once, whatever the worker does
        with pytest.raises(SpoolDamaged, match="removed or damaged the spool"):
            checkpointer.flush(DEADLINE_S)


def test_exceptions_of_signal_handlers_leave_nothing_locked(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    class Hit(Exception):
        pass

    hits = 0
    armed = False
    stop = threading.Event()
    checkpointer = s3_desk.open()

    def handle(number: int, frame: object) -> None:
        nonlocal hits, armed
        if armed:
            hits, armed = hits + 1, False
            raise Hit

    def storm(target: int) -> None:
        while not stop.is_set():
            signal.pthread_kill(target, signal.SIGUSR1)
            stop.wait(0.0001)

    def look(reference: CheckpointReference) -> None:
        nonlocal armed
        while hits < 1000:
            armed = True
            for _ in range(20):
                assert checkpointer.pending.saves == checkpointer.stats.saves == len(checkpointer.references())
            with suppress(FlushTimeout):
                reference.wait(0.001)
        armed = False

    thread = threading.Thread(target=storm, args=(threading.get_ident(),))
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with paused(seaweed):
            reference = checkpointer.save(s3_desk.tree())
            thread.start()
            try:
                while True:
                    try:
                        look(reference)
                        break
                    except Hit:
                        continue
            finally:
                stop.set()
                thread.join(DEADLINE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert reference.done()


def test_what_is_left_is_waited_for_only_where_a_worker_will_tell_of_it() -> None:
    ledger = Ledger(["0000", "0001"])
    ledger.apply(WorkerReady(1, ("0000",)))
    assert ledger.outstanding().adopting == ("0000",)
    refused = StoreMissing("store").to_wire()
    ledger.apply(AdoptionEnded("0000", 1, refused))
    assert not ledger.outstanding() and list(ledger.adoption_errors) == ["0000"]
    assert ledger.reopen_failed() and ledger.outstanding().adopting == ("0000",)
    ledger.apply(AdoptionEnded("0000", 1, refused))
    ledger.apply(AdoptionEnded("0000", 0))
    assert not ledger.adoption_errors

    # A worker that is started again tells of what it finds, and of nothing else.
    ledger.apply(AdoptionEnded("0000", 1, refused))
    ledger.apply(WorkerReady(2, ()))
    assert not ledger.reopen_failed() and not ledger.outstanding()


def record_of(version: int = 0) -> CheckpointRecord:
    return CheckpointRecord.of_save(
        identity_of(), name="n", version=version, size_bytes=1, metadata={}, storage_format="files", store_url="/x"
    )


def test_a_save_after_the_end_of_all_workers_waits_for_nobody() -> None:
    ledger = Ledger()
    ledger.give_up("there is no worker")
    with pytest.raises(CheckpointNotStored, match="there is no worker"):
        ledger.open(record_of(), "0000000000", 1).wait()


def test_what_was_given_up_is_progress_at_risk_until_a_later_save_is_stored() -> None:
    ledger = Ledger()
    taken = [ledger.open(record_of(version), f"{version:010d}", 1).state for version in range(3)]
    now_s = time.monotonic()
    for state, age_s in zip(taken, (3000, 2000, 1000), strict=True):
        state.taken_s = now_s - age_s
    ledger.settle_dropped("0000000000", "the spool was full")
    assert ledger.lag_s >= 3000
    ledger.apply(EntryCommitted("0000000001", 1, 0.0))
    assert 1000 <= ledger.lag_s < 2000
    ledger.apply(EntryFailed("0000000002", SnapshotFailed("save", on="a", cause="torn").to_wire()))
    assert ledger.lag_s == 0


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


def test_what_is_found_out_of_a_store_is_said_once(
    make_desk: MakeDesk, local_address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(LocalStore):
        @property
        def traits(self) -> StoreTraits:
            traits = super().traits
            return dataclasses.replace(traits, conditional_writes=False, notices=("It speaks slowly.", *self.found))

        found: tuple[str, ...] = ()

        async def begin_multipart(self, key: str) -> str:
            self.found = ("It was heard to stammer.",)
            return await super().begin_multipart(key)

    monkeypatch.setattr(ckpt_async.assembly, "open_store", lambda address, pace=None: Plain(address.url))
    desk = make_desk(local_address, "thread")
    checkpointer = desk.open()
    for number in range(3):
        checkpointer.save(desk.tree({"large": bytes(17 << 20)} if number else {"small": b"1"}))
    checkpointer.close(timeout_s=DEADLINE_S)
    for text in ("does not know conditional writes", "speaks slowly", "heard to stammer"):
        assert sum(text in line for line in desk.said) == 1
