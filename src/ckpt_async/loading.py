"""The ways in which one checkpoint comes into the folder that is loaded into: from the store, or from this machine's disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ckpt_async.disk.restore import RestoreWay
from ckpt_async.reader import Reader
from ckpt_async.spool.neighbours import LeftSave
from ckpt_async.spool.restoring import restore_kept, restore_left
from ckpt_async.transfer.partial import PartialFolder
from ckpt_async.words.errors import CheckpointDamaged, CheckpointError, SpoolDamaged
from ckpt_async.words.records import CheckpointRecord

__all__ = ["Damages", "Loading"]


class Damages:
    """What turned out damaged: named, and passed by; or raised, where nothing else may be taken instead.

    Parameters
    ----------
    say : callable
        Prints a line for the user.
    strict : bool
        Whether it is raised.

    Attributes
    ----------
    stored : list of CheckpointDamaged
        The checkpoints of the store that could not be loaded. What was never there is none of them: a power failure leaves such,
        and to fail because of it would stop every retry until somebody removes the spool by hand.
    """

    def __init__(self, say: Callable[[str], None], *, strict: bool) -> None:
        self._say = say
        self.strict = strict
        self.stored: list[CheckpointDamaged] = []

    def note(self, what: str, damage: CheckpointError) -> None:
        """Name one, or raise it."""
        if self.strict:
            raise damage
        self._say(f"{what}: {damage}")


@dataclass
class Loading:
    """Brings checkpoints into one folder, all or nothing of each.

    Attributes
    ----------
    reader : Reader
        Of the store.
    target : str
        The folder.
    damages : Damages
        Gets what is damaged.
    kept : sequence of LeftSave
        What earlier attempts have stored and kept on this machine, newest first.
    from_disk : bool
        Whether what was loaded came from this machine.
    """

    reader: Reader
    target: str
    damages: Damages
    kept: Sequence[LeftSave] = ()
    from_disk: bool = False

    def stored(self, record: CheckpointRecord, node: int | None = None) -> bool:
        """Load what the store has, of a group the part of one node; from this machine, where it was kept. Returns False where it is
        damaged.
        """
        # What was kept of a group save is a part of it, of one node.
        same = (one for one in self.kept if one.record.key == record.key)
        if any(self._kept(one) for one in same if not record.group or one.record.node_index == node):
            return True
        try:
            self.reader.load_record(record if node is None else record.part(node), self.target)
        except CheckpointDamaged as damage:
            self.damages.note(
                "A checkpoint is damaged" if record.group else "A checkpoint is damaged, an older one is tried", damage
            )
            self.damages.stored.append(damage)
            return False
        return True

    def left(self, saves: Iterable[LeftSave], way: RestoreWay) -> CheckpointRecord | None:
        """Load the first that is whole of what waits for its upload, or was kept.

        Raises
        ------
        FileNotFoundError
            One of those that wait is gone from its spool.
        """
        for one in saves:
            if one in self.kept:
                if self._kept(one):
                    return one.record
                continue
            try:
                with self._partial() as folder:
                    restore_left(one, folder, way)
            except SpoolDamaged as damage:
                self.damages.note("A save that was left on this machine is damaged, an older one is tried", damage)
                continue
            return one.record
        return None

    def _kept(self, one: LeftSave) -> bool:
        try:
            with self._partial() as folder:
                restore_kept(one, folder)
        except (SpoolDamaged, FileNotFoundError):
            # No damage to the checkpoint, which the store has: the original was written to, or the room was needed.
            return False
        return True

    @contextmanager
    def _partial(self) -> Iterator[str]:
        partial = PartialFolder(self.target)
        try:
            partial.make()
            yield partial.path
            partial.hand_over()
            self.from_disk = True
        finally:
            partial.remove()
