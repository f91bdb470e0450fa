"""A worker's life: own the spool, open the store, upload, adopt what dead attempts left, end in time."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import anyio.abc
import anyio.to_thread

from ckpt_async.spool.abandoned import abandoned_logs
from ckpt_async.spool.kept import drop_kept
from ckpt_async.spool.neighbours import attempt_of, older_attempts, remove_spool
from ckpt_async.spool.spool import OWN_A_SPOOL, Spool, SpoolHeader
from ckpt_async.spool.states import entry_id
from ckpt_async.stores.contract import Store
from ckpt_async.words.errors import CheckpointError, InvalidArgument, SpoolDamaged, StoreError
from ckpt_async.words.events import (
    Adopt,
    AdoptionEnded,
    Close,
    Command,
    Event,
    LinksGuarded,
    Notice,
    Press,
    Retry,
    Trouble,
    Wake,
    WorkerReady,
)
from ckpt_async.words.keep_rules import KeepRules
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.worker.retention import Retention
from ckpt_async.worker.syncer import Syncer
from ckpt_async.worker.uploader import Uploader

__all__ = ["LinkAdopter", "StoreMaker", "WorkerRuntime"]

#: Makes the store of a spool, retries included; told of transient trouble through its second argument.
StoreMaker = Callable[[SpoolHeader, Callable[[int, "StoreError | None"], None]], Store]

#: How often the lock of a spool is tried whose worker outlives its task. A local lock, not the store.
LOCK_RETRY_S = 0.25


class LinkAdopter(Protocol):
    """Guards linked files that lie in a spool; see `ckpt_async.worker.guard.Guard`. Its methods block."""

    def adopt(self, folder: str, *, owned: bool) -> None:
        """Return once the linked files in this spool are guarded, or private. `owned`: the caller holds its worker lock."""

    def sweep(self) -> None:
        """Return once the files of entries that have left their spools are let go."""


class WorkerRuntime:
    """Runs the worker of one spool. `run` in an event loop; `handle` in the same loop.

    Parameters
    ----------
    spool : Spool
        Whose worker lock the runtime takes, unless the caller has done that for it, and gives up at its end.
    make_store : callable
        See `StoreMaker`.
    emit : callable
        Takes events; must not block.
    guard : LinkAdopter, optional
        Without it, links that another process has left are believed as long as their files look unchanged.
    """

    def __init__(
        self, spool: Spool, make_store: StoreMaker, emit: Callable[[Event], None], guard: LinkAdopter | None = None
    ) -> None:
        self._spool = spool
        self._make_store = make_store
        self._emit = emit
        self._guard = guard
        self._uploader: Uploader | None = None
        self._retention: Retention | None = None
        self._syncer = Syncer(self._spool, emit)
        self._waiting: list[Command] = []
        self._scope: anyio.CancelScope | None = None
        self._adopting: anyio.abc.TaskGroup | None = None
        #: The spools that are being adopted.
        self._adopted: set[str] = set()
        #: Those of them in which something is left that could not be stored.
        self._left: list[str] = []

    def handle(self, command: Command) -> None:
        """Obey one command; before the store is open they are kept."""
        if self._uploader is None:
            self._waiting.append(command)
        elif isinstance(command, Wake):
            self._uploader.wake()
            self._syncer.wake()
        elif isinstance(command, Retry):
            self._uploader.retry_failed()
            left, self._left = self._left, []
            self._start_adopting(left)
        elif isinstance(command, Adopt):
            self._start_adopting([os.path.join(os.path.dirname(self._spool.folder), name) for name in command.spools])
        elif isinstance(command, Press):
            self._uploader.press()
            if self._retention is not None:
                self._retention.hold()
        elif isinstance(command, Close) and self._scope is not None:
            # Not anyio's clock: versions of it don't tell the time to who is called by the loop and is no task.
            self._scope.deadline = asyncio.get_running_loop().time() + command.deadline_s
            self._uploader.close()

    async def run(self) -> None:
        """Work until told to close, and then until the spool is empty or the deadline has come.

        Raises
        ------
        SpoolBusy
            Another worker owns the spool.
        SpoolDamaged
            Its header can't be read.
        """
        self._spool.worker_lock.acquire(attempted=OWN_A_SPOOL)
        try:
            header = await anyio.to_thread.run_sync(self._spool.header)
            self._spool.obeying(header)
            await self._guard_links(self._spool.folder, owned=True)
            store = self._make_store(header, self._tell_trouble)
            with anyio.CancelScope() as self._scope:
                async with store:
                    self._retention = Retention(store, self._rules_of(header), self._emit, self._drop_local)
                    self._uploader = Uploader(
                        self._spool,
                        store,
                        self._emit,
                        keep=header.settings.keep_local,
                        first_version=header.first_version,
                        on_removed=self._sweep,
                        on_visible=self._retention.committed,
                    )
                    older = older_attempts(self._spool.folder)
                    self._emit(WorkerReady(os.getpid(), tuple(os.path.basename(folder) for folder in older)))
                    for text in store.traits.notices:
                        self._emit(Notice(text))
                    async with anyio.create_task_group() as self._adopting:
                        self._start_adopting(older)
                        kept, self._waiting = self._waiting, []
                        for command in kept:
                            self.handle(command)
                        if self._spool.syncs_moves:
                            self._adopting.start_soon(self._syncer.run)
                        self._adopting.start_soon(self._retention.run)
                        await self._uploader.run()
                        self._syncer.close()
                        self._retention.close()
                    self._adopting = None
                    await self._retention.finish()
        finally:
            self._spool.worker_lock.release()

    def _start_adopting(self, folders: Iterable[str]) -> None:
        for folder in folders:
            # One that is being adopted is told of when that ends; a worker that is ending has been told to close.
            if folder not in self._adopted and self._adopting is not None:
                self._adopted.add(folder)
                self._adopting.start_soon(self._adopt, folder)

    async def _guard_links(self, folder: str, *, owned: bool) -> None:
        if self._guard is not None:
            await anyio.to_thread.run_sync(functools.partial(self._guard.adopt, folder, owned=owned))

    def _sweep(self) -> None:
        if self._guard is not None:
            self._guard.sweep()

    def _rules_of(self, header: SpoolHeader) -> KeepRules:
        try:
            return header.settings.keep_rules
        except InvalidArgument as error:
            # Of another version of this package: what was saved is uploaded all the same.
            self._emit(Notice(f"Nothing is deleted by rules: {error}"))
            return KeepRules()

    def _drop_local(self, record: CheckpointRecord) -> None:
        if record.attempt == attempt_of(os.path.basename(self._spool.folder)):
            drop_kept(self._spool, entry_id(record.version_id))

    def _tell_trouble(self, failures: int, error: StoreError | None) -> None:
        self._emit(Trouble(failures, error.to_wire() if error is not None else {}))

    async def _adopt(self, folder: str) -> None:
        """Upload what an earlier attempt, or a child process, left, once neither it nor its worker is alive. One that lives is left
        alone.
        """
        spool = Spool(folder)
        attempt = os.path.basename(folder)
        left, error = 0, dict[str, str]()
        try:
            # Also where another worker is at it: it may be dying at this moment, and its leases with it.
            await self._guard_links(folder, owned=False)
            self._emit(LinksGuarded(attempt))
            # Looked at and never taken: who looks at the same time would take this process for a living attempt.
            if await anyio.to_thread.run_sync(spool.task_lock.is_held):
                return
            # The dead attempt's own sidecar may still be uploading: faster than beginning anew.
            while not spool.worker_lock.try_acquire():
                await anyio.sleep(LOCK_RETRY_S)
            await self._guard_links(folder, owned=True)
            await anyio.to_thread.run_sync(spool.clean)
            if not spool.waiting() and not abandoned_logs(folder):
                await anyio.to_thread.run_sync(remove_spool, spool)
                return
            header = await anyio.to_thread.run_sync(spool.header)
            spool.obeying(header)
            async with self._make_store(header, self._tell_trouble) as store:
                uploader = Uploader(
                    spool,
                    store,
                    self._emit,
                    prefix=f"{attempt}/",
                    first_version=header.first_version,
                    on_removed=self._sweep,
                    on_visible=self._retention.committed if self._retention is not None else lambda _: None,
                )
                uploader.close()
                await uploader.run()
                if (failure_to_tell := uploader.failure_to_tell) is not None:
                    left, error = len(spool.waiting()), failure_to_tell.to_wire()
                    # What is lost is told once; no later attempt could do more.
                    await anyio.to_thread.run_sync(uploader.remove_lost)
                    await uploader.end_abandoned()
            if not spool.waiting():
                await anyio.to_thread.run_sync(remove_spool, spool)
        except FileNotFoundError:
            pass  # Its own worker has finished and removed it.
        except CheckpointError as failure:
            left, error = len(spool.waiting()), failure.to_wire()
        except OSError as failure:
            # What is wrong with an old folder is no reason to store nothing new.
            damage = SpoolDamaged("take over what another process left", on=folder, cause=failure.strerror or str(failure))
            left, error = max(1, len(spool.waiting())), damage.to_wire()
        finally:
            spool.worker_lock.release()
            if left:
                self._left.append(folder)
            self._adopted.discard(folder)
            self._emit(AdoptionEnded(attempt, left, error))
