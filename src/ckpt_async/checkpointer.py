"""The synchronous facade over the engine: what a training loop calls."""

from __future__ import annotations

import builtins
import functools
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from ckpt_async.flushing import Flusher
from ckpt_async.gate import Gate
from ckpt_async.ledger import Ledger
from ckpt_async.leftovers import whose
from ckpt_async.progress import summary_line
from ckpt_async.reference import AdoptedSave, CheckpointReference, Pending, Stats, Status, Wait
from ckpt_async.sources import Source, Sources
from ckpt_async.spool.kept import drop_kept, end_keeping
from ckpt_async.spool.neighbours import older_attempts, remove_dead_spool
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.supervisor import MakeWorker, Supervisor
from ckpt_async.warmth import warm_up
from ckpt_async.words.errors import CheckpointError, InvalidArgument
from ckpt_async.words.events import EntrySaved, SaveReturned, Wake
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.names import DEFAULT_NAME, is_being_written
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.worker.handle import GUARD_TIMEOUT_S

if TYPE_CHECKING:
    from ckpt_async.disk.scan import ScannedTree
    from ckpt_async.reader import Reader
    from ckpt_async.taking import SaveRequest, Taking

__all__ = ["Checkpointer"]


class Checkpointer:
    """Saves and loads the checkpoints of one attempt of a task. Made by `ckpt_async.open_checkpointer`; `close` ends it.

    Its methods may be called from several threads. It belongs to the process that opened it: a forked child must not use it.

    Attributes
    ----------
    resumed_from_disk : bool
        Whether what `resume` loaded came from this machine's disk, not from the store.
    """

    def __init__(
        self,
        *,
        identity: TaskIdentity,
        header: SpoolHeader,
        spool: Spool,
        make_worker: MakeWorker,
        reader: Reader,
        say: Callable[[str], None],
    ) -> None:
        self.identity = identity
        self.settings = header.settings
        self.address = header.address
        self.reader = reader
        self._spool = spool
        self._say = say
        self._pid = os.getpid()
        self._closing = False
        self._closed = False
        self._sources = Sources(say)
        self.resumed_from_disk = False
        self._on_taken: builtins.list[Callable[[ScannedTree, CheckpointReference], None]] = []
        # close() takes it too, and may be called by a signal's handler in the middle of a save: hence one that can be taken twice.
        self._saving = threading.RLock()
        self._spool.task_lock.acquire(attempted="open the spool of a task")
        try:
            # Of this very attempt, nothing should be there; half a save can be, where its number was given to another task before.
            self._spool.clean()
        except BaseException:
            self._spool.task_lock.release()
            raise
        older = older_attempts(spool.folder)
        linked: builtins.list[str] = []
        if older:
            from ckpt_async.spool.keeping import left_links

            linked = left_links(older, guarded=self.settings.worker == "process")
        self._ledger = Ledger(map(os.path.basename, older), map(os.path.basename, linked))
        self._worker = Supervisor(self._ledger, make_worker, header, spool, say)
        self._header = header
        self._worker.listeners.add(warm_up)
        self._flusher = Flusher(self._ledger, self._worker, header, spool, reader, say)
        self._gate = Gate(self._ledger, self._worker, self._flusher, spool, self.settings, say)
        if self.settings.async_upload or older:
            self._start_worker()

    def _start_worker(self) -> None:
        """Start the worker before the first save, so that it is warm. A synchronous task that never saves has no need of it."""
        try:
            self._worker.ensure_started()
            self._worker.wait_guarded(GUARD_TIMEOUT_S)
        except BaseException:
            self._worker.shut_down()
            self._spool.task_lock.release()
            raise

    @property
    def spool_folder(self) -> str:
        """Where saves lie until they are in the store."""
        return self._spool.folder

    def add_listener(self, callback: Callable[[object], None]) -> None:
        """Have every event passed to `callback`, in a thread of the engine: it must be quick and must not raise. A worker that is
        ready already is told of at once.
        """
        self._worker.listeners.add(callback)

    def add_source(self, source: Source) -> None:
        """Have ``source.flush(deadline_s)`` called before each flush and before the end, in whatever thread: for those who hold
        something in memory that is not saved yet. What it raises, the flush or the end raises after all else is stored.
        """
        self._check_usable("add a source of saves")
        self._sources.add(source)

    # Saving

    @functools.cached_property
    def _taking(self) -> Taking:
        from ckpt_async.taking import Taking

        return Taking(self.identity, self._header, self._spool, self._ledger, lambda: self._worker.link_guard)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = DEFAULT_NAME,
        metadata: dict[str, object] | None = None,
        latest: bool = True,
        storage_format: str = "files",
        group: bool = False,
    ) -> CheckpointReference:
        """Save a folder or a file as a checkpoint.

        With ``async_upload`` it returns when a private copy of the files is on local disk: from then on the originals may be
        changed, and the death of every process loses nothing while the machine stays up. Otherwise it returns when the checkpoint
        is in the store.

        Parameters
        ----------
        path : str or path-like
            A folder, whose content is saved, or a file, which is saved under its base name.
        name : str
            Of the checkpoint; several may have the same.
        metadata : dict, optional
            Copied at the call; what JSON can't hold is turned into text.
        latest : bool
            Whether this becomes the checkpoint that a retry resumes from.
        storage_format : str
            ``"files"``: an object for each file; ``"tar"``: one archive.
        group : bool
            Whether this is the part of this node of a checkpoint that all nodes save together, which is visible once all parts are
            in the store. Every node has to make its group saves in the same order. "In the store" means of this node's part then.

        Returns
        -------
        CheckpointReference
            A dict, with ``wait()``, ``done()`` and ``status``.

        Raises
        ------
        InvalidArgument
            An argument can't be used.
        SnapshotFailed
            Files can't be read or copied; all problems are named.
        SaveRefused
            The spool is full and ``on_full="raise"``, or the save could never fit.
        StoreError
            The store refuses what was saved before, for good as things are; this save was not taken. Without ``async_upload``:
            this save.
        """
        started_s = time.monotonic()
        self._check_usable("save a checkpoint")
        from ckpt_async.disk.scan import scan
        from ckpt_async.taking import SaveRequest

        with self._saving:
            version = self._taking.group_number() if group and self._header.num_nodes > 1 else None
            request = SaveRequest.checked(name, metadata, latest=latest, storage_format=storage_format, group=group)
            self._gate.raise_earlier_failure()
            reference = self._take(scan(path, leave_out=is_being_written), request, version)
        self._tell_worker(reference)
        if not self.settings.async_upload:
            waiting_s = time.monotonic()
            self._wait_stored(reference)
            self._ledger.charge_wait(time.monotonic() - waiting_s)
        blocked_s = time.monotonic() - started_s
        self._ledger.charge(reference, blocked_s)
        self._worker.listeners.tell(SaveReturned(reference.state.entry, blocked_s))
        return reference

    def save_as_seen(
        self, tree: ScannedTree, *, name: str = DEFAULT_NAME, metadata: dict[str, object] | None = None
    ) -> CheckpointReference:
        """Save what a scan has found, as it was found: for whoever has seen that it is complete. Does not wait for the store, and
        counts as no time that the training was held up.

        Raises
        ------
        FilesChanged
            A file has changed since.
        CheckpointError
            As `save`.
        """
        self._check_usable("save a checkpoint")
        from ckpt_async.taking import SaveRequest

        with self._saving:
            request = SaveRequest.checked(name, metadata, latest=True, storage_format="files")
            self._gate.raise_earlier_failure()
            reference = self._take(tree, request, None, as_seen=True)
        self._tell_worker(reference)
        return reference

    def _take(self, tree: ScannedTree, request: SaveRequest, version: int | None, *, as_seen: bool = False) -> CheckpointReference:
        self._taking.check_outside(tree.root)
        waited_s = self._gate.pass_in(tree.size_bytes, request.name, latest=request.latest, group=version is not None)
        if not as_seen:
            self._ledger.charge_wait(waited_s)
        self._check_usable("save a checkpoint")  # Another thread may have closed it meanwhile.
        reference = self._taking.take(tree, request, version, as_seen=as_seen)
        for tell in self._on_taken:
            tell(tree, reference)
        return reference

    def _tell_worker(self, reference: CheckpointReference) -> None:
        self._worker.listeners.tell(EntrySaved(reference.state.entry, reference.state.size_bytes))
        self._worker.ensure_started()
        self._worker.send(Wake())

    def on_taken(self, callback: Callable[[ScannedTree, CheckpointReference], None]) -> None:
        """Have `callback` told of what each save took, in the thread that saves: it must be quick and must not raise."""
        self._on_taken.append(callback)

    def being_written(self, paths: Sequence[str]) -> builtins.list[str] | None:
        """Return which of these files some program has open for writing, as the guard of links sees it; None: nobody can tell."""
        guard = self._worker.link_guard
        return None if guard is None else guard.being_written(paths)

    def _wait_stored(self, reference: CheckpointReference) -> None:
        """The synchronous mode: what ``save()`` returns is in the store."""
        self._flusher.wait_settled(reference, self.settings.flush_timeout_s)
        if reference.status == Status.FAILED:
            error = reference.state.error
            # The caller learns of the failure here and now; keeping the data would only upset the next save.
            self._spool.drop(reference.state.entry)
            self._ledger.settle_dropped(reference.state.entry, str(error))
            assert error is not None
            raise error

    # Loading

    def resume(self, policy: str, target: str, *, strict: bool = False) -> CheckpointRecord | None:
        """Load the newest checkpoint that the policy allows; see `ckpt_async.recovery.resume`."""
        if policy == "fresh" and not self.identity.attempt and not older_attempts(self._spool.folder):
            return None
        from ckpt_async.recovery import resume

        resumed = resume(
            policy,
            identity=self.identity,
            spool_folder=self._spool.folder,
            reader=self.reader,
            store_url=self.address.url,
            target=target,
            say=self._say,
            may_start=self.settings.worker == "process",
            guarded=self.settings.snapshot != "copy" and self._worker.guards_left_links,
            strict=strict,
            node_index=self._header.node_index,
            num_nodes=self._header.num_nodes,
        )
        if resumed is None:
            return None
        self.resumed_from_disk = resumed.from_disk
        return resumed.record

    def list(
        self, *, name: str | None = None, attempt: int | None = None, pathspec: str | None = None, scope: bool = False
    ) -> builtins.list[CheckpointRecord]:
        """List stored checkpoints, newest first.

        Parameters
        ----------
        name, attempt
            Only those.
        pathspec : str, optional
            Of another task than this one.
        scope : bool
            Of all runs that share this task's scope.
        """
        if scope:
            from ckpt_async.words import keys

            return self.reader.list_scope(keys.scope_records_prefix(self.identity), name=name, attempt=attempt)
        return self.reader.list(pathspec or self.identity.pathspec, name=name, attempt=attempt)

    def load(self, reference: object, target: str, *, node: int | None = None) -> CheckpointRecord:
        """Load a checkpoint, or the part of one node of it, into a missing or empty folder. One that this task has saved and is
        still uploading is waited for.
        """
        self._check_owner("load a checkpoint")
        self._wait_own(reference)
        from ckpt_async.spool.loaded import note_loaded, read_loaded

        record = self.reader.load(reference, target, node=node)
        if not self._closed and read_loaded(self._spool) is None:
            note_loaded(self._spool, record, self._say)
        return record

    def delete(self, reference: object) -> None:
        """Delete a stored checkpoint; see `ckpt_async.Reader.delete`. One that this task has saved and is still uploading is waited
        for.
        """
        self._check_usable("delete a checkpoint")
        own = self._wait_own(reference)
        if own is not None:
            # A retry would begin with what was kept of it.
            drop_kept(self._spool, own.state.entry)
            # Whatever comes in between: nothing may rely on it any more.
            self._ledger.settle_deleted(own.record.key, "delete() has deleted it")
        self.reader.delete(reference)

    def pin(self, reference: object) -> None:
        """Keep the rules away from a checkpoint; see `ckpt_async.Reader.pin`. One that this task has saved and is still uploading
        is waited for.
        """
        self._check_usable("pin a checkpoint")
        self._wait_own(reference)
        self.reader.pin(reference)

    def unpin(self, reference: object) -> None:
        """Take a pin away; see `ckpt_async.Reader.unpin`."""
        self._check_usable("unpin a checkpoint")
        self.reader.unpin(reference)

    def settle_missing(self, stored: Collection[str], reason: str) -> None:
        """Learn from a list of the keys that the store has: of the saves of this attempt that were stored, those that are not among
        them have been deleted since, which their references tell from now on.
        """
        self._ledger.settle_missing(stored, reason)

    def _wait_own(self, reference: object) -> CheckpointReference | None:
        """Wait until a save of this task is in the store; return it, or None where the reference names another."""
        key = reference.get("key") if isinstance(reference, dict) else reference
        own = self._ledger.by_key(key) if isinstance(key, str) else None
        if own is not None and not own.done():
            own.wait(self.settings.flush_timeout_s)
        return own

    # Waiting and ending

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything saved is in the store. What the store refused before is tried once more. Of a group save that is
        the part of this node; whether the whole is visible, its reference tells.

        Parameters
        ----------
        timeout_s : float, optional
            Seconds; by default `Settings.flush_timeout_s`.

        Raises
        ------
        FlushTimeout
            The time is over: names the store, the trouble, and where the data lies. The uploads go on.
        StoreError
            The store refuses a save.
        WorkerDied
            The worker can't be kept alive.
        """
        self._check_usable("flush")
        if timeout_s is None:
            timeout_s = self.settings.flush_timeout_s
        deadline_s = time.monotonic() + timeout_s
        not_saved = self._sources.flush(deadline_s)
        self._flusher.flush(max(0.0, deadline_s - time.monotonic()))
        if not_saved is not None:
            raise not_saved

    def press(self) -> None:
        """Have the newest save stored first from now on: time is short. An older one that is under way at this moment is put back,
        with what is stored of it noted. Does not wait.
        """
        self._worker.press()

    def close(self, *, timeout_s: float, newest_first: bool = False, retried: bool = False) -> None:
        """Have the sources save what they hold, take no more saves, flush, end the worker and remove the spool. The second call
        does nothing.

        Where something could not be uploaded, the spool stays for the next attempt, and a sidecar goes on with it for
        `Settings.flush_timeout_s` seconds at most.

        Parameters
        ----------
        timeout_s : float
            For the flush, in seconds.
        newest_first : bool
            Whether the newest save is uploaded first from now on.
        retried : bool
            Whether a next attempt is expected: then what `Settings.keep_local` has kept stays for it. Where the flush fails, it
            stays in any case.

        Raises
        ------
        CheckpointError
            As `flush`; the worker has been let go all the same.
        """
        self._check_owner("close")
        if self._closing:
            return
        self._closing = True
        deadline_s = time.monotonic() + timeout_s
        try:
            if newest_first:
                # Before anything is waited for: the deadline presses already.
                self._worker.press()
            not_saved = self._sources.flush(deadline_s)
            self._closed = True
            # A save that waits for room would wait longer than this may take.
            self._gate.close()
            if self._saving.acquire(timeout=min(max(0.0, deadline_s - time.monotonic()), threading.TIMEOUT_MAX)):
                # What another thread is saving is in the spool now, so that the flush sees it.
                self._saving.release()
            self._flusher.flush(max(0.0, deadline_s - time.monotonic()), newest_first=newest_first)
            if not_saved is not None:
                raise not_saved
            if not retried:
                self.end_keeping()
        finally:
            self._closed = True
            self._gate.close()
            self._worker.shut_down()
            self._spool.task_lock.release()
        if self.settings.async_upload and (line := summary_line(self.stats)):
            self._say(line)

    def end_keeping(self) -> None:
        """Delete what `Settings.keep_local` has kept, in this attempt and in earlier ones, and keep nothing more: there will be no
        next attempt.
        """
        try:
            end_keeping(self._spool)
            for folder in older_attempts(self._spool.folder):
                if end_keeping(Spool(folder)):
                    remove_dead_spool(folder)
        except OSError as error:
            # It is in the store: what stays on the disk is no reason to fail a task.
            self._say(f"What was kept on local disk could not be deleted ({error.filename}): {error.strerror or error}")

    # Looking

    @property
    def pending(self) -> Pending:
        """What is on local disk and not yet in the store."""
        return self._ledger.pending

    @property
    def stats(self) -> Stats:
        """The saves of this attempt, counted."""
        return self._ledger.stats

    def references(self) -> builtins.list[CheckpointReference]:
        """Return the saves of this attempt, in order."""
        return self._ledger.references()

    @property
    def adopted(self) -> tuple[AdoptedSave, ...]:
        """What earlier attempts and child processes left, as far as this attempt's worker has begun to upload it."""
        return self._ledger.adopted

    @property
    def adopting(self) -> tuple[str, ...]:
        """The spools of earlier attempts and child processes that are being emptied, by this attempt's worker or their own."""
        return self._ledger.outstanding().adopting

    @property
    def left_errors(self) -> dict[str, CheckpointError]:
        """Why what earlier attempts and child processes left can't be stored, by words for whose it is: ``attempt 0``."""
        return {whose(name): error for name, error in list(self._ledger.adoption_errors.items())}

    @property
    def waits(self) -> tuple[Wait, ...]:
        """The times in which the training waited for uploads outside of ``save()``."""
        return self._ledger.waits

    @property
    def trouble(self) -> CheckpointError | None:
        """The transient failure of the store that is being retried now."""
        return self._ledger.trouble

    def _check_owner(self, attempted: str) -> None:
        if os.getpid() != self._pid:
            raise InvalidArgument(
                attempted,
                on=f"process {os.getpid()}",
                cause=f"the checkpointer belongs to process {self._pid}, and this one was forked from it",
                hint="Save in the process of the task itself.",
            )

    def _check_usable(self, attempted: str) -> None:
        self._check_owner(attempted)
        if self._closed:
            raise InvalidArgument(attempted, on=self.identity.pathspec, cause="the checkpointer is closed: its task has ended")
