"""From the spool to the store, entry by entry: the loop that a worker runs."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Collection, Sequence

import anyio
import anyio.to_thread

from ckpt_async.spool.abandoned import abandoned_logs
from ckpt_async.spool.entry import Entry
from ckpt_async.spool.kept import keep
from ckpt_async.spool.loaded import read_loaded
from ckpt_async.spool.part_log import PartLog, read_notes
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.states import entry_id
from ckpt_async.spool.torn import check_links
from ckpt_async.stores.contract import Store
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.line_speed import LineSpeed
from ckpt_async.transfer.notes import unfinished_uploads
from ckpt_async.transfer.plan import SourceFile
from ckpt_async.transfer.recalling import may_gain, recall
from ckpt_async.transfer.unchanged import StoredBefore
from ckpt_async.transfer.upload import UploadJob, upload
from ckpt_async.words.errors import CheckpointError, SnapshotFailed, SpoolDamaged, StoreError
from ckpt_async.words.events import EntryCommitted, EntryFailed, EntryProgress, EntryStarted, Event, Notice
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord

__all__ = ["Uploader", "choose_entry"]

#: Progress is told at most this often, in seconds.
PROGRESS_EVERY_S = 0.2

#: Before an entry is tried again whose failure may pass by itself. Requests have a finer schedule of their own below.
ENTRY_RETRY_S = 1.0


def choose_entry(waiting: Sequence[str], failed: Collection[str], *, newest_first: bool) -> str | None:
    """Choose what to upload next: the oldest, so that `latest` moves save by save; under a deadline the newest.

    Parameters
    ----------
    waiting : sequence of str
        Oldest first.
    failed : collection of str
        Not to be tried for now.
    """
    candidates = [entry for entry in waiting if entry not in failed]
    if not candidates:
        return None
    return candidates[-1] if newest_first else candidates[0]


class Uploader:
    """Uploads the entries of one spool until it is told to stop. All methods belong to the loop that runs it.

    Parameters
    ----------
    spool : Spool
        Whose worker lock the caller holds.
    store : Store
        Open; with retries of its own.
    emit : callable
        Takes events; must not block.
    prefix : str
        Put before the ids of entries in events.
    keep : int
        How many of the newest stored entries stay in the spool, for a next attempt.
    first_version : int, optional
        The number of the first save of the attempt; None where it is known to have been made by another process.
    on_removed : callable, optional
        Called in a thread, before it is told, when an entry has been removed.
    on_visible : callable, optional
        Called with the record of a checkpoint that has become visible, after that was told.
    """

    def __init__(
        self,
        spool: Spool,
        store: Store,
        emit: Callable[[Event], None],
        *,
        prefix: str = "",
        keep: int = 0,
        first_version: int | None = 0,
        on_removed: Callable[[], None] | None = None,
        on_visible: Callable[[CheckpointRecord], None] = lambda _: None,
    ) -> None:
        self._spool = spool
        self._store = store
        self._emit = emit
        self._prefix = prefix
        self._keep = keep
        self._first_entry = entry_id(first_version) if first_version is not None else ""
        self._on_removed = on_removed
        self._on_visible = on_visible
        self._failed: dict[str, CheckpointError] = {}
        self._wake = anyio.Event()
        self._closing = False
        self._newest_first = False
        self._told_of_store: set[str] = set()
        #: Whether what earlier attempts left of groups is deleted.
        self._cleaned = False
        self._before = StoredBefore(lambda text: emit(Notice(text)))
        self._recalled = False
        #: Whether another worker has stored something of this attempt.
        self._succeeds: bool | None = None
        self._speed = LineSpeed()
        self._current: tuple[str, anyio.CancelScope] | None = None

    def wake(self) -> None:
        """Look into the spool again."""
        self._wake.set()

    def retry_failed(self) -> None:
        """Try what failed once more."""
        self._failed.clear()
        self._wake.set()

    def close(self) -> None:
        """End when nothing is left that can be uploaded."""
        self._closing = True
        self._wake.set()

    def press(self) -> None:
        """Take the newest entry first from now on; an older one that is under way is put back, with its finished parts noted."""
        self._newest_first = True
        if self._current is not None:
            entry, scope = self._current
            if choose_entry(self._spool.waiting(), self._failed, newest_first=True) != entry:
                scope.cancel()
        self._wake.set()

    @property
    def failure_to_tell(self) -> CheckpointError | None:
        """The failure of the newest entry that the store refused; where it refused none, that of the newest that failed."""
        refused = [name for name, error in self._failed.items() if isinstance(error, StoreError)]
        return self._failed[max(refused or self._failed)] if self._failed else None

    def remove_lost(self) -> None:
        """Remove the entries of which linked files were overwritten: nobody can store them any more."""
        for name, error in list(self._failed.items()):
            if isinstance(error, SnapshotFailed):
                self._spool.drop(name)

    async def run(self) -> None:
        """Upload until closed. May be cancelled at any point: the next worker goes on where this one was."""
        await anyio.to_thread.run_sync(self._spool.clean_trash)
        while True:
            self._wake = anyio.Event()
            await self.end_abandoned()
            entry = choose_entry(self._spool.waiting(), self._failed, newest_first=self._newest_first)
            if entry is not None:
                await self._handle(entry)
            elif self._closing:
                return
            else:
                await self._wake.wait()

    async def end_abandoned(self) -> None:
        """End in the store what was begun there for saves that were given up: it would be kept, and paid for, without end."""
        for path in abandoned_logs(self._spool.folder):
            notes = await anyio.to_thread.run_sync(read_notes, path)
            for key, upload_id in unfinished_uploads(notes, self._store.traits.url):
                try:
                    await self._store.abort_multipart(key, upload_id)
                except StoreError as error:
                    if error.transient:
                        return  # Tried again with the next entry.
                    self._emit(Notice(f"The unfinished upload of a save that was given up stays in the store: {error}"))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    async def _handle(self, name: str) -> None:
        """Upload one entry; turn its failure into an event."""
        with anyio.CancelScope() as scope:
            self._current = (name, scope)
            try:
                await self._upload(name)
            except CheckpointError as error:
                if error.transient:
                    await anyio.sleep(ENTRY_RETRY_S)
                else:
                    await self._fail(name, error)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not self._spool.holds(name):
                    return  # Dropped by the task between the choice and the claim.
                await self._fail(
                    name,
                    SpoolDamaged(
                        "upload a saved checkpoint", on=error.filename or self._spool.folder, cause=error.strerror or str(error)
                    ),
                )
            finally:
                self._current = None

    async def _fail(self, name: str, error: CheckpointError) -> None:
        self._failed[name] = error
        # Back to ready: there the task may drop it, and a later worker finds it.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._spool.unclaim, name)
        self._emit(EntryFailed(self._prefix + name, error.to_wire(), time.time()))

    async def _upload(self, name: str) -> None:
        if not await anyio.to_thread.run_sync(self._spool.claim, name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.path.join(self._spool.folder, name))
        started_s = time.monotonic()
        entry = await anyio.to_thread.run_sync(self._spool.read, name)
        folder = self._spool.entry_folder(name)
        job = _job_of(entry, folder)
        progress = _Progress(self._prefix + name, entry.record, self._emit)
        log = PartLog(folder)
        try:
            await anyio.to_thread.run_sync(check_links, entry, folder)
            await self._recall(job)
            try:
                result = await upload(
                    self._store,
                    job,
                    log,
                    on_progress=progress.report,
                    on_plan=progress.plan,
                    before=self._before,
                    speed=self._speed,
                )
            except SpoolDamaged:
                # A guard that comes too late removes the file; on a full disk it can't even leave a mark.
                await anyio.to_thread.run_sync(check_links, entry, folder)
                raise
            # What was sent is what was saved only if the links still are what they were.
            await anyio.to_thread.run_sync(check_links, entry, folder)
            visible = await self._commit(entry, result.manifest)
            self._before.remember(job.record, result.stored, result.part_bytes)
        finally:
            log.close()
            self._tell_of_store()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._retire, entry)
            if self._on_removed is not None:
                await anyio.to_thread.run_sync(self._on_removed)
        took_s = time.monotonic() - started_s
        self._emit(
            EntryCommitted(
                self._prefix + name, result.sent_bytes, took_s, result.copied_bytes, visible is not None, unix_s=time.time()
            )
        )
        if visible is not None:
            self._on_visible(visible)

    async def _commit(self, entry: Entry, manifest: Manifest) -> CheckpointRecord | None:
        """Make an uploaded entry visible; returns the record of what is, which of a part depends on the other nodes."""
        record = entry.record
        if not record.group:
            await commit(self._store, entry.identity, record, manifest, latest=record.latest)
            return record
        from ckpt_async.transfer.gathering import give_up_earlier, store_part  # only gangs have groups

        whole = await store_part(self._store, entry.identity, record, manifest)
        if whole is not None and whole.latest and record.attempt and not self._cleaned:
            try:
                await give_up_earlier(self._store, entry.identity)
            except StoreError as error:
                self._emit(Notice(f"What earlier attempts left of groups that never became whole stays in the store: {error}"))
            self._cleaned = True
        return whole

    async def _recall(self, job: UploadJob) -> None:
        """Learn, once, before the first upload that may gain by it, what the store has from before this worker."""
        if self._succeeds is None:
            # The first save leaves the spool when it is stored; after one that was given up the store is asked in vain.
            self._succeeds = self._first_entry not in self._spool.waiting()
        if self._recalled or not may_gain(self._store, job.record, job.files):
            return
        loaded = await anyio.to_thread.run_sync(read_loaded, self._spool)
        await recall(self._store, self._before, job.record, job.files, loaded=loaded, has_stored=self._succeeds)
        self._recalled = True

    def _retire(self, entry: Entry) -> None:
        if not (self._keep and entry.record.latest and keep(self._spool, entry, self._keep)):
            self._spool.finish(entry.id)

    def _tell_of_store(self) -> None:
        """Tell, once, what the store can't do; some of it is found out by its answers."""
        traits = self._store.traits
        found = list(traits.notices)
        if not traits.conditional_writes:
            found.append(
                f"{traits.url} does not know conditional writes: where two attempts, or two runs of one scope, store "
                "checkpoints in the same moment, the older one may remain the latest."
            )
        for text in found:
            if text not in self._told_of_store:
                self._told_of_store.add(text)
                self._emit(Notice(text))


class _Progress:
    """Tells how far an entry is, seldom enough not to be a load."""

    def __init__(self, entry: str, record: CheckpointRecord, emit: Callable[[Event], None]) -> None:
        self._entry = entry
        self._record = record
        self._emit = emit
        self._told_s = 0.0

    def plan(self, total_bytes: int) -> None:
        record = self._record
        self._emit(EntryStarted(self._entry, total_bytes, record.name, record.attempt, record.version_id, time.time()))

    def report(self, done_bytes: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= PROGRESS_EVERY_S:
            self._told_s = now_s
            self._emit(EntryProgress(self._entry, done_bytes))


def _job_of(entry: Entry, folder: str) -> UploadJob:
    """Translate an entry into the terms of a transfer, which knows nothing of spools."""
    files = tuple(
        SourceFile(
            file.path,
            file.size_bytes,
            file.mode,
            file.mtime_ns,
            os.path.join(folder, file.stored_in),
            file.offset,
            file.content,
        )
        for file in entry.snapshot.files
    )
    record = entry.record.part(entry.record.node_index) if entry.record.group else entry.record
    return UploadJob(record, files, entry.snapshot.directories)
