"""What is done with stored checkpoints, for code without an event loop: list, follow `latest`, load, delete."""

from __future__ import annotations

import builtins
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from ckpt_async.words.errors import CheckpointDamaged, StoreError
from ckpt_async.words.records import CheckpointRecord

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from ckpt_async.stores.contract import Store
    from ckpt_async.transfer.catalog import Listing
    from ckpt_async.transfer.pruning import PruneResult
    from ckpt_async.words.identity import TaskIdentity
    from ckpt_async.words.keep_rules import KeepRules
    from ckpt_async.words.retention import RetentionDecision

__all__ = ["Reader"]

_T = TypeVar("_T")


class _Session:
    """A loop in a thread of its own and an open store in it, both made when they are first asked for.

    The caller's own thread may have a running loop (a notebook), and can be interrupted meanwhile.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._opening = threading.Lock()
        self._owned = contextlib.ExitStack()
        self._opened: tuple[BlockingPortal, Store] | None = None

    def run(self, act: Callable[[Store], Awaitable[_T]]) -> _T:
        # Here: every task has a reader, and most of them never read.
        from anyio.from_thread import start_blocking_portal

        with self._opening:
            if self._opened is None:
                portal = self._owned.enter_context(start_blocking_portal("asyncio"))
                store = self._owned.enter_context(portal.wrap_async_context_manager(portal.call(self._open_store)))
                self._opened = portal, store
            portal, store = self._opened
        ended = threading.Event()

        async def watched() -> _T:
            try:
                return await act(store)
            finally:
                ended.set()

        future = portal.start_task_soon(watched)
        try:
            return future.result()
        except BaseException:
            # An interrupted caller closes the store: not before the work has ended that undoes what it had begun.
            future.cancel()
            ended.wait()
            raise

    def close(self) -> None:
        self._owned.close()


class Reader:
    """Reads checkpoints of one store, and deletes them; it may be called from any thread.

    Each call opens connections and closes them again, but for the calls inside ``with reader.held_open()``.

    Parameters
    ----------
    open_store : callable
        Makes the store, with retries that end: told of transient trouble through its argument.
    say : callable
        Prints a line for the user.
    """

    def __init__(self, open_store: Callable[[Callable[[int, StoreError | None], None]], Store], say: Callable[[str], None]) -> None:
        self._open_store = open_store
        self._say = say
        self._session: _Session | None = None

    @contextlib.contextmanager
    def held_open(self) -> Iterator[Reader]:
        """Yield a reader of the same store that keeps its connections from call to call, until the block ends."""
        held = Reader(self._open_store, self._say)
        held._session = held._new_session()
        try:
            yield held
        finally:
            held._session.close()

    def _new_session(self) -> _Session:
        return _Session(lambda: self._open_store(self._tell_trouble))

    def run(self, act: Callable[[Store], Awaitable[_T]]) -> _T:
        """Run work on the open store, in the reader's own loop, and return what it returns: for what has no method here."""
        if self._session is not None:
            return self._session.run(act)
        with contextlib.closing(self._new_session()) as session:
            return session.run(act)

    def _tell_trouble(self, failures: int, error: StoreError | None) -> None:
        if error is not None:
            self._say(f"A request to the store has failed {failures} times and is being retried: {error}")

    def list(
        self, pathspec: str, *, name: str | None = None, attempt: int | None = None, strict: bool = False
    ) -> builtins.list[CheckpointRecord]:
        """List the checkpoints of a task, newest first: by attempt, then by save number. A damaged record is named and passed
        by.

        Raises
        ------
        CheckpointDamaged
            With `strict`: a record is damaged.
        """
        from ckpt_async.transfer import catalog

        return self._told(self.run(functools.partial(catalog.list_task, pathspec=pathspec, name=name, attempt=attempt)), strict)

    def list_scope(
        self, scope_prefix: str, *, name: str | None = None, attempt: int | None = None, strict: bool = False
    ) -> builtins.list[CheckpointRecord]:
        """List the checkpoints of all runs that share a scope, newest first; else as `list`."""
        from ckpt_async.transfer import catalog

        found = self.run(functools.partial(catalog.list_scope, scope_prefix=scope_prefix, name=name, attempt=attempt))
        return self._told(found, strict)

    def _told(self, listing: Listing, strict: bool) -> builtins.list[CheckpointRecord]:
        for damage in listing.damaged:
            if strict:
                raise damage
            self._say(f"A damaged checkpoint record is left out: {damage}")
        return list(listing.records)

    def latest(self, pathspec: str) -> CheckpointRecord | None:
        """Return the newest checkpoint of a task; None where there is none.

        Raises
        ------
        CheckpointDamaged
            The pointer can't be read.
        """
        from ckpt_async.words import keys

        return self.latest_at(keys.task_latest_key(pathspec))

    def latest_at(self, pointer_key: str) -> CheckpointRecord | None:
        """Follow a `latest` pointer by its key; see `latest`."""
        from ckpt_async.transfer import catalog

        return self.run(functools.partial(catalog.latest_of, pointer_key=pointer_key))

    def visible(self, keys_of_data: builtins.list[str], *, timeout_s: float) -> builtins.list[str]:
        """Return those of these keys under which there is a checkpoint that can be loaded. Raises TimeoutError, too."""
        from anyio import fail_after

        from ckpt_async.transfer import group_catalog

        async def act(store: Store) -> builtins.list[str]:
            with fail_after(timeout_s):
                return await group_catalog.visible(store, keys_of_data)

        return self.run(act)

    def agreed_group(
        self, identity: TaskIdentity, policy: str, passed_by: Callable[[CheckpointDamaged], None]
    ) -> CheckpointRecord | None:
        """Return the group save that all nodes of this attempt go on from; see `group_catalog.agreed_group`."""
        from ckpt_async.transfer import group_catalog

        return self.run(functools.partial(group_catalog.agreed_group, identity=identity, policy=policy, passed_by=passed_by))

    def mark_damaged(self, record: CheckpointRecord) -> None:
        """Have later attempts pass a group save by; see `group_catalog.mark_damaged`."""
        from ckpt_async.transfer import group_catalog

        self.run(functools.partial(group_catalog.mark_damaged, record=record))

    def load(
        self,
        reference: object,
        target: str,
        *,
        node: int | None = None,
        on_fetched: Callable[[int, int], None] | None = None,
    ) -> CheckpointRecord:
        """Load a checkpoint into the folder `target`, which is empty or missing; returns its record.

        Parameters
        ----------
        reference : str, mapping or object
            A data key, or what has one as ``key``: a reference, a record, a listed checkpoint.
        node : int, optional
            Of a group save, only the part of this node, as that node saved it.
        on_fetched : callable, optional
            Called, in a thread of the reader's, with the bytes and the whole files that have come since the call before.

        Raises
        ------
        InvalidArgument, CheckpointNotFound
            The reference is malformed, or names nothing.
        CheckpointDamaged
            What is stored is not what was saved. Nothing has appeared in `target`.
        LoadTargetNotEmpty
            The folder holds something.
        """
        from ckpt_async.transfer.catalog import resolve
        from ckpt_async.transfer.download import download
        from ckpt_async.transfer.fetch import untold
        from ckpt_async.transfer.group_catalog import part_of

        async def act(store: Store) -> CheckpointRecord:
            record = await resolve(store, reference)
            part = record if node is None else part_of(record, node)
            await download(store, part, target, on_fetched=on_fetched or untold)
            return record

        return self.run(act)

    def delete(self, reference: object) -> None:
        """Delete a stored checkpoint, and nothing else. A `latest` pointer that names it steps back to the newest that remains.

        A call that was interrupted is finished by another one with the same reference.

        Parameters
        ----------
        reference : str, mapping or object
            As `load` takes it.

        Raises
        ------
        InvalidArgument, CheckpointNotFound
            The reference is malformed, or names nothing.
        CheckpointDamaged
            Its record can't be read, and the reference does not have its content. Nothing was deleted.
        """
        from ckpt_async.transfer.deletion import delete_checkpoint

        self.run(functools.partial(delete_checkpoint, reference=reference))

    def pin(self, reference: object) -> None:
        """Pin a checkpoint: when this returns, no rule deletes it, until `unpin`. `delete` deletes it all the same.

        Parameters
        ----------
        reference : str, mapping or object
            As `load` takes it.

        Raises
        ------
        InvalidArgument, CheckpointNotFound
            The reference is malformed, or names nothing, or what is being deleted.
        """
        from ckpt_async.transfer import pins

        self.run(functools.partial(pins.pin, reference=reference))

    def unpin(self, reference: object) -> None:
        """Take the pin of a checkpoint away; where there is none, nothing is done. Raises InvalidArgument."""
        from ckpt_async.transfer import pins

        self.run(functools.partial(pins.unpin, reference=reference))

    def pinned(self, records: Iterable[CheckpointRecord]) -> set[str]:
        """Return the keys of those of these checkpoints that are pinned."""
        from ckpt_async.transfer import pins

        return self.run(functools.partial(pins.pinned_keys_of, records=tuple(records)))

    def check_shape(self, record: CheckpointRecord) -> builtins.list[str]:
        """Return what a stored checkpoint lacks, a sentence each, without reading its data; see
        `ckpt_async.transfer.shape.check_shape`.
        """
        from ckpt_async.transfer import shape

        return self.run(functools.partial(shape.check_shape, record=record))

    def plan_prune(self, pathspec: str, rules: KeepRules, *, name: str | None = None) -> RetentionDecision:
        """Decide which checkpoints of a task rules would delete. Deletes nothing; see `ckpt_async.transfer.pruning.plan_prune`.

        Parameters
        ----------
        pathspec : str
            Of the task.
        rules : KeepRules
            What is kept.
        name : str, optional
            Only the checkpoints of that name.

        Raises
        ------
        InvalidArgument
            `pathspec` is none.
        StoreError, CheckpointDamaged
            The store can't tell, or a `latest` pointer can't be read.
        """
        from ckpt_async.transfer import catalog, pruning
        from ckpt_async.transfer.deletion import is_of_task

        async def act(store: Store) -> RetentionDecision:
            # All names: what a retry begins with is the newest of any.
            listing = await catalog.list_task(store, pathspec)
            self._told(listing, strict=False)
            mine = [record for record in listing.records if is_of_task(record, pathspec)]
            decision = await pruning.plan_prune(store, mine, rules)
            return decision if name is None else decision.only(name)

        return self.run(act)

    def prune(self, decision: RetentionDecision) -> PruneResult:
        """Delete what a decision dooms, the oldest first. What is pinned or the latest by now is spared, and so is all of a task,
        name and node of which nothing that is kept verifies. What an interrupted call has left of these tasks is deleted too.

        Raises
        ------
        StoreError, CheckpointDamaged
            Some of it may be deleted; another call deletes the rest.
        """
        from ckpt_async.transfer import pruning

        return self.run(functools.partial(pruning.prune_all, decision=decision))

    def load_record(self, record: CheckpointRecord, target: str) -> None:
        """Load the checkpoint of a record that has been read already; see `load`."""
        from ckpt_async.transfer.download import download

        self.run(functools.partial(download, record=record, target=target))
