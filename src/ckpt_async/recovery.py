"""What a new attempt goes on from: the newest of what the store has and of what dead attempts left on this machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ckpt_async.disk.restore import RestoreWay
from ckpt_async.loading import Damages, Loading
from ckpt_async.reader import Reader
from ckpt_async.spool.kept import drop_all_kept
from ckpt_async.spool.loaded import note_loaded
from ckpt_async.spool.neighbours import LeftSave, is_last_of_attempt, left_in_scope, left_saves, older_attempts
from ckpt_async.spool.restoring import kept_saves
from ckpt_async.spool.spool import Spool
from ckpt_async.words import keys
from ckpt_async.words.errors import (
    CheckpointDamaged,
    CheckpointError,
    InvalidArgument,
    SnapshotFailed,
    SpoolDamaged,
    StoreError,
    StoreUnavailable,
)
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord, supersedes
from ckpt_async.worker.detached import bring_home

__all__ = ["POLICIES", "Resumed", "resume"]

POLICIES = ("fresh", "eager")

#: How often the spools are looked at again because a worker emptied them meanwhile, and the store's list because rules did.
LOOKS = 5


@dataclass(frozen=True)
class Resumed:
    """What an attempt goes on from.

    Attributes
    ----------
    record : CheckpointRecord
        The checkpoint.
    from_disk : bool
        Whether it came from this machine's disk, not from the store.
    """

    record: CheckpointRecord
    from_disk: bool


def resume(
    policy: str,
    *,
    identity: TaskIdentity,
    spool_folder: str,
    reader: Reader,
    store_url: str,
    target: str,
    say: Callable[[str], None],
    may_start: bool,
    guarded: bool,
    strict: bool = False,
    node_index: int = 0,
    num_nodes: int = 1,
) -> Resumed | None:
    """Load the newest checkpoint that the policy allows into the empty folder `target`.

    ``"fresh"``: of this task, where this is not its first attempt. ``"eager"``: of this task, else of its scope. All nodes of a
    gang go on from one group save, each from its own part, where there is one; else from what each has saved by itself; a node that
    has saved nothing, from the newest of any node. A checkpoint that turns out damaged is named, and the next older one is taken.
    What earlier attempts have kept besides is deleted then.

    Parameters
    ----------
    may_start : bool
        Whether processes may be started, for what dead tasks of the scope left on this machine.
    guarded : bool
        Whether somebody guards what lies as a link in the spools: then the files may be brought back as links, for what is restored
        may be overwritten at once.
    strict : bool
        Whether the first damage is raised, instead of an older checkpoint being taken.
    node_index, num_nodes : int
        Of the gang.

    Returns
    -------
    Resumed or None
        What was loaded; None where there is nothing.

    Raises
    ------
    CheckpointDamaged
        The store has checkpoints, and none of them can be loaded: training from zero must be the user's decision. With
        `strict`: the newest can't.
    SpoolDamaged
        With `strict`: likewise, of what lies on this machine.
    SnapshotFailed
        That too; and the disk refuses.
    """
    if policy not in POLICIES:
        raise InvalidArgument("resume from a checkpoint", on=f"policy={policy!r}", cause=f"allowed are {', '.join(POLICIES)}")
    way = RestoreWay.LINK if guarded else RestoreWay.COPY
    damages = Damages(say, strict=strict)
    from_disk = False
    with _disk_errors(target), reader.held_open() as held:
        for _ in range(LOOKS):
            left, unreadable = left_saves(spool_folder)
            others: list[LeftSave] = []
            for damage in unreadable:
                damages.note("A save of an earlier attempt can't be read and is passed by", damage)
            if policy == "eager":
                others, unreadable = left_in_scope(spool_folder, store_url, identity)
                for damage in unreadable:
                    damages.note("A save that another task left can't be read and is passed by", damage)
            if policy == "fresh" and identity.attempt == 0 and not _resumable(left):
                restored = None
                break
            kept = kept_saves(spool_folder)
            loading = Loading(held, target, damages, kept)
            # Of a gang first what the node has saved itself. Groups are agreed on, or not gone on from.
            kinds = (_saved_by(node_index), _saved_alone) if num_nodes > 1 else (_any,)
            sources = [_Source(_of_task(identity, held, damages, kind), _resumable(left), _resumable(kept), way) for kind in kinds]
            if policy == "eager":
                sources += [_Source(_of_scope(identity, held, damages, kind), _resumable(others)) for kind in kinds]
            group, passed_by = None, list[CheckpointDamaged]()
            if num_nodes > 1:
                group = held.agreed_group(identity, policy, passed_by.append)
            for damage in passed_by:
                damages.note("A group save is damaged and is passed by", damage)
            try:
                if group is not None:
                    # What this task has saved here comes before what another run has stored.
                    own = loading.left(sources[0].left, way) if group.pathspec != identity.pathspec else None
                    restored = own or _load_part(group, node_index, num_nodes, loading)
                else:
                    restored = _load_surely_newest(sources[0], identity, loading) or _load_newest(sources, loading, say)
                    if restored is None and passed_by:
                        raise passed_by[0]
            except FileNotFoundError:
                # A worker that is still alive has stored it and removed it from the spool: it is in the store now. Look again.
                continue
            from_disk = loading.from_disk
            if others:
                bring_home(others, may_start=may_start, say=say)
            break
        else:
            raise StoreUnavailable(
                "resume from a checkpoint",
                on=spool_folder,
                cause=f"what lies there changed {LOOKS} times while it was read",
                hint="Start again.",
            )
    with _disk_errors(target):
        for folder in older_attempts(spool_folder):
            drop_all_kept(Spool(folder))
    _tell_of_parts(left, restored, identity, say)
    if restored is None:
        return None
    note_loaded(Spool(spool_folder), restored, say)
    return Resumed(restored, from_disk)


@contextmanager
def _disk_errors(target: str) -> Iterator[None]:
    """Translate what the operating system says of the disks."""
    try:
        yield
    except CheckpointError:
        raise  # Some are OSErrors too.
    except OSError as error:
        raise SnapshotFailed(
            "resume from a checkpoint",
            on=error.filename or target,
            cause=error.strerror or str(error),
            hint="What was saved is kept. Mend the disk, or name another folder.",
        ) from error


def _resumable(left: Sequence[LeftSave]) -> list[LeftSave]:
    """Without parts of groups: whether those of the other nodes have been saved too is not known here."""
    return [one for one in left if one.record.latest and not one.record.group]


def _any(record: CheckpointRecord) -> bool:
    return True


def _saved_alone(record: CheckpointRecord) -> bool:
    return not record.group


def _saved_by(node_index: int) -> Callable[[CheckpointRecord], bool]:
    # A record that does not know of a gang does not know of which node it is.
    return lambda record: not record.group and record.num_nodes > 1 and record.node_index == node_index


def _tell_of_parts(
    left: Sequence[LeftSave], restored: CheckpointRecord | None, identity: TaskIdentity, say: Callable[[str], None]
) -> None:
    """Say which newer part of a group save lies here and is not gone on from."""
    part = next((one.record for one in left if one.record.group and one.record.latest), None)
    if part is None or (restored is not None and restored.pathspec == identity.pathspec and restored.order >= part.order):
        return
    say(
        f"The group save {part.key} is passed by: this node's part of it waits on this machine, and an attempt begins only with "
        "what all nodes have stored. It is uploaded now."
    )


def _load_part(group: CheckpointRecord, node_index: int, num_nodes: int, loading: Loading) -> CheckpointRecord:
    """Load the part of a node of the group that all nodes go on from. None of them can take an older one by itself."""
    if group.num_nodes != num_nodes:
        raise _of_another_size(group, num_nodes)
    if not loading.stored(group, node_index):
        loading.reader.mark_damaged(group)
        damage = loading.damages.stored[-1]
        raise CheckpointDamaged(
            damage.attempted,
            on=damage.on,
            cause=damage.cause,
            hint="The next attempt goes on from the group save before it, or else from what each node saved by itself.",
        ) from damage
    return group


def _of_another_size(group: CheckpointRecord, num_nodes: int) -> InvalidArgument:
    return InvalidArgument(
        "resume from a group save",
        on=group.key,
        cause=f"{group.num_nodes} nodes have saved it, and this gang has {num_nodes}",
        hint="Load it by hand: load_policy='none', and load(reference, path, node=...) or without node.",
    )


@dataclass(frozen=True)
class _Source:
    """What there is of one owner, the task or its scope: in the store, and in spools on this machine; each newest first."""

    stored: Iterator[CheckpointRecord]
    left: list[LeftSave]
    kept: Sequence[LeftSave] = ()
    way: RestoreWay = RestoreWay.COPY


def _load_surely_newest(of_task: _Source, identity: TaskIdentity, loading: Loading) -> CheckpointRecord | None:
    """Load the last save of the attempt before this one where it lies on this machine, whole: the store can have nothing newer, so
    that nobody waits for its answer.
    """
    newest = max((*of_task.left, *of_task.kept), key=lambda one: one.record.order, default=None)
    if newest is None or newest.record.attempt != identity.attempt - 1:
        return None
    try:
        if not is_last_of_attempt(newest):
            return None
    except (SpoolDamaged, FileNotFoundError):
        return None  # Then the store is asked, and what is damaged is named where it is read.
    if newest in of_task.left:
        of_task.left.remove(newest)
    return loading.left([newest], of_task.way)


def _load_newest(sources: list[_Source], loading: Loading, say: Callable[[str], None]) -> CheckpointRecord | None:
    """Try what the store has and what the spools hold, source by source, newest first, until one is good."""
    trouble: StoreError | None = None
    for source in sources:
        left = source.left
        try:
            for record in source.stored if trouble is None else ():
                newer = [one for one in left if supersedes(one.record, record)]
                left = [one for one in left if one not in newer]
                if (restored := loading.left(newer, source.way)) is not None:
                    return restored
                if record.group:  # Of a gang, groups are left out of the sources.
                    raise _of_another_size(record, 1)
                if loading.stored(record):
                    return record
        except StoreError as error:
            # Nothing that was saved is lost while the machine stays up, whatever the store does or refuses.
            trouble = error
            left = sorted([*left, *source.kept], key=lambda one: one.record.order, reverse=True)
        if (restored := loading.left(left, source.way)) is not None:
            if trouble is not None:
                say(f"The store can't be read; what lies on this machine is the newest that is known: {trouble}")
            return restored
    if trouble is not None:
        raise trouble
    if loading.damages.stored:
        raise loading.damages.stored[0]
    return None


def _of_task(
    identity: TaskIdentity, reader: Reader, damages: Damages, wanted: Callable[[CheckpointRecord], bool] = _any
) -> Iterator[CheckpointRecord]:
    """Yield the task's checkpoints that may be resumed from, newest first; the list is read only where the first is not good."""
    first = None
    try:
        first = reader.latest(identity.pathspec)
        if first is not None and wanted(first):
            yield first
        elif first is None and identity.attempt == 0:
            return
        # A retry looks at the list: the machine may have been lost between a record and the pointer to it.
    except CheckpointDamaged as damage:
        damages.note("The pointer to the task's latest checkpoint is damaged, the list is searched", damage)
    yield from _of_list(lambda: reader.list(identity.pathspec, strict=damages.strict), reader, first, wanted)


