"""What was stored before a worker began is known to it from the manifest, and nothing that stands there can do harm."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from ckpt_async.spool.spool import Spool
from ckpt_async.stores.contract import Store
from ckpt_async.stores.memory import MemoryObjects
from ckpt_async.testing.faulty_store import Fault, FaultyStore, unavailable
from ckpt_async.transfer.catalog import resolve
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.download import read_manifest
from ckpt_async.transfer.recalling import may_gain, recall
from ckpt_async.transfer.recorded import from_manifest
from ckpt_async.transfer.unchanged import StoredBefore
from ckpt_async.transfer.upload import UploadJob, UploadResult, upload
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StoreAccessDenied, StoreError
from ckpt_async.words.events import Event, Notice
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.worker.uploader import Uploader
from tests.spool import parts as saves
from tests.transfer.parts import PART_BYTES, ListLog, SmallLocal, SmallMemory, identity, job_of, record_of

pytestmark = pytest.mark.anyio

FROZEN = os.urandom(3 * PART_BYTES + 7)
FILES = {"adapter": b"a" * 600, "frozen": FROZEN, "one": os.urandom(PART_BYTES), "small": b"s"}
LATEST = keys.task_latest_key("Flow/1/train/2")


@pytest.fixture(autouse=True)
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("unchanged", "recalling"):
        monkeypatch.setattr(f"ckpt_async.transfer.{module}.COPY_MIN_BYTES", 500)


async def stored(store: Store, job: UploadJob, before: StoredBefore | None = None) -> UploadResult:
    """Upload and commit."""
    before = before if before is not None else StoredBefore()
    result = await upload(store, job, ListLog(), on_progress=lambda _: None, on_plan=lambda _: None, before=before)
    before.remember(job.record, result.stored, result.part_bytes)
    run = job.record.pathspec.split("/")[1]
    await commit(store, identity(run=run, attempt=job.record.attempt), job.record, result.manifest, latest=True)
    return result


async def recalled(
    store: Store, job: UploadJob, *, loaded: CheckpointRecord | None = None, has_stored: bool = False
) -> tuple[StoredBefore, list[str]]:
    said: list[str] = []
    before = StoredBefore(said.append)
    await recall(store, before, job.record, job.files, loaded=loaded, has_stored=has_stored)
    return before, said


@pytest.mark.parametrize("storage_format", ["files", "tar"])
async def test_another_attempt_has_copied_what_the_manifest_tells_of(tmp_path: Path, storage_format: str) -> None:
    store, before = SmallMemory(), StoredBefore()
    for version in range(2):  # This store's etags are no MD5: the second save computes them.
        job = job_of(tmp_path / f"{version}", FILES, storage_format, version=version)
        result = await stored(store, job, before)
    told = from_manifest(await read_manifest(store, await resolve(store, job.record.key)))
    assert told == (tuple(dataclasses.replace(part, content="") for part in result.stored), PART_BYTES)

    changed = {**FILES, "frozen": FROZEN[:1500] + b"?" + FROZEN[1501:]}
    job = job_of(tmp_path / "retry", changed, storage_format, attempt=1)
    before, said = await recalled(store, job)
    result = await stored(store, job, before)
    whole = job.record.size_bytes
    assert (result.sent_bytes, said) == (PART_BYTES + (0 if storage_format == "tar" else 1), [])
    assert result.copied_bytes == whole - result.sent_bytes


async def test_the_manifest_tells_nothing_where_nobody_would_ask(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    async with SmallLocal(str(tmp_path / "store")) as near:
        result = await stored(near, job := job_of(tmp_path / "near", FILES))
        assert result.manifest.stored is None and not may_gain(near, job.record, job.files)
    result = await stored(SmallMemory(), job := job_of(tmp_path / "small", {"small": b"s" * 400}))
    assert result.manifest.stored is None and not may_gain(SmallMemory(), job.record, job.files)
    assert b"stored" not in result.manifest.to_json()


@pytest.mark.parametrize(
    ("attempt", "has_stored", "loaded", "asked"),
    [
        (0, False, None, []),
        (0, False, "other", ["other"]),
        (0, True, None, ["latest", "own"]),
        (0, True, "other", ["latest", "own"]),
        (1, False, None, ["latest", "own"]),
        (1, False, "own", ["own"]),
        # It lies here still, or was deleted.
        (1, False, "missing", ["missing", "latest", "own"]),
        (0, False, "missing", ["missing"]),
        (0, False, "foreign", []),
    ],
)
async def test_what_the_store_is_asked(
    tmp_path: Path, attempt: int, has_stored: bool, loaded: str | None, asked: list[str]
) -> None:
    store = FaultyStore(SmallMemory())
    records = {
        "own": (own := job_of(tmp_path / "own", FILES)).record,
        "other": (other := job_of(tmp_path / "other", FILES, run="9")).record,
        "missing": record_of(7, run="8"),
        "foreign": dataclasses.replace(record_of(8), manifest=""),
    }
    for job in (own, other):
        await stored(store, job)
    store.calls.clear()
    job = job_of(tmp_path / "next", FILES, version=1, attempt=attempt)
    before, said = await recalled(store, job, loaded=records[loaded] if loaded else None, has_stored=has_stored)
    places = {"latest": LATEST, **{name: record.manifest for name, record in records.items()}}
    assert store.calls == [("get", places[name]) for name in asked]
    assert before.part_bytes(job.record) == (PART_BYTES if {"own", "other"} & set(asked) else None)
    assert not said


def hostile(**changes: Any) -> dict[str, Any]:
    sums = [f"{number:040x}" for number in range(3)]
    row = {"index": 0, "size_bytes": 2 * PART_BYTES + 1, "etag": '"e"', "sums": sums, **changes}
    return {
        "part_bytes": changes.pop("part_bytes", PART_BYTES),
        "objects": [[row[n] for n in ("index", "size_bytes", "etag", "sums")]],
    }


HOSTILE = [
    hostile(index=index) for index in (-1, 1, 2**70, "0", "../../other/key", True, None)
] + [
    hostile(size_bytes=-1),
    hostile(size_bytes=2**80),
    hostile(size_bytes=3 * PART_BYTES + 1),
    hostile(part_bytes=0),
    hostile(part_bytes="1000"),
    hostile(part_bytes=1),
    hostile(etag=""),
    hostile(etag="x\r\nx-amz-copy-source: /other/key"),
    hostile(etag=5),
    hostile(sums="0" * 3),
    hostile(sums=["0" * 40] * 4),
    hostile(sums=["0" * 39] * 3),
    hostile(sums=[5, 5, 5]),
    {"part_bytes": 5},
    {"part_bytes": 5, "objects": 5},
    {"part_bytes": 5, "objects": [5]},
    {"part_bytes": 5, "objects": [[]]},
]  # fmt: skip


async def test_what_a_hostile_manifest_says_is_told_and_not_used(tmp_path: Path) -> None:
    store = SmallMemory()
    job = job_of(tmp_path / "first", {"file": b"b" * (2 * PART_BYTES + 1)})
    result = await stored(store, job)
    assert len(from_manifest(dataclasses.replace(result.manifest, stored=hostile()))[0]) == 3
    for said_there in HOSTILE:
        bad = dataclasses.replace(result.manifest, stored=said_there)
        with pytest.raises(CheckpointDamaged, match="stored objects"):
            from_manifest(bad)
    await commit(store, identity(), job.record, bad, latest=True)
    # The checkpoint itself can be loaded.
    assert (await read_manifest(store, job.record)).files == result.manifest.files
    retry = job_of(tmp_path / "retry", FILES, attempt=1)
    before, said = await recalled(store, retry, loaded=job.record)
    assert before.part_bytes(retry.record) is None
    assert ["can't be looked at" in line for line in said] == [True], "both ways lead to it, and it is told once"


async def test_an_archive_is_one_object_and_parts_that_would_fill_the_memory_are_passed_by(tmp_path: Path) -> None:
    store = SmallMemory()
    job = job_of(tmp_path / "tar", FILES, "tar")
    result = await stored(store, job)
    assert result.manifest.stored is not None
    rows = result.manifest.stored["objects"]
    with pytest.raises(CheckpointDamaged, match="archive"):
        from_manifest(dataclasses.replace(result.manifest, stored={"part_bytes": PART_BYTES, "objects": [[0, *rows[0][1:]]]}))
    whole = {"part_bytes": 2**40, "objects": [[-1, 2**40, '"e"', ["0" * 40]]]}
    await commit(store, identity(), job.record, dataclasses.replace(result.manifest, stored=whole), latest=True)
    before, said = await recalled(store, job_of(tmp_path / "retry", FILES, "tar", attempt=1))
    assert before.part_bytes(job.record) is None and not said


def denied() -> StoreError:
    return StoreAccessDenied("read an object")


@pytest.mark.parametrize("trouble", ["away", "refused", "stuck"])
async def test_a_store_that_fails_there_is_told_of_and_not_waited_for(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckpt_async.transfer.recalling.RECALL_TIMEOUT_S", 0.05)
    store = FaultyStore(SmallMemory())
    await stored(store, job_of(tmp_path / "first", FILES))
    error = {"away": unavailable, "refused": denied, "stuck": None}[trouble]
    store.faults.append(Fault("get", error=error, gate=anyio.Event() if trouble == "stuck" else None))
    job = job_of(tmp_path / "retry", FILES, attempt=1)
    before, said = await recalled(store, job)
    assert before.part_bytes(job.record) is None and len(said) == 1


async def test_a_worker_looks_once_and_the_first_one_of_a_task_not_at_all(tmp_path: Path) -> None:
    objects = MemoryObjects()
    (tmp_path / "files").mkdir()
    spool = Spool.create(str(tmp_path / "spool"), saves.HEADER)

    async def manifests_read(*contents: bytes) -> list[str]:
        """By a worker that finds so many saves."""
        for content in contents:
            (tmp_path / "files" / "file").write_bytes(content)
            saves.save(spool, tmp_path / "files")
        store = FaultyStore(SmallMemory(objects))
        uploader = Uploader(spool, store, told.append)
        uploader.close()
        await uploader.run()
        assert not spool.waiting()
        return [key for call, key in store.calls if call == "get" and "/manifests/" in key]

    told: list[Event] = []
    assert await manifests_read(b"small", FROZEN) == []
    assert await manifests_read(FROZEN, FROZEN) == [record_of(1).manifest]
    assert not any(isinstance(event, Notice) for event in told)
