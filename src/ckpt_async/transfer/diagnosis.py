"""What is wrong with a store, and what would mend it: a pure function of what a survey has found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ckpt_async.transfer.deletion import successor
from ckpt_async.transfer.survey import (
    DAMAGED,
    GOOD,
    Checkpoint,
    CheckpointFacts,
    GroupFacts,
    Pointer,
    Survey,
    checkpoint_of,
    data_key_in,
)
from ckpt_async.words import keys
from ckpt_async.words.groups import parse_group_leaf
from ckpt_async.words.names import readable_folder
from ckpt_async.words.records import CheckpointRecord, supersedes

__all__ = ["Finding", "Kind", "Protected", "diagnose"]


class Kind:
    """The kinds of findings."""

    INTERRUPTED_DELETION = "interrupted-deletion"
    NO_DATA = "no-data"
    DAMAGED = "damaged"
    RECORD_COPY = "record-copy"
    RECORD_UNREADABLE = "record-unreadable"
    ORPHAN = "orphan"
    UNFINISHED_GROUP = "unfinished-group"
    LATEST = "latest"
    ABANDONED_UPLOAD = "abandoned-upload"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes
    ----------
    kind : str
        One of `Kind`.
    on : str
        Where: the key of a checkpoint's data, of a pointer, of an object; the folder of a group.
    what : str
        What is wrong, a phrase.
    size_bytes : int
        Stored bytes that it is about.
    fix : str
        What mending it does, a phrase; empty where only a person can decide.
    upload_id : str
        Of an abandoned upload.
    pathspec : str
        Of the task of a checkpoint, where that is known.
    """

    kind: str
    on: str
    what: str
    size_bytes: int = 0
    fix: str = ""
    upload_id: str = ""
    pathspec: str = ""


@dataclass(frozen=True)
class Protected:
    """What is left alone, however old: saves that wait on this machine, and whatever belongs to tasks that live here.

    Attributes
    ----------
    keys : frozenset of str
        Data keys.
    tasks : frozenset of (str, str, str)
        Flow, step and hash of the pathspec.
    folders : frozenset of str
        The names that `ckpt_async.words.names.readable_folder` makes of pathspecs.
    """

    keys: frozenset[str] = field(default_factory=frozenset)
    tasks: frozenset[tuple[str, str, str]] = field(default_factory=frozenset)
    folders: frozenset[str] = field(default_factory=frozenset)

    def holds_task(self, pathspec: str) -> bool:
        """Return whether what belongs to a task is left alone."""
        return readable_folder(pathspec) in self.folders

    def holds(self, data_key: str) -> bool:
        """Return whether a checkpoint, or what may become one, is left alone."""
        parsed = keys.parse_data_key(data_key)
        return data_key in self.keys or (parsed.flow, parsed.step, parsed.pathspec_hash) in self.tasks


def diagnose(survey: Survey, *, now_unix_s: float, older_than_s: float, protected: Protected) -> tuple[Finding, ...]:
    """Return what is wrong with a store, and what would mend it.

    Parameters
    ----------
    now_unix_s : float
        Seconds since 1970.
    older_than_s : float
        What was stored later than so many seconds ago may be under way: it is not reported, or not mended. Likewise what is of
        unknown age.
    protected : Protected
        What is left alone.
    """
    diagnosis = _Diagnosis(survey, now_unix_s - older_than_s, protected)
    return tuple(diagnosis.run())


