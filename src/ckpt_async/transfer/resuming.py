"""What an upload that goes on does not take for granted: that the store still has what an earlier worker noted."""

from __future__ import annotations

from ckpt_async.stores.contract import Store
from ckpt_async.transfer.notes import UploadNotes
from ckpt_async.transfer.plan import UploadPlan
from ckpt_async.words.records import CheckpointRecord

__all__ = ["forget_deleted"]


async def forget_deleted(store: Store, record: CheckpointRecord, plan: UploadPlan, notes: UploadNotes) -> None:
    """Forget what an earlier worker has noted as stored, and somebody has deleted since: it is sent again."""
    if record.storage_format == "files":
        there = {info.key: info.size_bytes for info in await store.list(f"{record.key}/")}
    else:
        archive = await store.head(record.key)
        there = {} if archive is None else {archive.key: archive.size_bytes}
    for index in [index for index in notes.complete if there.get(plan.objects[index].key) != plan.objects[index].size_bytes]:
        notes.forget(index)