def _of_scope(
    identity: TaskIdentity, reader: Reader, damages: Damages, wanted: Callable[[CheckpointRecord], bool] = _any
) -> Iterator[CheckpointRecord]:
    """Yield likewise what any run of the scope has stored."""
    first = None
    try:
        first = reader.latest_at(keys.scope_latest_key(identity))
        if first is None:
            return
        if wanted(first):
            yield first
    except CheckpointDamaged as damage:
        damages.note("The pointer to the scope's latest checkpoint is damaged, the list is searched", damage)
    prefix = keys.scope_records_prefix(identity)
    yield from _of_list(lambda: reader.list_scope(prefix, strict=damages.strict), reader, first, wanted)


def _of_list(
    read: Callable[[], list[CheckpointRecord]],
    reader: Reader,
    first: CheckpointRecord | None,
    wanted: Callable[[CheckpointRecord], bool],
) -> Iterator[CheckpointRecord]:
    """Yield what a list has of those that may be resumed from, newest first, without `first`, which was tried.

    Where one that was tried is gone, the list is read anew: a newer one has taken its place, for rules may keep the last one alone.
    What they keep besides can be much older.
    """
    tried = {first.key} if first is not None else set()
    found = read()
    for look in itertools.count(1):
        following = next((one for one in found if one.latest and wanted(one) and one.key not in tried), None)
        if following is None:
            return
        tried.add(following.key)
        yield following
        if look < LOOKS and not reader.visible([following.key], timeout_s=math.inf):
            found = read()
