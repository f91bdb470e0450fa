"""What rules mean for a list of checkpoints: which are kept, and why. A pure function.

The checkpoints of one task (all of its attempts), one name and one node of a gang are judged by themselves: the last three "best"
say nothing of the last three "ema", and a node goes on from what it saved itself. What any rule keeps is kept; with none, all is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ckpt_async.words.groups import GROUP_STRIDE
from ckpt_async.words.keep_rules import KeepRules
from ckpt_async.words.records import CheckpointRecord

__all__ = ["Family", "JudgedCheckpoint", "RetentionDecision", "decide_retention", "family_of"]

#: Reasons that are no rule's.
LATEST = "latest"
RESUMED = "a retry begins with it"
PINNED = "pinned"
DAMAGED = "does not verify: left to you"
UNJUDGED = "no rule judges it"
ALONE = "the only one"


@dataclass(frozen=True)
class JudgedCheckpoint:
    """What becomes of a checkpoint.

    Attributes
    ----------
    record : CheckpointRecord
        Of it.
    reasons : tuple of str
        Why it is kept; none: it is deleted.
    """

    record: CheckpointRecord
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether it is kept."""
        return bool(self.reasons)


@dataclass(frozen=True)
class RetentionDecision:
    """What becomes of each checkpoint of a list.

    Attributes
    ----------
    rules : KeepRules
        By which it was decided.
    judged : tuple of JudgedCheckpoint
        In the order of the list that was given.
    notices : tuple of str
        What whoever set the rules should know.
    """

    rules: KeepRules
    judged: tuple[JudgedCheckpoint, ...]
    notices: tuple[str, ...] = ()

    def only(self, name: str) -> RetentionDecision:
        """Return what becomes of the checkpoints of one name."""
        return replace(self, judged=tuple(one for one in self.judged if one.record.name == name))

    @property
    def kept(self) -> tuple[CheckpointRecord, ...]:
        """What is kept."""
        return tuple(one.record for one in self.judged if one.kept)

    @property
    def doomed(self) -> tuple[CheckpointRecord, ...]:
        """What is to be deleted."""
        return tuple(one.record for one in self.judged if not one.kept)


#: Checkpoints that are judged together: those of one task, one name, one node.
Family = tuple[str, str, int]


def family_of(record: CheckpointRecord) -> Family:
    """Return which others a checkpoint is judged with."""
    return record.pathspec, record.name, record.node_index


@dataclass
class _Judging:
    """What was found so far, by the keys of the checkpoints."""

    reasons: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    judged: set[str] = field(default_factory=set)

    def keep(self, records: Iterable[CheckpointRecord], reason: str) -> None:
        for record in records:
            self.reasons[record.key].append(reason)


def decide_retention(
    records: Iterable[CheckpointRecord],
    rules: KeepRules,
    *,
    latest_keys: Collection[str] = (),
    pinned_keys: Collection[str] = (),
    begun_keys: Collection[str] = (),
    damaged_keys: Collection[str] = (),
) -> RetentionDecision:
    """Decide which checkpoints are kept, and why.

    Whatever the rules say, these are kept: what a `latest` pointer names; of each node of a task, the newest that a retry may begin
    with, and what one has decided to begin with; what is pinned; what does not verify, which counts for no rule either; and one of
    each task, name and node.

    Parameters
    ----------
    records : iterable of CheckpointRecord
        All checkpoints of a task, or of several. What can't be read is not among them, and is kept thereby.
    rules : KeepRules
        What is wanted.
    latest_keys, pinned_keys : collection of str
        The keys of the checkpoints that pointers name, and of those that are pinned.
    begun_keys : collection of str
        The keys of those that an attempt has decided to begin with, and may be loading.
    damaged_keys : collection of str
        The keys of those that are known not to verify.
    """
    listed = tuple(records)
    judging = _Judging()
    judging.keep((record for record in listed if record.key in latest_keys), LATEST)
    judging.keep((record for record in listed if record.key in pinned_keys), PINNED)
    judging.keep((record for record in listed if record.key in damaged_keys), DAMAGED)
    sound = sorted((record for record in listed if record.key not in damaged_keys), key=_order, reverse=True)
    resumed = {record.key for record in _resumed(sound)} | set(begun_keys)
    judging.keep((record for record in listed if record.key in resumed), RESUMED)
    families: dict[Family, list[CheckpointRecord]] = defaultdict(list)
    for record in sound:
        families[family_of(record)].append(record)
    notices: dict[str, None] = {}
    for family, members in families.items():
        for text in _judge(members, rules, judging):
            notices[f"{text} {family[1]!r}."] = None
    return RetentionDecision(
        rules, tuple(JudgedCheckpoint(record, tuple(judging.reasons.get(record.key, ()))) for record in listed), tuple(notices)
    )


def _order(record: CheckpointRecord) -> tuple[Any, ...]:
    return (*record.order, record.key)


def _resumed(newest_first: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
    """Return the newest checkpoint of each node of each task that a retry may begin with."""
    found: dict[tuple[str, int], CheckpointRecord] = {}
    for record in newest_first:
        if record.latest:
            found.setdefault((record.pathspec, record.node_index), record)
    return list(found.values())


def _judge(members: Sequence[CheckpointRecord], rules: KeepRules, judging: _Judging) -> list[str]:
    """Judge the checkpoints of one family, the newest first; returns the beginnings of sentences on rules that say nothing."""
    notices = []
    judged: set[str] = set()

    def apply(candidates: Sequence[CheckpointRecord], kept: Iterable[CheckpointRecord], reason: str) -> None:
        judged.update(record.key for record in candidates)
        judging.keep(kept, reason)

    if rules.last is not None:
        apply(members, members[: rules.last], f"last {rules.last}")
    for rule in rules.best:
        valued = [(value, *_order(record), record) for record in members if (value := rule.value_in(record)) is not None]
        # Of equal ones the older: what was kept stays so.
        best = [entry[-1] for entry in sorted(valued, key=lambda entry: entry[:-1])[: rule.count]]
        apply([entry[-1] for entry in valued], best, f"best {rule}")
        if not valued:
            notices.append(f"keep_best={rule} judges nothing: no metadata has a number {rule.metric!r} among the checkpoints named")
    if rules.every_saves is not None:
        step = rules.every_saves
        apply(members, [record for record in members if _ordinal(record) % step == 0], f"every {step}")
    if rules.every_s is not None:
        timed = [record for record in members if record.saved_at_unix_ns]
        apply(timed, _first_of_periods(timed, rules.every_s), f"every {rules.every_text}")
    judging.keep((record for record in members if record.key not in judged), UNJUDGED)
    if not any(judging.reasons.get(record.key) for record in members):
        judging.keep(members[:1], ALONE)
    return notices


def _ordinal(record: CheckpointRecord) -> int:
    """Return the how manieth save of its attempt a checkpoint is, from 0: nodes of a gang count in steps, and groups apart."""
    if record.group:
        return record.version_id // GROUP_STRIDE - 1
    if record.num_nodes > 1:
        return record.version_id % GROUP_STRIDE // record.num_nodes
    return record.version_id


def _first_of_periods(records: Sequence[CheckpointRecord], every_s: float) -> list[CheckpointRecord]:
    firsts: dict[int, CheckpointRecord] = {}
    by_time: Callable[[CheckpointRecord], Any] = lambda record: (record.saved_at_unix_ns, *_order(record))  # noqa: E731
    for record in sorted(records, key=by_time):
        firsts.setdefault(int(record.saved_at_unix_ns // (every_s * 1e9)), record)
    return list(firsts.values())
