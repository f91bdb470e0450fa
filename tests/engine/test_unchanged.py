"""Fine-tuning with a frozen base: only what has changed is sent, and each checkpoint stays complete by itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anyio

from ckpt_async.disk.lease import file_system_of
from ckpt_async.reference import CheckpointReference
from ckpt_async.testing.access import ACCESS_SPEC
from ckpt_async.worker.contents import TELLING_FILE_SYSTEMS
from tests.engine.desk import Desk, read_tree
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
