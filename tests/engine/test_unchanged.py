"""Fine-tuning with a frozen base: only what has changed is sent, and each checkpoint stays complete by itself."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import anyio
import pytest

from ckpt_async import StoreAddress, open_for_child
from ckpt_async.disk.lease import file_system_of
from ckpt_async.reference import CheckpointReference
from ckpt_async.stores.contract import Body
from ckpt_async.testing.access import ACCESS_SPEC
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.events import EntryCommitted
from ckpt_async.worker.contents import TELLING_FILE_SYSTEMS
from tests.engine.conftest import MakeDesk
from tests.engine.desk import Desk, alive, identity_of, paused, read_tree, wait_for
from tests.fixtures_s3 import S3Place

MIB = 1024 * 1024


def _delete_data(desk: Desk, place: S3Place, reference: CheckpointReference) -> None:
    """Delete a checkpoint's data behind everybody's back."""
    if not desk.address.access:
        shutil.rmtree(Path(desk.address.url, reference["key"]))
        return
    assert desk.address.access == ACCESS_SPEC

    async def delete() -> None:
        async with place.store() as store:
            await store.delete([info.key for info in await store.list(f"{reference['key']}/")])

    anyio.run(delete)


def _tells(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return file_system_of(descriptor) in TELLING_FILE_SYSTEMS
    finally:
        os.close(descriptor)


def test_only_the_adapter_is_sent(desk: Desk, s3_place: S3Place) -> None:
    # Of two parts, written long ago.
    tree = desk.tree({"base/frozen.bin": os.urandom(17 * MIB), "adapter.bin": os.urandom(MIB // 2)})
    frozen = tree / "base" / "frozen.bin"
    os.utime(frozen, ns=(10**18, 10**18))
    checkpointer = desk.open()
    desk.sidecars()
    copies = bool(desk.address.access) or (desk.worker == "process" and _tells(tree))

    def save() -> CheckpointReference:
        (tree / "adapter.bin").write_bytes(os.urandom(MIB // 2))
        reference = checkpointer.save(tree)
        checkpointer.flush()
        assert reference.state.sent_bytes + reference.state.copied_bytes == 17 * MIB + MIB // 2
        return reference

    first = save()
    assert first.state.copied_bytes == 0
    second = save()
    assert second.state.copied_bytes == (17 * MIB if copies else 0)
    _delete_data(desk, s3_place, first)
    assert desk.content(second) == read_tree(tree)

    # The first part in place, to the same size, at the same time as it seems; the second part is what it was.
    with open(frozen, "r+b") as file:
        file.write(os.urandom(5))
    os.utime(frozen, ns=(10**18, 10**18))
    third = save()
    assert third.state.copied_bytes == (MIB if desk.address.access else 0)
    _delete_data(desk, s3_place, second)
    assert desk.content(third) == read_tree(tree)
    copied_bytes = second.state.copied_bytes + third.state.copied_bytes
    assert checkpointer.stats.copied_bytes == copied_bytes
    checkpointer.close(timeout_s=30)
    assert ("of it not sent again" in desk.said[-1]) is (copied_bytes > 0)
    assert desk.is_clean()


def test_what_only_looks_changed_is_not_sent(s3_desk: Desk, s3_place: S3Place) -> None:
    tree = s3_desk.tree({"frozen": os.urandom(2 * MIB)})
    checkpointer = s3_desk.open()

    def rewrite() -> None:
        (tree / "frozen").write_bytes((tree / "frozen").read_bytes())

    def rename() -> None:
        (tree / "frozen").rename(tree / "thawed")

    sent = []
    for change in (lambda: None, lambda: os.utime(tree / "frozen"), rewrite, rename):
        change()
        reference = checkpointer.save(tree)
        checkpointer.flush()
        sent.append(reference.state.sent_bytes)
    assert sent == [2 * MIB, 0, 0, 0]
    assert s3_desk.content(reference) == read_tree(tree)
    # The checkpoint before it is gone: sent from the snapshot.
    _delete_data(s3_desk, s3_place, reference)
    last = checkpointer.save(tree)
    checkpointer.flush()
    assert last.state.sent_bytes == 2 * MIB
    assert s3_desk.content(last) == read_tree(tree)


def test_a_retry_sends_only_what_has_changed_since_the_attempts_before(
    s3_desk: Desk, s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckpt_async.transfer.line_speed.PART_BYTES", 5 * MIB)
    # Of two parts: joined from copies by another worker than the one that sent them.
    tree = s3_desk.tree({"frozen": os.urandom(6 * MIB)})
    references: list[CheckpointReference] = []

    def sent_by_attempt() -> int:
        checkpointer = s3_desk.open(attempt=len(references))
        (tree / "adapter").write_bytes(os.urandom(MIB // 2))
        references.append(checkpointer.save(tree))
        checkpointer.close(timeout_s=30)
        return references[-1].state.sent_bytes

    async def damage() -> None:
        async with s3_place.store() as store:
            await store.put(references[-1].record.manifest, Body.of(b"{"))

    everything = 6 * MIB + MIB // 2
    assert sent_by_attempt() == everything
    with open(tree / "frozen", "r+b") as file:
        file.seek(5 * MIB)
        file.write(b"?")
    assert sent_by_attempt() == MIB + MIB // 2
    _delete_data(s3_desk, s3_place, references[0])
    assert s3_desk.content(references[1]) == read_tree(tree)
    _delete_data(s3_desk, s3_place, references[1])
    assert sent_by_attempt() == everything
    assert not any("looked at" in said for said in s3_desk.said)
    anyio.run(damage)
    assert sent_by_attempt() == everything
    assert sum("looked at" in said for said in s3_desk.said) == 1
    assert s3_desk.content(references[3]) == read_tree(tree)


def test_another_run_sends_only_what_differs_from_what_it_has_loaded(s3_desk: Desk) -> None:
    tree = s3_desk.tree({"frozen": os.urandom(2 * MIB)})

    def saved_by(run: str, *, eager: bool = False, load: CheckpointReference | None = None) -> CheckpointReference:
        checkpointer = s3_desk.open(run=run)
        if eager:
            assert checkpointer.resume("eager", str(s3_desk.target())) is not None
        if load is not None:
            checkpointer.load(load, str(s3_desk.target()))
        (tree / "adapter").write_bytes(os.urandom(MIB // 2))
        reference = checkpointer.save(tree)
        checkpointer.close(timeout_s=30)
        assert s3_desk.content(reference) == read_tree(tree)
        return reference

    first = saved_by("1")
    runs = [saved_by("2", eager=True), saved_by("3", load=first)]
    assert [run.state.sent_bytes for run in runs] == [MIB // 2, MIB // 2]


def test_a_child_process_sends_only_what_has_changed_since_what_its_task_has_saved(s3_desk: Desk) -> None:
    tree = s3_desk.tree({"frozen": os.urandom(2 * MIB)})
    task = s3_desk.open(async_upload=False)
    sent = []
    for by_child in (False, True, True):
        child = open_for_child(identity_of(), s3_desk.address, scratch_root=str(s3_desk.scratch)) if by_child else task
        (tree / "adapter").write_bytes(os.urandom(MIB // 2))
        sent.append(child.save(tree).state.sent_bytes)
        if by_child:
            child.close(timeout_s=30)
    assert sent == [2 * MIB + MIB // 2, MIB // 2, MIB // 2]


def test_what_a_killed_attempt_left_is_sent_without_what_the_store_has(
    make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer
) -> None:
    desk = make_desk(s3_address)
    tree = desk.tree({"frozen": os.urandom(2 * MIB), "adapter": os.urandom(MIB)})
    task = desk.task()
    sidecar = desk.orphan(task.do("sidecar"))
    task.do("save", path=str(tree))
    task.do("flush")
    with paused(seaweed):
        (tree / "adapter").write_bytes(os.urandom(MIB))
        task.do("save", path=str(tree))
        task.kill()
        os.kill(sidecar, signal.SIGKILL)
        wait_for(lambda: not alive(sidecar), "all are dead")
    retry = desk.open(attempt=1)
    # It lies here still: the store has only the one before it, or by now this one too.
    assert retry.resume("fresh", str(desk.target())) is not None
    (tree / "adapter").write_bytes(os.urandom(MIB))
    last = retry.save(tree)
    retry.flush()
    sent = {event.entry: event.sent_bytes for event in desk.events if isinstance(event, EntryCommitted)}
    assert sent == {"0000/0000000001": MIB, "0000000000": MIB}
    assert desk.content(last) == read_tree(tree)
