"""The one place that builds real objects from settings.

What a task may never need is imported where it is needed: a step that saves nothing pays for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ckpt_async.checkpointer import Checkpointer
from ckpt_async.disk import durable
from ckpt_async.reader import Reader
from ckpt_async.spool.neighbours import child_spool_folder, older_attempts, spool_folder
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.stores.opening import check_address, open_store
from ckpt_async.words.errors import InvalidArgument, SpoolDamaged, StoreError
from ckpt_async.words.events import Event
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.settings import Settings, StoreAddress
from ckpt_async.worker.handle import WorkerHandle
from ckpt_async.worker.sidecar_client import SidecarClient
from ckpt_async.worker.thread import ThreadWorker

if TYPE_CHECKING:
    from ckpt_async.stores.contract import Store
    from ckpt_async.stores.pacing import Pace

__all__ = ["StoresOfWorker", "next_save_number", "open_checkpointer", "open_for_child", "open_reader"]

#: Requests to a store at once.
REQUESTS_AT_ONCE = 32

#: How long a reading call keeps trying a store that does not answer.
READ_GIVE_UP_S = 120.0

TellTrouble = Callable[[int, "StoreError | None"], None]


def _stack(address: StoreAddress, tell_trouble: TellTrouble, give_up_after_s: float | None, pace: Pace | None = None) -> Store:
    """A call that backs off holds no slot: the limit is inside."""
    from ckpt_async.stores.limiting import Limiting
    from ckpt_async.stores.retrying import Retrying

    bare = open_store(address, pace)
    return Retrying(Limiting(bare, REQUESTS_AT_ONCE), on_trouble=tell_trouble, give_up_after_s=give_up_after_s)


class StoresOfWorker:
    """Makes the stores of one worker: they retry without end, for the worker has a deadline of its own.

    All share the cap on bandwidth, which is that of the worker's own spool: it is the first that is asked for.
    """

    def __init__(self) -> None:
        self._pace: Pace | None = None

    def __call__(self, header: SpoolHeader, tell_trouble: TellTrouble) -> Store:
        """Return the store of a spool."""
        from ckpt_async.stores.pacing import Pace

        if self._pace is None:
            self._pace = Pace(header.settings.max_bandwidth_bytes_per_s)
        return _stack(header.address, tell_trouble, None, self._pace)


def open_reader(address: StoreAddress, *, say: Callable[[str], None] = print, give_up_after_s: float = READ_GIVE_UP_S) -> Reader:
    """Return a reader of the checkpoints in a store. Touches nothing until it is asked for something.

    Parameters
    ----------
    address : StoreAddress
        Where they are.
    say : callable
        Prints a line for the user.
    give_up_after_s : float
        How long a call keeps trying a store that does not answer, in seconds.
    """
    return Reader(lambda tell_trouble: _stack(address, tell_trouble, give_up_after_s), say)


def open_checkpointer(
    identity: TaskIdentity,
    address: StoreAddress,
    settings: Settings,
    *,
    scratch_root: str,
    say: Callable[[str], None] = print,
    node_index: int = 0,
    num_nodes: int = 1,
) -> Checkpointer:
    """Return the checkpointer of one attempt of a task. Does not touch the store.

    Parameters
    ----------
    identity : TaskIdentity
        Whose checkpoints they are.
    address : StoreAddress
        Where they go.
    settings : Settings
        How.
    scratch_root : str
        The folder under which spools stand; made private to the user. Best on the filesystem of the files that will be saved.
    say : callable
        Prints a line for the user; may be called from any thread.
    node_index, num_nodes : int
        Of nodes that save under one identity: they never take the same save number.

    Raises
    ------
    InvalidArgument
        `scratch_root` can't be used: it belongs to another user, or is no folder.
    UnsupportedStore
        There is no store for the address.
    SpoolBusy
        The same attempt is open already, in another process or in this one.
    """
    check_address(address)
    _ = settings.keep_rules  # Wrong ones are refused here, and not by the worker.
    durable.make_private_folder(scratch_root)
    header = SpoolHeader(address, settings, version_start=node_index, version_step=num_nodes, node_index=node_index)
    return _open(spool_folder(scratch_root, address, identity, node_index), header, identity, say)


def open_for_child(
    identity: TaskIdentity,
    address: StoreAddress,
    *,
    scratch_root: str,
    say: Callable[[str], None] = print,
    node_index: int = 0,
    num_nodes: int = 1,
    group: bool = False,
) -> Checkpointer:
    """Return a checkpointer for one save, synchronous, by a child process of a running task; the caller closes it.

    It has a spool of its own, and takes one save number from the task's: parent and children never take the same one. What is left
    in its spool if the process is killed is uploaded by the task's next flush, or goes to its next attempt on this machine.

    Parameters
    ----------
    identity, address, scratch_root, node_index, num_nodes
        As the task's own `open_checkpointer` was given them.
    say : callable
        Prints a line for the user.
    group : bool
        Whether it will be a group save.

    Raises
    ------
    InvalidArgument
        The task does not run on this machine, or has ended.
    UnsupportedStore
        There is no store for the address.
    SpoolDamaged
        What the task left on the disk can't be read.
    """
    check_address(address)
    of_task = spool_folder(scratch_root, address, identity, node_index)
    spool = Spool(of_task)
    try:
        take = spool.next_group_version if group and num_nodes > 1 else spool.next_version
        version = take(node_index, num_nodes)
    except OSError as error:
        ended = isinstance(error, FileNotFoundError)
        raise InvalidArgument(
            "save for a task",
            on=of_task,
            cause="the task has ended, or runs on another machine" if ended else error.strerror or str(error),
            hint="Save while the task waits for this process." if ended else "Mend the disk, or set spool_dir to another one.",
        ) from error
    of_parent = spool.header().settings
    settings = Settings(
        async_upload=False,
        worker="thread",
        max_bandwidth_bytes_per_s=of_parent.max_bandwidth_bytes_per_s,
        flush_timeout_s=of_parent.flush_timeout_s,
        keep_last=of_parent.keep_last,
        keep_best=of_parent.keep_best,
        keep_every=of_parent.keep_every,
    )
    header = SpoolHeader(address, settings, version_start=version, version_step=num_nodes, node_index=node_index)
    return _open(child_spool_folder(of_task, version), header, identity, say)


def next_save_number(
    identity: TaskIdentity, address: StoreAddress, *, scratch_root: str, node_index: int = 0, num_nodes: int = 1
) -> int:
    """Return the number that the next save of a running task gets, whichever of its processes makes it.

    It starts with `node_index` and grows by `num_nodes` at each save, or try of one.

    Parameters
    ----------
    identity, address, scratch_root, node_index, num_nodes
        As the task's own `open_checkpointer` was given them.

    Raises
    ------
    SpoolDamaged
        The number can't be read.
    """
    folder = spool_folder(scratch_root, address, identity, node_index)
    try:
        return Spool(folder).version_to_come(node_index)
    except OSError as error:
        raise SpoolDamaged("read a save number", on=folder, cause=error.strerror or str(error)) from error


def _open(folder: str, header: SpoolHeader, identity: TaskIdentity, say: Callable[[str], None]) -> Checkpointer:
    address, settings = header.address, header.settings

    def make_worker(on_event: Callable[[Event], None], on_death: Callable[[], None]) -> WorkerHandle:
        # Without async_upload the training stands still while a save is uploaded: a process of its own would only cost its start.
        # What an earlier attempt left goes out beside the training in any case.
        if settings.worker == "thread" or not (settings.async_upload or older_attempts(spool.folder)):
            return ThreadWorker(spool.folder, StoresOfWorker(), on_event, on_death)
        return SidecarClient(spool.folder, on_event, on_death)

    try:
        spool = Spool.create(folder, header)
        return Checkpointer(
            identity=identity, header=header, spool=spool, make_worker=make_worker, reader=open_reader(address, say=say), say=say
        )
    except OSError as error:
        raise InvalidArgument(
            "open the spool of a task",
            on=error.filename or folder,
            cause=error.strerror or str(error),
            hint="Free disk space, or set spool_dir to another disk.",
        ) from error
