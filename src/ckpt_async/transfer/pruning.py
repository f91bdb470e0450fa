"""Deleting checkpoints by rules: which, is decided by `ckpt_async.words.retention`; here the store is asked and told.

Before anything of a task, name and node is deleted, one that is kept of it has been looked at and has all that it consists of. What
a call that was interrupted has left is found by the marks of its deletions, and finished by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

import anyio

from ckpt_async.stores.contract import Store
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.transfer.catalog import latest_keys_of
from ckpt_async.transfer.deletion import delete_unless_wanted, is_leaving, is_of_task, is_visible
from ckpt_async.transfer.pins import pinned_keys_of
from ckpt_async.transfer.shape import check_shape
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StoreObjectMissing
from ckpt_async.words.keep_rules import KeepRules
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.words.retention import RESUMED, Family, RetentionDecision, decide_retention, family_of

__all__ = ["PruneResult", "finish_deletions", "plan_prune", "prune", "prune_all"]

#: How many checkpoints are deleted at the same time by who waits for it.
DELETIONS_AT_ONCE = 8


@dataclass(frozen=True)
class PruneResult:
    """What was deleted.

    Attributes
    ----------
    deleted : tuple of CheckpointRecord
        By the decision, the oldest first.
    spared : tuple of CheckpointRecord
        What was to be deleted and was not: pinned meanwhile, or the latest by now, or nothing that is kept beside it verifies.
    finished : tuple of CheckpointRecord
        What an earlier deletion had left that was interrupted, and is deleted now.
    problems : tuple of str
        What does not verify of that which is kept, a sentence each.
    """

    deleted: tuple[CheckpointRecord, ...] = ()
    spared: tuple[CheckpointRecord, ...] = ()
    finished: tuple[CheckpointRecord, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass
class _Looks:
    """Which checkpoints were looked at: those that have all they consist of, those that don't, and what these lack. What somebody
    else is deleting in this moment lacks nothing.
    """

    whole: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    async def is_whole(self, store: Store, record: CheckpointRecord) -> bool:
        if record.key not in self.whole and record.key not in self.damaged:
            found = await check_shape(store, record)
            if found:
                self.damaged.add(record.key)
                if not await is_leaving(store, record):
                    self.problems.append(f"{record.key}: {'; '.join(found[:3])}{'; …' if len(found) > 3 else ''}")
            else:
                self.whole.add(record.key)
        return record.key in self.whole

    async def families_without(self, store: Store, decision: RetentionDecision) -> set[Family]:
        """Return the families something of which is to be deleted, and nothing that is kept is whole."""
        open_ones = {family_of(record) for record in decision.doomed}
        for record in sorted(decision.kept, key=lambda record: record.order, reverse=True):
            if family_of(record) in open_ones and await self.is_whole(store, record):
                open_ones.discard(family_of(record))
        return open_ones

    async def look_at_resumed(self, store: Store, decision: RetentionDecision) -> None:
        """Look at what a retry begins with where something goes that it could begin with otherwise: what else is whole may be
        nothing to begin with.
        """
        nodes = {(record.pathspec, record.node_index) for record in decision.doomed if record.latest}
        for one in decision.judged:
            if RESUMED in one.reasons and (one.record.pathspec, one.record.node_index) in nodes:
                await self.is_whole(store, one.record)


async def plan_prune(
    store: Store, records: Iterable[CheckpointRecord], rules: KeepRules, *, trusted: Collection[str] = ()
) -> RetentionDecision:
    """Decide what is to be deleted of these checkpoints. Deletes nothing.

    A checkpoint that is kept, and turns out not to have all that it consists of, counts for no rule: then others are kept for it.

    Parameters
    ----------
    records : iterable of CheckpointRecord
        All that there are of a task, or those of some of its names and nodes.
    trusted : collection of str
        The keys of checkpoints that need not be looked at.

    Raises
    ------
    StoreError, CheckpointDamaged
        The store can't tell, or a `latest` pointer can't be read.
    """
    listed = tuple(records)
    latest, pinned = await latest_keys_of(store, listed), await pinned_keys_of(store, listed)
    begun: set[str] | None = None
    looks = _Looks(set(trusted))
    while True:
        known = len(looks.damaged)
        decision = decide_retention(
            listed,
            rules,
            latest_keys=latest,
            pinned_keys=pinned,
            begun_keys=begun or (),
            damaged_keys=frozenset(looks.damaged),
        )
        if begun is None and any(record.group for record in decision.doomed):
            from ckpt_async.transfer.group_catalog import begun_with  # only gangs have groups

            begun = await begun_with(store, listed)
            continue
        await looks.families_without(store, decision)
        await looks.look_at_resumed(store, decision)
        if len(looks.damaged) == known:
            return decision


async def prune(
    store: Store,
    decision: RetentionDecision,
    *,
    trusted: Collection[str] = (),
    at_once: int = 1,
    begin: Callable[[CheckpointRecord], None] = lambda _: None,
) -> PruneResult:
    """Delete what a decision dooms, the oldest first; what is pinned or the latest by now stays. May be repeated.

    Parameters
    ----------
    trusted : collection of str
        As in `plan_prune`.
    at_once : int
        How many checkpoints are deleted at the same time.
    begin : callable
        Called with each record before anything of its checkpoint goes.

    Raises
    ------
    StoreError, CheckpointDamaged
        Some of it may be deleted; another call deletes the rest.
    """
    looks = _Looks(set(trusted))
    without = await looks.families_without(store, decision)
    doomed = sorted(decision.doomed, key=lambda record: (record.saved_at_unix_ns, *record.order))
    deleted: set[str] = set()
    limiter = anyio.CapacityLimiter(at_once)

    async def delete(record: CheckpointRecord) -> None:
        async with limiter:
            if await delete_unless_wanted(store, record, begin):
                deleted.add(record.key)

    async with plain_task_group() as group:
        for record in doomed:
            if family_of(record) not in without:
                group.start_soon(delete, record)
    return PruneResult(
        tuple(record for record in doomed if record.key in deleted),
        tuple(record for record in doomed if record.key not in deleted),
        problems=tuple(looks.problems),
    )


async def prune_all(store: Store, decision: RetentionDecision) -> PruneResult:
    """Do what `prune` does for who waits for it, and finish the deletions of the same tasks that were interrupted."""
    prefixes: dict[str, dict[str, None]] = {}
    for one in decision.judged:
        prefixes.setdefault(one.record.pathspec, {})[keys.deletions_prefix_of(one.record.key)] = None
    finished = [record for pathspec, marks in prefixes.items() for record in await finish_deletions(store, marks, pathspec)]
    result = await prune(store, decision, at_once=DELETIONS_AT_ONCE)
    return replace(result, finished=tuple(finished))


async def finish_deletions(
    store: Store, prefixes: Iterable[str], pathspec: str, begin: Callable[[CheckpointRecord], None] = lambda _: None
) -> tuple[CheckpointRecord, ...]:
    """Finish the deletions of a task's checkpoints that were interrupted; returns what is deleted now.

    One of which nothing is gone yet is left as it is, to be judged anew: the rules may have been others, or those that were to stay
    instead of it.

    Parameters
    ----------
    prefixes : iterable of str
        Where marks are looked for, as `keys.deletions_prefix_of` gives them: one listing each.
    begin : callable
        As in `prune`.
    """
    finished = []
    for prefix in dict.fromkeys(prefixes):
        for info in await store.list(prefix):
            try:
                record = CheckpointRecord.from_json(await store.get(info.key), source=info.key)
            except (StoreObjectMissing, CheckpointDamaged):
                continue  # Another one has finished it; or the mark says nothing that could be relied on.
            mine = keys.deletion_key(record.key) == info.key and is_of_task(record, pathspec)
            if mine and not await is_visible(store, record) and await delete_unless_wanted(store, record, begin):
                finished.append(record)
    return tuple(finished)
