"""What tests of the spool share: an identity, a save taken by hand."""

from __future__ import annotations

from pathlib import Path

from ckpt_async.disk.restore import restore_snapshot
from ckpt_async.disk.scan import scan
from ckpt_async.disk.snapshot import take_snapshot
from ckpt_async.spool.entry import Entry
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.spool.states import entry_id
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.words.settings import Settings, StoreAddress

ADDRESS = StoreAddress("s3://bucket/root")
HEADER = SpoolHeader(ADDRESS, Settings())


def identity(attempt: int = 0) -> TaskIdentity:
    return TaskIdentity("Flow", "1", "train", "2", attempt, "a" * 12, "b" * 12)


def save(spool: Spool, source: Path, *, attempt: int = 0, name: str = "best") -> str:
    """What the facade does for one save, without its checks; returns the entry."""
    version = spool.next_version()
    snapshot = take_snapshot(scan(source), spool.stage(version))
    record = CheckpointRecord.of_save(
        identity(attempt),
        name=name,
        version=version,
        size_bytes=snapshot.size_bytes,
        metadata={},
        storage_format="files",
        store_url=ADDRESS.url,
    )
    spool.publish(Entry(entry_id(version), identity(attempt), record, snapshot))
    return entry_id(version)


def content(spool: Spool, entry: str, target: Path) -> dict[str, bytes]:
    """The files of an entry, as a retry would get them."""
    target.mkdir()
    restore_snapshot(spool.read(entry).snapshot, spool.entry_folder(entry), str(target))
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
