"""Brings what is saved to the disk itself, in the background: for ``durability="machine"``."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread

from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import SpoolDamaged
from ckpt_async.words.events import EntryDurable, Event

__all__ = ["Syncer"]


class Syncer:
    """Syncs the entries of one spool, oldest first, beside their upload. All methods belong to the loop that runs it.

    Parameters
    ----------
    spool : Spool
        Whose worker lock the caller holds.
    emit : callable
        Takes an `EntryDurable` for each entry; must not block.
    """

    def __init__(self, spool: Spool, emit: Callable[[Event], None]) -> None:
        self._spool = spool
        self._emit = emit
        self._told: set[str] = set()
        self._wake = anyio.Event()
        self._closing = False
        self._placed = False

    def wake(self) -> None:
        """Look into the spool again."""
        self._wake.set()

    def close(self) -> None:
        """End after the sync that is under way: what is still in the spool is not waited for."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Sync until closed."""
        while not self._closing:
            self._wake = anyio.Event()
            # Of those that have left the spool nothing is remembered: a task may make many saves.
            waiting = self._spool.waiting()
            self._told.intersection_update(waiting)
            entry = next((name for name in waiting if name not in self._told), None)
            if entry is None:
                await self._wake.wait()
            else:
                self._told.add(entry)
                await self._handle(entry)

    async def _handle(self, entry: str) -> None:
        try:
            await anyio.to_thread.run_sync(self._sync, entry)
        except FileNotFoundError:
            return  # Stored meanwhile, or dropped.
        except OSError as error:
            damage = SpoolDamaged(
                "bring a save to the disk itself",
                on=error.filename or self._spool.folder,
                cause=error.strerror or str(error),
                hint="It survives the death of its processes, and not a crash of the machine until it is in the store.",
            )
            self._emit(EntryDurable(entry, damage.to_wire()))
        else:
            self._emit(EntryDurable(entry))

    def _sync(self, entry: str) -> None:
        if not self._placed:
            self._spool.sync_place()
            self._placed = True
        self._spool.sync_entry(entry)
