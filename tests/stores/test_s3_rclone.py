"""A whole upload into a real server that takes no notice of conditions and CRC-32, and does not copy parts: `rclone serve s3`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from ckpt_async.stores.contract import Body
from ckpt_async.stores.limiting import Limiting
from ckpt_async.stores.retrying import Retrying
from ckpt_async.stores.s3 import requests as s3_requests
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.download import download
from ckpt_async.transfer.unchanged import StoredBefore
from ckpt_async.transfer.upload import UploadJob, upload
from ckpt_async.words.errors import StorePreconditionFailed, StoreUnavailable
from tests.stores.rclone_server import RcloneServer
from tests.stores.scripted_bucket import told
from tests.transfer.parts import ListLog, content_of, identity, job_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_library")]
MIB = 1 << 20
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def rclone() -> Iterator[RcloneServer]:
    with RcloneServer() as server:
        yield server


@pytest.fixture
def store(rclone: RcloneServer) -> S3Store:
    return rclone.store(uuid.uuid4().hex)


async def save(store: Retrying, job: UploadJob, before: StoredBefore) -> tuple[int, int]:
    """Upload and commit; returns the bytes that were sent, and those that were copied."""
    result = await upload(store, job, ListLog(), on_progress=lambda _: None, on_plan=lambda _: None, before=before)
    await commit(store, identity(), job.record, result.manifest, latest=True)
    before.remember(job.record, result.stored, result.part_bytes)
    return result.sent_bytes, result.copied_bytes


async def test_two_saves_and_a_load(store: S3Store, tmp_path: Path) -> None:
    """The second save begins with parts that have not changed, which this server takes for empty parts, and won't take again."""
    content = bytearray(os.urandom(17 * MIB))
    said: list[str] = []
    before = StoredBefore(said.append)
    async with Retrying(Limiting(store, 8), on_trouble=lambda *_: None, give_up_after_s=DEADLINE_S) as whole:
        with anyio.fail_after(DEADLINE_S):
            files = {"model": bytes(content), "small": b"s" * 10}
            assert await save(whole, job_of(tmp_path / "first", files), before) == (17 * MIB + 10, 0)
            content[-1] ^= 1
            files["model"] = bytes(content)
            job = job_of(tmp_path / "second", files, version=1)
            await save(whole, job, before)
            await download(whole, job.record, str(tmp_path / "target"))
    assert content_of(tmp_path / "target") == files
    assert ["does not copy what has not changed" in text for text in said] == [True]
    assert ["checked a CRC-32" in text for text in told(store)] == [True]
    assert not store.traits.conditional_writes


async def test_conditions_hold_although_the_server_takes_no_notice(store: S3Store) -> None:
    async with store:
        first = await store.put("k", Body.of(b"first"), if_absent=True)
        with pytest.raises(StorePreconditionFailed):
            await store.put("k", Body.of(b"other"), if_absent=True)
        second = await store.put("k", Body.of(b"second"), if_match=first.etag)
        with pytest.raises(StorePreconditionFailed):
            await store.put("k", Body.of(b"third"), if_match=first.etag)
        assert await store.head("k") == second
        assert await store.list("") == [second]


async def test_what_was_damaged_on_its_way_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def md5_of_other_bytes(_: Body) -> str:
        return "AAAAAAAAAAAAAAAAAAAAAA=="

    async with store:
        await store.put("k", Body.of(b"content"))
        monkeypatch.setattr(s3_requests, "_md5_of", md5_of_other_bytes)
        with pytest.raises(StoreUnavailable, match="damaged on the way"):
            await store.put("k", Body.of(b"other"))
        assert await store.get("k") == b"content"
