"""Uploading what lies in the spool of a dead task, in the process that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from ckpt_async.spool.neighbours import remove_spool
from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import CheckpointError, FlushTimeout, SpoolDamaged, StoreError
from ckpt_async.words.events import Event
from ckpt_async.worker.uploader import Uploader

if TYPE_CHECKING:
    from ckpt_async.worker.runtime import StoreMaker

__all__ = ["ALIVE", "BUSY", "DRAINED", "Drained", "LEFT", "drain_spool"]

#: All of it is in the store, and the spool is gone.
DRAINED = "drained"
#: Some of it could not be stored.
LEFT = "left"
#: Its task lives, and sees to it.
ALIVE = "alive"
#: Another uploader is at it.
BUSY = "busy"


@dataclass(frozen=True)
class Drained:
    """What became of a spool.

    Attributes
    ----------
    status : str
        One of the words above.
    left : int
        Saves that are not in the store.
    error : CheckpointError or None
        Why some are left.
    """

    status: str
    left: int = 0
    error: CheckpointError | None = None


async def drain_spool(
    folder: str,
    make_store: StoreMaker,
    emit: Callable[[Event], None],
    tell_trouble: Callable[[int, StoreError | None], None],
    *,
    timeout_s: float,
) -> Drained:
    """Upload what a dead task has left in its spool. A task that lives, and a spool that another uploader is at, are left alone.

    May be cancelled at any point: what is stored by then is noted, and whoever comes next goes on from there. So is what was not
    stored after `timeout_s` seconds.
    """
    spool = Spool(folder)
    try:
        if await anyio.to_thread.run_sync(spool.task_lock.is_held):
            return Drained(ALIVE)
        if not spool.worker_lock.try_acquire():
            return Drained(BUSY)
        # Once more: from here on, whoever opens this spool finds an uploader at it.
        if await anyio.to_thread.run_sync(spool.task_lock.is_held):
            return Drained(ALIVE)
        await anyio.to_thread.run_sync(spool.clean)
        with anyio.fail_after(timeout_s):
            return await _upload(spool, make_store, emit, tell_trouble)
    except TimeoutError as error:
        cause = f"the time of {timeout_s:.0f} s is over"
        late = error if isinstance(error, FlushTimeout) else FlushTimeout("upload what a task has left", on=folder, cause=cause)
        return Drained(LEFT, len(spool.waiting()), late)
    except FileNotFoundError:
        return Drained(DRAINED)  # Its own worker has finished and removed it.
    except CheckpointError as error:
        return Drained(LEFT, len(spool.waiting()), error)
    except OSError as error:
        damage = SpoolDamaged("upload what a task has left", on=error.filename or folder, cause=error.strerror or str(error))
        return Drained(LEFT, len(spool.waiting()), damage)
    finally:
        spool.worker_lock.release()


async def _upload(
    spool: Spool,
    make_store: StoreMaker,
    emit: Callable[[Event], None],
    tell_trouble: Callable[[int, StoreError | None], None],
) -> Drained:
    """Upload what lies in a spool whose worker lock is held, and remove the spool once it is empty.

    What is lost counts among what is left, and is removed once it is told.
    """
    left = 0
    header = await anyio.to_thread.run_sync(spool.header)
    spool.obeying(header)
    async with make_store(header, tell_trouble) as store:
        uploader = Uploader(spool, store, emit, first_version=header.first_version)
        uploader.close()
        await uploader.run()
        failure = uploader.failure_to_tell
        if failure is not None:
            left = len(spool.waiting())
            # What is lost is told once; no later attempt could do more.
            await anyio.to_thread.run_sync(uploader.remove_lost)
            await uploader.end_abandoned()
    if not spool.waiting():
        await anyio.to_thread.run_sync(remove_spool, spool)
    return Drained(DRAINED if failure is None else LEFT, left, failure)
