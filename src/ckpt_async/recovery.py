"""What a new attempt goes on from: the newest of what the store has and of what a dead attempt left on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from ckpt_async.disk.restore import RestoreWay
from ckpt_async.reader import Reader
from ckpt_async.spool.neighbours import LeftSave, left_saves
from ckpt_async.spool.restoring import kept_saves, restore_kept, restore_left
from ckpt_async.transfer.partial import PartialFolder
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointError, InvalidArgument, SpoolDamaged, StoreError, StoreUnavailable
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord

__all__ = ["POLICIES", "resume"]

POLICIES = ("fresh", "eager")

#: How often the spools are looked at again because a worker emptied them meanwhile.
LOOKS = 5


def resume(
    policy: str,
    *,
    identity: TaskIdentity,
    spool_folder: str,
    reader: Reader,
    target: str,
    say: Callable[[str], None],
    way: RestoreWay = RestoreWay.COPY,
    strict: bool = False,
) -> CheckpointRecord | None:
    """Load the newest checkpoint that the policy allows into the empty folder `target`.

    ``"fresh"``: of this task, where this is not its first attempt. ``"eager"``: of this task, else of its scope. A checkpoint
    that turns out damaged is named, and the next older one is taken.

    Parameters
    ----------
    way : RestoreWay
        How files of a save that waits for its upload are brought back.
    strict : bool
        Whether the first damage is raised, instead of taking an older checkpoint.

    Returns
    -------
    CheckpointRecord or None
        What was loaded; None where there is nothing.

    Raises
    ------
    CheckpointDamaged
        There are checkpoints, and none of them can be loaded: training from zero must be the user's decision. With `strict`: the
        newest can't.
    SpoolDamaged, SnapshotFailed
        Likewise, of what lies on this machine.
    """
    if policy not in POLICIES:
        raise InvalidArgument("resume from a checkpoint", on=f"policy={policy!r}", cause=f"allowed are {', '.join(POLICIES)}")
    load = _Load(reader, target, Damages(say, strict=strict), way)
    for _ in range(LOOKS):
        left, unreadable = left_saves(spool_folder)
        for damage in unreadable:
            load.damages.note("A save of an earlier attempt can't be read and is passed by", damage)
        left = [one for one in left if one.entry.record.latest]
        if policy == "fresh" and identity.attempt == 0 and not left:
            return None
        load.kept = kept_saves(spool_folder)
        stored = chain(_of_task(identity, reader, load.damages), _of_scope(policy, identity, reader, load.damages))
        try:
            return _load_newest(stored, left, load, say)
        except FileNotFoundError:
            # A worker that is still alive has stored it and removed it from the spool: it is in the store now. Look again.
            continue
    raise StoreUnavailable(
        "resume from a checkpoint",
        on=spool_folder,
        cause=f"what lies there changed {LOOKS} times while it was read",
        hint="Start again.",
    )


class Damages:
    """What turned out damaged: named, and passed by; or raised, where nothing else may be taken instead."""

    def __init__(self, say: Callable[[str], None], *, strict: bool) -> None:
        self._say = say
        self.strict = strict
        self.of_checkpoints: list[CheckpointError] = []

    def note(self, what: str, damage: CheckpointError, *, of_checkpoint: bool = False) -> None:
        """Name one; raises it where that is wanted."""
        if self.strict:
            raise damage
        self._say(f"{what}: {damage}")
        if of_checkpoint:
            self.of_checkpoints.append(damage)


@dataclass
class _Load:
    """The ways in which one checkpoint is brought into the target."""

    reader: Reader
    target: str
    damages: Damages
    way: RestoreWay
    kept: Sequence[LeftSave] = ()

    def of_store(self, record: CheckpointRecord) -> bool:
        """Load what the store has; from this machine, where it was kept. Returns False where it is damaged."""
        kept = next((one for one in self.kept if one.entry.record.key == record.key), None)
        if kept is not None and self.of_kept(kept):
            return True
        try:
            self.reader.load_record(record, self.target)
        except CheckpointDamaged as damage:
            self.damages.note("A checkpoint is damaged, an older one is tried", damage, of_checkpoint=True)
            return False
        return True

    def of_kept(self, kept: LeftSave) -> bool:
        """Take what was kept; returns False where it is not what it was any more."""
        try:
            with self._partial() as folder:
                restore_kept(kept, folder)
        except (SpoolDamaged, FileNotFoundError):
            return False  # No damage to the checkpoint, which the store has: somebody has written to the file, or needed the room.
        return True

    def of_spool(self, left: Sequence[LeftSave]) -> CheckpointRecord | None:
        """Load the newest that is whole of what waits for its upload.

        Raises
        ------
        FileNotFoundError
            One of them is gone from the spool.
        """
        for one in left:
            try:
                with self._partial() as folder:
                    restore_left(one, folder, self.way)
            except SpoolDamaged as damage:
                self.damages.note("A save of an earlier attempt is damaged, an older one is tried", damage, of_checkpoint=True)
                continue
            return one.entry.record
        return None

    @contextmanager
    def _partial(self) -> Iterator[str]:
        partial = PartialFolder(self.target)
        try:
            partial.make()
            yield partial.path
            partial.hand_over()
        finally:
            partial.remove()


def _load_newest(
    stored: Iterator[CheckpointRecord], left: list[LeftSave], load: _Load, say: Callable[[str], None]
) -> CheckpointRecord | None:
    """Try what the store has and what the spools hold, newest first, until one is good."""
    try:
        for record in stored:
            newer = [one for one in left if _is_newer(one, record)]
            left = left[len(newer) :]
            if (restored := load.of_spool(newer)) is not None:
                return restored
            if load.of_store(record):
                return record
    except StoreError as trouble:
        # Nothing that was saved is lost while the machine stays up, whatever the store does or refuses.
        restored = load.of_spool(left) or next((kept.entry.record for kept in load.kept if load.of_kept(kept)), None)
        if restored is None:
            raise
        say(f"The store can't be read; what lies on this machine is the newest that is known: {trouble}")
        return restored
    restored = load.of_spool(left)
    if restored is None and load.damages.of_checkpoints:
        raise load.damages.of_checkpoints[0]
    return restored


def _is_newer(one: LeftSave, record: CheckpointRecord) -> bool:
    """A left save is of this task: newer than any checkpoint of another run, and ordered among its own."""
    own = one.entry.record
    return own.pathspec != record.pathspec or own.order > record.order


def _of_task(identity: TaskIdentity, reader: Reader, damages: Damages) -> Iterator[CheckpointRecord]:
    """Yield the task's checkpoints that may be resumed from, newest first; the list is read only where the first is not good."""
    first = None
    try:
        first = reader.latest(identity.pathspec)
        if first is not None:
            yield first
        elif identity.attempt == 0:
            return
        # A retry looks at the list: the machine may have been lost between a record and the pointer to it.
    except CheckpointDamaged as damage:
        damages.note("The pointer to the task's latest checkpoint is damaged, the list is searched", damage)
    for record in reader.list(identity.pathspec, strict=damages.strict):
        if record.latest and (first is None or record.order < first.order):
            yield record


def _of_scope(policy: str, identity: TaskIdentity, reader: Reader, damages: Damages) -> Iterator[CheckpointRecord]:
    if policy != "eager":
        return
    first = None
    try:
        first = reader.latest_at(keys.scope_latest_key(identity))
        if first is None:
            return
        yield first
    except CheckpointDamaged as damage:
        damages.note("The pointer to the scope's latest checkpoint is damaged, the list is searched", damage)
    for record in reader.list_scope(keys.scope_records_prefix(identity), strict=damages.strict):
        if record.latest and (first is None or record.key != first.key):
            yield record