class _Diagnosis:
    def __init__(self, survey: Survey, before_unix_s: float, protected: Protected) -> None:
        self._survey = survey
        self._before_unix_s = before_unix_s
        self._protected = protected

    def run(self) -> Iterator[Finding]:
        for checkpoint, facts in sorted(self._survey.checkpoints.items()):
            if facts.key and self._protected.holds(facts.key):
                continue
            yield from self._of_checkpoint(checkpoint, facts)
        for checkpoint, group in sorted(self._survey.groups.items()):
            if self._protected.holds_task(group.pathspec):
                continue
            yield from self._of_group(group, self._survey.checkpoints.get(checkpoint))
        yield from self._of_pointers()
        yield from self._of_uploads()

    def _is_old(self, unix_s: float | None) -> bool:
        return unix_s is not None and unix_s <= self._before_unix_s

    # Checkpoints

    def _of_checkpoint(self, checkpoint: Checkpoint, facts: CheckpointFacts) -> Iterator[Finding]:
        if facts.mark.objects:
            if self._is_old(facts.mark.newest_unix_s):
                what = "its deletion was interrupted"
                yield Finding(Kind.INTERRUPTED_DELETION, facts.key, what, facts.data.size_bytes, "finish the deletion")
        elif facts.read is not None:
            yield from self._of_recorded(facts, facts.read)
        elif DAMAGED in (facts.by_key, facts.by_task):
            what = "its record can't be read, nor is there a good copy"
            yield Finding(Kind.RECORD_UNREADABLE, facts.key or facts.pathspec, what, facts.data.size_bytes)
        elif not facts.record.objects and not facts.task_record.objects and checkpoint not in self._survey.groups:
            yield from self._of_orphan(facts)

    def _of_recorded(self, facts: CheckpointFacts, record: CheckpointRecord) -> Iterator[Finding]:
        newest = max(facts.record.newest_unix_s or 0.0, facts.task_record.newest_unix_s or 0.0) or None
        if not facts.data.objects and record.size_bytes > 0:
            fix = "delete what is left of it" if self._is_old(newest) else ""
            yield Finding(Kind.NO_DATA, record.key, "it is listed, and its data are not there", 0, fix, pathspec=record.pathspec)
            return
        for place, state in (("by its key", facts.by_key), ("in its task's list", facts.by_task)):
            if state != GOOD:
                fix = "write it again from the other one" if self._is_old(newest) else ""
                yield Finding(Kind.RECORD_COPY, record.key, f"its record {place} is {state}", 0, fix, pathspec=record.pathspec)
        if facts.problems:
            more = f", and {len(facts.problems) - 1} more" if len(facts.problems) > 1 else ""
            yield Finding(Kind.DAMAGED, record.key, f"{facts.problems[0]}{more}", facts.data.size_bytes)

    def _of_orphan(self, facts: CheckpointFacts) -> Iterator[Finding]:
        times = [one.newest_unix_s for one in (facts.data, facts.manifest) if one.objects]
        if not times or any(time is None or not self._is_old(time) for time in times):
            return
        if facts.data.objects:
            what = f"data of no checkpoint, {facts.data.objects:,} objects"
        else:
            what = "a manifest of no checkpoint"
        size_bytes = facts.data.size_bytes + facts.manifest.size_bytes
        yield Finding(Kind.ORPHAN, facts.key, what, size_bytes, "delete it")

    # Groups

    def _of_group(self, group: GroupFacts, facts: CheckpointFacts | None) -> Iterator[Finding]:
        if facts is not None and (facts.read is not None or facts.mark.objects):
            return  # It is whole, or being deleted.
        parts = [name for name in group.names if name.endswith(".json")]
        if not parts:
            # A verdict alone stays for ever. Beside one, data are of a node that came too late and died.
            if facts is not None:
                yield from self._of_orphan(facts)
            return
        if parse_group_leaf(group.leaf) is None:
            return
        newest = max(group.stored.newest_unix_s or 0.0, (facts.data.newest_unix_s or 0.0) if facts is not None else 0.0) or None
        if not self._is_old(newest) or (facts is not None and facts.key and self._protected.holds(facts.key)):
            return
        size_bytes = facts.data.size_bytes if facts is not None else 0
        what = f"a group save that never became whole, {len(parts)} of its parts"
        fix = "make it visible if all parts are there and nobody has given it up; else delete it"
        yield Finding(Kind.UNFINISHED_GROUP, group.folder, what, size_bytes, fix)

    # Pointers

    def _of_pointers(self) -> Iterator[Finding]:
        by_pointer: dict[str, list[CheckpointFacts]] = defaultdict(list)
        for facts in self._survey.checkpoints.values():
            if facts.read is not None and not facts.mark.objects:
                by_pointer[keys.task_latest_key(facts.read.pathspec)].append(facts)
                by_pointer[keys.scope_records_prefix_of(facts.read.key) + keys.LATEST].append(facts)
        for key in sorted({*by_pointer, *self._survey.pointers}):
            finding = self._of_pointer(key, self._survey.pointers.get(key), by_pointer.get(key, ()))
            if finding is not None:
                yield finding

    def _of_pointer(self, key: str, pointer: Pointer | None, of_task: Sequence[CheckpointFacts]) -> Finding | None:
        expected = successor((facts.read for facts in of_task if facts.read is not None), set())
        fix = "let it name the newest that remains" if expected is not None else "delete it"
        if pointer is not None and pointer.state == DAMAGED:
            return Finding(Kind.LATEST, key, "the pointer can't be read", 0, fix)
        named = pointer.names if pointer is not None else None
        if named is not None:
            if not any(facts.read is not None and facts.read.key == named.key for facts in of_task):
                return self._dangling(key, named, fix)
            if expected is None or not supersedes(expected, named):
                return None
        elif expected is None:
            return None
        facts = next(facts for facts in of_task if facts.read is expected)
        # Records come before pointers: one of just now is on its way.
        times = [one.newest_unix_s for one in (facts.record, facts.task_record) if one.objects]
        if not all(time is not None and self._is_old(time) for time in times) or self._protected.holds(expected.key):
            return None
        what = "there is no pointer" if named is None else f"the pointer names an older one, {_leaf(named)}"
        return Finding(Kind.LATEST, key, what, 0, fix)

    def _dangling(self, key: str, named: CheckpointRecord, fix: str) -> Finding | None:
        facts = self._survey.checkpoints.get(checkpoint_of(named.key))
        if facts is not None and (facts.mark.objects or facts.record.objects or facts.task_record.objects):
            return None  # A deletion that was interrupted mends it too; a record that can't be read is told by itself.
        return Finding(Kind.LATEST, key, f"the pointer names what is not there, {_leaf(named)}", 0, fix)

    # Uploads

    def _of_uploads(self) -> Iterator[Finding]:
        for upload in sorted(self._survey.uploads or (), key=lambda one: (one.key, one.since_unix_s)):
            data_key = data_key_in(upload.key, keys.ALL_DATA) if upload.key.startswith(keys.ALL_DATA) else ""
            if data_key and self._is_old(upload.since_unix_s) and not self._protected.holds(data_key):
                what = f"an upload in parts that nobody goes on with; {self._survey.unfinished}"
                yield Finding(Kind.ABANDONED_UPLOAD, upload.key, what, 0, "end it", upload.upload_id)


def _leaf(record: CheckpointRecord) -> str:
    return record.key.rpartition("/")[2]
