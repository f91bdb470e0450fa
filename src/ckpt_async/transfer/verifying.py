"""Checking the contents of stored checkpoints: every byte is read and compared with the manifest, and written nowhere."""

from __future__ import annotations

from ckpt_async.stores.contract import Store
from ckpt_async.transfer.download import listed_manifest, wanted_files
from ckpt_async.transfer.fetch import OnFetched, check_files, untold
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.records import CheckpointRecord

__all__ = ["verify_contents"]


async def verify_contents(store: Store, record: CheckpointRecord, *, on_fetched: OnFetched = untold) -> None:
    """Read a checkpoint and compare each file with its digest. Memory is bounded whatever its size, and no file is made.

    Parameters
    ----------
    on_fetched : callable
        Called with the bytes and the whole files that have been checked since the call before.

    Raises
    ------
    CheckpointDamaged
        A file is missing, too short, or another than the one saved; or the manifest can't be read.
    InvalidArgument
        Another program saved it, without digests.
    StoreError
        The store does not answer, or refuses.
    """
    if not record.manifest:
        raise InvalidArgument("verify a checkpoint", on=record.key, cause="another program saved it, and stored no checksums")
    manifest = await listed_manifest(store, record)
    await check_files(store, wanted_files(record, manifest), on=record.key, on_fetched=on_fetched)
