"""What the crash points found, once each, as small as it can be shown."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from ckpt_async.spool.part_log import PartLog
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.stores.contract import Body
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.transfer.upload import upload
from ckpt_async.words.errors import SpoolDamaged, StoreUnavailable
from ckpt_async.words.events import Wake
from ckpt_async.words.settings import Settings, StoreAddress
from ckpt_async.worker.thread import ThreadWorker
from tests.engine.desk import write_tree
from tests.spool.parts import content, save
from tests.transfer.parts import job_of


class FullDisk:
    """A disk on which each write takes half of what it is given, and the next one nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.is_full = False
        self._halved = False
        for name in names:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, original: Any) -> Any:
        def write(descriptor: int, data: bytes, *more: int) -> int:
            if not self.is_full:
                return original(descriptor, data, *more)
            self._halved = not self._halved
            if not self._halved:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(descriptor, bytes(data)[: len(data) // 2], *more)

        return write


@pytest.mark.anyio
async def test_a_part_whose_note_was_cut_off_can_be_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch, "write")
    body = Body.of(b"part")
    async with LocalStore(str(tmp_path)) as store:
        upload_id = await store.begin_multipart("object")
        disk.is_full = True
        with pytest.raises(StoreUnavailable):
            await store.put_part("object", upload_id, 1, 0, body)
        disk.is_full = False
        part = await store.put_part("object", upload_id, 1, 0, body)
        await store.complete_multipart("object", upload_id, [part])
        assert await store.get("object") == b"part"


def test_a_number_is_given_once_where_the_counter_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch, "pwrite")
    spool = Spool.create(str(tmp_path / "spool"), SpoolHeader(StoreAddress("unused"), Settings(), 1, 3))
    disk.is_full = True
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            spool.next_version(1, 3)
    disk.is_full = False
    assert [spool.next_version(1, 3) for _ in range(2)] == [1, 4]


@pytest.mark.parametrize(("refused", "read"), [(1, True), (9, False)])
@pytest.mark.parametrize("name", ["entry.json", "pack"])
def test_what_the_disk_refuses_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, refused: int, read: bool
) -> None:
    spool = Spool.create(str(tmp_path / "spool"), SpoolHeader(StoreAddress("unused"), Settings(), 0, 1))
    entry = save(spool, write_tree(tmp_path / "data", {"step": b"1"}))
    refusals = iter(range(refused))

    def refusing(original: Any) -> Any:
        def act(path: Any, *more: Any, **named: Any) -> Any:
            if str(path).endswith(name) and next(refusals, None) is not None:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return original(path, *more, **named)

        return act

    monkeypatch.setattr("builtins.open", refusing(open))
    monkeypatch.setattr(os, "open", refusing(os.open))
    if read:
        assert content(spool, entry, tmp_path / "target") == {"step": b"1"}
    else:
        with pytest.raises(SpoolDamaged, match="Input/output"):
            content(spool, entry, tmp_path / "target")


@pytest.mark.anyio
async def test_an_upload_begins_anew_where_the_store_has_lost_a_part(tmp_path: Path) -> None:
    class Forgetful(MemoryStore):
        """Has crashed since it acknowledged the first part."""

        async def complete_multipart(self, key: str, upload_id: str, parts: Any) -> Any:
            if not forgotten:
                forgotten.append(upload_id)
                del objects.uploads[upload_id].parts[1], objects.uploads[upload_id].named[1]
            return await super().complete_multipart(key, upload_id, parts)

    objects, forgotten = MemoryObjects(), list[str]()
    job = job_of(tmp_path / "spool", {"large.bin": b"0123456789" * 4_000_000})
    log = PartLog(str(tmp_path))
    try:
        await upload(Forgetful(objects), job, log, on_progress=lambda _bytes: None, on_plan=lambda _bytes: None)
    finally:
        log.close()
    assert forgotten and forgotten[0] not in objects.uploads
    assert objects.contents[f"{job.record.key}/large.bin"][0] == b"0123456789" * 4_000_000
    assert any(json.loads(line).get("forget") for line in (tmp_path / "parts.log").read_bytes().splitlines())


def test_a_thread_that_died_in_this_moment_is_no_error(tmp_path: Path) -> None:

    worker: Any = ThreadWorker(str(tmp_path), lambda *_: MemoryStore(), lambda _event: None, lambda: None)
    worker._loop = anyio.run(_loop_of_now)
    worker._runtime = object.__new__(type("Runtime", (), {"handle": lambda *_: None}))
    assert worker._loop.is_closed()
    assert worker.send(Wake()) is False


async def _loop_of_now() -> object:
    import asyncio

    return asyncio.get_running_loop()
