"""What the card tells, as values: chosen and computed from the saves of an attempt. Knows nothing of how it looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckpt_async import Comparison, Pending, Stats, Status, compare_with_waiting

from .card_series import Backlog, Span, Timeline, backlog, timeline

if TYPE_CHECKING:
    from ckpt_async import AdoptedSave, CheckpointError, CheckpointRecord, CheckpointReference, SaveState, Wait

__all__ = [
    "Ancestor",
    "CardModel",
    "Facts",
    "Origin",
    "Row",
    "Trouble",
    "make_model",
]

#: How many saves the table shows: the newest ones, and of older ones those that wait or have failed.
MAX_ROWS = 60

#: How many of the older ones, at most.
MAX_OLDER_ROWS = 20

#: How many different failures are told of, at most.
MAX_TROUBLES = 5

#: What can be done about a save that the store has refused.
KEPT = "What was saved stays on this machine's disk: mend the cause, and the next flush() or attempt stores it."

#: Of an upload under way, from which on its speed is told.
LEAST_SHARE = 0.01

#: States that somebody waits for, or should look at.
_OPEN = (Status.QUEUED, Status.UPLOADING, Status.FAILED)


@dataclass(frozen=True)
class Ancestor:
    """One checkpoint of the chain that led to the one that was loaded."""

    name: str
    pathspec: str
    attempt: int


@dataclass(frozen=True)
class Origin:
    """What the attempt began with.

    Attributes
    ----------
    record : CheckpointRecord or None
        The checkpoint that was loaded.
    load_policy : str
        Of the decorator.
    from_disk : bool
        Whether it came from this machine's disk, not from the datastore.
    ancestors : tuple of Ancestor
        What the task that had saved it began from, and so on.
    unknown : str
        Why no more of them are known; empty where the first of them began from nothing.
    """

    record: CheckpointRecord | None
    load_policy: str
    from_disk: bool = False
    ancestors: tuple[Ancestor, ...] = ()
    unknown: str = ""


@dataclass(frozen=True)
class Facts:
    """All that the card is made of, as it is at one moment.

    Attributes
    ----------
    pathspec, attempt
        Of the task.
    now_unix_s, began_unix_s : float
        The moment, and when the step began.
    step_ended_unix_s : float
        When the step's code ended; 0 as long as it runs.
    ended, failed : bool
        Whether the attempt is over, so that no more news will come, and whether it has failed.
    origin : Origin
        What it began with.
    references : sequence of CheckpointReference
        Its saves, in order.
    adopted : sequence of AdoptedSave
        What earlier attempts left and this one uploads.
    adopting : sequence of str
        The spools of earlier attempts that are being emptied.
    left_errors : mapping of str to CheckpointError
        Why something left can't be stored, by words for whose it is.
    stats, pending
        Of the engine.
    waits : sequence of Wait
        When the training waited outside of ``save()``.
    trouble : CheckpointError or None
        What is being retried.
    """

    pathspec: str
    attempt: int
    now_unix_s: float
    began_unix_s: float
    origin: Origin
    references: Sequence[CheckpointReference] = ()
    adopted: Sequence[AdoptedSave] = ()
    adopting: Sequence[str] = ()
    left_errors: Mapping[str, CheckpointError] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)
    pending: Pending = field(default_factory=lambda: Pending(0, 0))
    waits: Sequence[Wait] = ()
    trouble: CheckpointError | None = None
    step_ended_unix_s: float = 0.0
    ended: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Row:
    """One save in the table.

    Attributes
    ----------
    name, number, attempt
        Of the save.
    created_on : str
        When it was saved: ISO, local time; empty where that is not known here.
    status : str
        Of `ckpt_async.Status`, or one that later versions add.
    size_bytes : int
        Of the files.
    methods : tuple of (str, int)
        In which way how many of them were taken.
    blocked_s : float or None
        How long ``save()`` took; None where another process has called it.
    upload_s, bytes_per_s : float or None
        How long the upload has taken, and how many bytes went over the line in a second of it; None where there is none.
    share : float
        Of the upload that is done, from 0 to 1.
    copied_bytes : int
        What was not sent.
    reason : str
        Why it is not stored; empty where it is, or may yet be.
    """

    name: str
    number: int
    attempt: int
    created_on: str
    status: str
    size_bytes: int
    methods: tuple[tuple[str, int], ...]
    blocked_s: float | None
    upload_s: float | None
    bytes_per_s: float | None
    share: float
    copied_bytes: int
    reason: str


@dataclass(frozen=True)
class Trouble:
    """What is wrong, and what can be done. `being_retried`: it may pass by itself."""

    what: str
    cause: str
    hint: str
    being_retried: bool = False


@dataclass(frozen=True)
class CardModel:
    """What the card tells.

    Attributes
    ----------
    pathspec, attempt, ended, failed, storing
        Of the attempt; whether it is over, and how; whether the step has ended and the last saves are being stored.
    origin : Origin
        What it began with.
    comparison : Comparison
        What the checkpoints cost, beside what waiting would.
    stats, pending
        Of the engine.
    oldest_s : float
        How long ago the oldest save was called that is not in the datastore; 0 where none is.
    longest_s : float
        How long the longest ``save()`` took.
    called : int
        How many saves a ``save()`` was called for and has returned; those of watch mode hold up nothing.
    adopting : tuple of str
        What earlier attempts left is still being stored, where this is not empty.
    current : Row or None
        What is being uploaded.
    rows, more
        Of the table, newest first; how many saves it does not show.
    troubles : tuple of Trouble
        What went wrong.
    timeline, backlog
        The series of the charts.
    """

    pathspec: str
    attempt: int
    ended: bool
    failed: bool
    storing: bool
    origin: Origin
    comparison: Comparison
    stats: Stats
    pending: Pending
    oldest_s: float
    longest_s: float
    called: int
    adopting: tuple[str, ...]
    current: Row | None
    rows: tuple[Row, ...]
    more: int
    troubles: tuple[Trouble, ...]
    timeline: Timeline
    backlog: Backlog


def make_model(facts: Facts) -> CardModel:
    """Compute what the card tells. It takes some 10 µs for each save."""
    states = [reference.state for reference in facts.references]
    now_s = facts.now_unix_s
    series = backlog(states, facts.began_unix_s, now_s)
    rows = _choose(facts)
    adopted_now = (one for one in facts.adopted if one.state.status == Status.UPLOADING)
    uploading_now = (one for one in reversed(facts.references) if one.status == Status.UPLOADING)
    current = next(uploading_now, None) if not facts.ended else None
    current_adopted = next(adopted_now, None) if not facts.ended and current is None else None
    return CardModel(
        facts.pathspec,
        facts.attempt,
        facts.ended,
        facts.failed,
        facts.step_ended_unix_s > 0 and not facts.ended,
        facts.origin,
        compare_with_waiting(facts.stats),
        facts.stats,
        facts.pending,
        series.oldest_s,
        max((state.blocked_s for state in states), default=0.0),
        sum(state.blocked_s > 0 for state in states),
        tuple(facts.adopting),
        _row_of(current, now_s) if current else _row_of_adopted(current_adopted, now_s) if current_adopted else None,
        rows,
        len(facts.references) + len(facts.adopted) - len(rows),
        _troubles(facts),
        timeline(
            [Span(state.saved_unix_s, state.saved_unix_s + state.blocked_s) for state in states if state.blocked_s]
            + [Span(wait.unix_s, wait.unix_s + wait.seconds) for wait in facts.waits],
            [span for state in _all_states(facts) if (span := _upload_span(state, now_s)) is not None],
            facts.began_unix_s,
            facts.step_ended_unix_s or now_s,
            now_s,
        ),
        series,
    )


def _all_states(facts: Facts) -> Iterable[SaveState]:
    yield from (reference.state for reference in facts.references)
    yield from (one.state for one in facts.adopted)


def _upload_span(state: SaveState, now_s: float) -> Span | None:
    if not state.started_unix_s:
        return None
    if state.status == Status.UPLOADING:
        return Span(state.started_unix_s, now_s)
    # Of one that was taken up several times, the whole of the last time.
    return Span(min(state.started_unix_s, state.ended_unix_s - state.upload_s), state.ended_unix_s) if state.ended_unix_s else None


def _choose(facts: Facts) -> tuple[Row, ...]:
    """Choose the rows, newest first; what earlier attempts left comes last."""
    now_s, references = facts.now_unix_s, facts.references
    older = [one for one in references[:-MAX_ROWS] if one.status in _OPEN][-MAX_OLDER_ROWS:]
    own = [_row_of(one, now_s) for one in reversed([*older, *references[-MAX_ROWS:]])]
    left = [one for one in facts.adopted if one.state.status in _OPEN] + [
        one for one in facts.adopted if one.state.status not in _OPEN
    ]
    return tuple(own + [_row_of_adopted(one, now_s) for one in left[:MAX_OLDER_ROWS]])


def _row_of(reference: CheckpointReference, now_s: float) -> Row:
    record, state = reference.record, reference.state
    # Whether save() has returned is known when its time is.
    blocked_s = state.blocked_s or None
    return _make_row((record.name, record.version_id, record.attempt, record.created_on), state, blocked_s, now_s)


def _row_of_adopted(adopted: AdoptedSave, now_s: float) -> Row:
    return _make_row((adopted.name, adopted.version, adopted.attempt, ""), adopted.state, None, now_s)


def _make_row(what: tuple[str, int, int, str], state: SaveState, blocked_s: float | None, now_s: float) -> Row:
    name, number, attempt, created_on = what
    upload_s = bytes_per_s = None
    moved_bytes = state.done_bytes
    if state.status == Status.UPLOADING:
        upload_s = max(0.0, now_s - state.started_unix_s)
    elif state.stored and state.upload_s:
        upload_s, moved_bytes = state.upload_s, state.sent_bytes
    share = 1.0 if state.stored else min(1.0, state.done_bytes / state.total_bytes) if state.total_bytes else 0.0
    # The first bytes of an upload are those of small files, and tell nothing of its speed.
    if upload_s and moved_bytes and share >= LEAST_SHARE:
        bytes_per_s = moved_bytes / upload_s
    return Row(
        name,
        number,
        attempt,
        created_on,
        state.status,
        state.size_bytes,
        tuple(sorted(state.methods.items())),
        blocked_s,
        upload_s,
        bytes_per_s,
        share,
        state.copied_bytes,
        "" if state.stored else state.reason or (_cause(state.error) if state.error else state.given_up),
    )


def _cause(error: CheckpointError) -> str:
    return error.cause or str(error)


def _troubles(facts: Facts) -> tuple[Trouble, ...]:
    """Return what went wrong, the same of several saves once."""
    found: list[Trouble] = []
    if facts.trouble is not None and not facts.ended:
        found.append(Trouble("The datastore makes trouble", _cause(facts.trouble), facts.trouble.hint, being_retried=True))
    same: dict[tuple[str, str], list[int]] = {}
    given_up: list[int] = []
    for reference in facts.references:
        state = reference.state
        if state.status == Status.FAILED and state.error is not None:
            hint = state.error.hint if state.lost else f"{state.error.hint} {KEPT}".strip()
            same.setdefault((_cause(state.error), hint), []).append(reference.record.version_id)
        elif state.given_up and not state.settled:
            given_up.append(reference.record.version_id)
    found += [Trouble(f"{_numbered(numbers)} failed", cause, hint) for (cause, hint), numbers in same.items()]
    if given_up:
        reason = next(one.state.given_up for one in reversed(facts.references) if one.state.given_up and not one.state.settled)
        found.append(Trouble(f"{_numbered(given_up)} not stored yet", reason, ""))
    found += [
        Trouble(f"What {whose} left could not be stored", _cause(error), error.hint) for whose, error in facts.left_errors.items()
    ]
    return tuple(found[:MAX_TROUBLES])


def _numbered(numbers: Sequence[int]) -> str:
    return f"Save {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} saves ({numbers[0]} to {numbers[-1]})"
