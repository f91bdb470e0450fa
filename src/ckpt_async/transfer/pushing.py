"""Storing files as a checkpoint from where they lie, without a spool: for a command that waits for it.

All or nothing: what fails, or is cancelled, leaves nothing in the store. The files are not frozen; whether they have changed while
they were read is looked at afterwards, and then nothing is stored either.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from ckpt_async.disk.scan import Problem, ScannedFile, ScannedTree, problems_error
from ckpt_async.stores.contract import Body, Store
from ckpt_async.transfer.browsing import each_object
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.notes import unfinished_uploads
from ckpt_async.transfer.plan import SourceFile, tar_size_bytes
from ckpt_async.transfer.upload import UploadJob, upload
from ckpt_async.words import keys
from ckpt_async.words.errors import SpoolDamaged, StorePreconditionFailed
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord

__all__ = ["FIRST_ATTEMPT", "push"]

#: Of what is pushed for a task: above the attempts that a task of a flow may have, so that neither ever takes the other's.
FIRST_ATTEMPT = 1000

CLAIM_TRIES = 100

#: How long it is tried to leave nothing in the store. What stays is data of no checkpoint: nobody sees it but the doctor.
UNDO_S = 20.0


class _Notes:
    """What is known of the upload, in memory: nobody goes on with it."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        return list(self.notes)

    def append(self, note: dict[str, Any]) -> None:
        self.notes.append(note)

    def restart(self) -> None:
        self.notes.clear()


async def push(
    store: Store,
    tree: ScannedTree,
    identity: Callable[[int], TaskIdentity],
    *,
    name: str,
    metadata: dict[str, Any],
    storage_format: str,
    latest: bool,
    on_progress: Callable[[int], None],
) -> CheckpointRecord:
    """Store the files that a scan has found as the newest checkpoint of a task; returns its record.

    Parameters
    ----------
    identity : callable
        Returns the identity of the task in the attempt that it is given: each call takes an attempt of its own.
    on_progress : callable
        Called with the bytes that are stored so far.

    Raises
    ------
    SnapshotFailed
        A file can't be read, or has changed meanwhile. Nothing is stored.
    StoreError
        The store does not answer, or refuses.
    """
    sources = tuple(SourceFile(file.path, file.size_bytes, file.mode, file.mtime_ns, file.absolute, 0) for file in tree.files)
    size_bytes = tree.size_bytes if storage_format == "files" else tar_size_bytes(sources, tree.directories)

    def record_in(attempt: int) -> CheckpointRecord:
        return CheckpointRecord.of_save(
            identity(attempt),
            name=name,
            version=0,
            size_bytes=size_bytes,
            metadata=metadata,
            storage_format=storage_format,
            store_url=store.traits.url,
            latest=latest,
        )

    attempt = await _claim(store, record_in, await _next_attempt(store, identity(0).pathspec))
    record = record_in(attempt)
    log = _Notes()
    committing = False
    try:
        manifest = await _send(store, UploadJob(record, sources, tree.directories), log, tree, on_progress)
        committing = True
        # From here on it may be seen, so it is made whole, also on a cancellation: that takes some small requests.
        with anyio.CancelScope(shield=True):
            await commit(store, identity(attempt), record, manifest, latest=latest)
    except BaseException:
        if not committing:
            with anyio.move_on_after(UNDO_S, shield=True):
                await _undo(store, record, log)
        raise
    return record


async def _send(store: Store, job: UploadJob, log: _Notes, tree: ScannedTree, on_progress: Callable[[int], None]) -> Manifest:
    try:
        result = await upload(store, job, log, on_progress=on_progress, on_plan=lambda _: None)
    except SpoolDamaged as error:
        # Its words are of a spool; here, the files are the user's own.
        await anyio.to_thread.run_sync(_check_unchanged, tree)
        raise problems_error(tree.root, [Problem(error.on, f"could not be read ({error.cause})", "Push it again.")]) from error
    await anyio.to_thread.run_sync(_check_unchanged, tree)
    return result.manifest


async def _next_attempt(store: Store, pathspec: str) -> int:
    """Return an attempt behind all that have stored something."""
    prefix = keys.task_records_prefix(pathspec)
    newest = FIRST_ATTEMPT - 1
    async for info in each_object(store, prefix):
        attempt = info.key.removeprefix(prefix).partition(".")[0]
        if attempt.isdecimal():
            newest = max(newest, int(attempt))
    return newest + 1


async def _claim(store: Store, record_in: Callable[[int], CheckpointRecord], first: int) -> int:
    """Take an attempt that nobody else has taken: by its manifest, which stays empty until it is committed."""
    for attempt in range(first, first + CLAIM_TRIES):
        try:
            await store.put(record_in(attempt).manifest, Body.of(b"{}"), if_absent=True)
        except StorePreconditionFailed:
            continue  # Another push is under way, or has died.
        return attempt
    raise StorePreconditionFailed(
        "take an attempt for a checkpoint",
        on=record_in(first).pathspec,
        cause=f"the {CLAIM_TRIES} next ones are taken by calls that have not ended well",
        hint="ckpt-async doctor --fix clears what they have left.",
    )


async def _undo(store: Store, record: CheckpointRecord, log: _Notes) -> None:
    for key, upload_id in unfinished_uploads(log.notes, store.traits.url):
        await store.abort_multipart(key, upload_id)
    await store.delete([info.key for info in await store.list(f"{record.key}/")])
    if await store.head(record.key) is not None:
        await store.delete([record.key])
    await store.delete([record.manifest])


def _check_unchanged(tree: ScannedTree) -> None:
    """Raise SnapshotFailed where a file is not what it was at the scan."""
    problems = []
    for file in tree.files:
        what = _change_of(file)
        if what:
            problems.append(Problem(file.path, what, "Push the files once nothing writes to them; nothing was stored."))
    if problems:
        raise problems_error(tree.root, problems)


def _change_of(file: ScannedFile) -> str:
    try:
        found = os.stat(file.absolute)
    except OSError as error:
        return f"is gone ({error.strerror or error})"
    return "" if (found.st_size, found.st_mtime_ns) == (file.size_bytes, file.mtime_ns) else "has changed while it was read"
