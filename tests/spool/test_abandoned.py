"""What was begun in the store for a save that is given up is ended there, also where the process dies in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_async.spool.abandoned import abandoned_logs
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.states import EntryState
from ckpt_async.stores.memory import MemoryObjects
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.words.errors import StoreAccessDenied, StoreError
from ckpt_async.words.events import EntryFailed, Event, Notice
from ckpt_async.worker.uploader import Uploader
from tests.spool.parts import HEADER, save
from tests.transfer.parts import PART_BYTES, SmallMemory

pytestmark = pytest.mark.anyio


def denied() -> StoreError:
    return StoreAccessDenied("join the parts")


async def work(spool: Spool, store: FaultyStore) -> list[Event]:
    told: list[Event] = []
    uploader = Uploader(spool, store, told.append)
    uploader.close()
    await uploader.run()
    return told


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.create(str(tmp_path / "spool"), HEADER)


@pytest.mark.parametrize("killed", [False, True], ids=["dropped", "killed while it was deleted"])
async def test_an_upload_that_was_given_up_is_ended_in_the_store(spool: Spool, tmp_path: Path, killed: bool) -> None:
    objects = MemoryObjects()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "big").write_bytes(os.urandom(3 * PART_BYTES))
    entry = save(spool, tmp_path / "files")
    told = await work(spool, FaultyStore(SmallMemory(objects), [Fault("complete_multipart", error=denied)]))
    assert any(isinstance(event, EntryFailed) for event in told) and len(objects.uploads) == 1
    if killed:
        os.rename(spool.entry_folder(entry), os.path.join(spool.folder, EntryState.TRASH, entry))
    else:
        assert spool.drop(entry)
        assert abandoned_logs(spool.folder)
    assert await work(spool, FaultyStore(SmallMemory(objects))) == []
    assert not objects.uploads and not abandoned_logs(spool.folder)


async def test_what_may_not_be_ended_is_said_once(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "big").write_bytes(bytes(3 * PART_BYTES))
    store = FaultyStore(SmallMemory(), [Fault("complete_multipart", error=denied), Fault("abort_multipart", error=denied)])
    entry = save(spool, tmp_path / "files")
    await work(spool, store)
    spool.drop(entry)
    [notice] = await work(spool, store)
    assert isinstance(notice, Notice) and "stays in the store" in notice.text
    assert await work(spool, store) == []


async def test_what_is_stored_leaves_no_notes(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "big").write_bytes(bytes(3 * PART_BYTES))
    save(spool, tmp_path / "files")
    store = FaultyStore(SmallMemory())
    await work(spool, store)
    assert not abandoned_logs(spool.folder) and "abort_multipart" not in [call for call, _ in store.calls]
