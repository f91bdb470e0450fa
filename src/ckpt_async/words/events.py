"""What a worker tells and what it is told: frozen values, one JSON object each on the wire."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Union, get_args

__all__ = [
    "Adopt",
    "AdoptionEnded",
    "CheckpointPruned",
    "Close",
    "Command",
    "EntryCommitted",
    "EntryDropped",
    "EntryDurable",
    "EntryFailed",
    "EntryProgress",
    "EntrySaved",
    "EntryStarted",
    "Event",
    "LinksGuarded",
    "Notice",
    "Press",
    "Retry",
    "SaveReturned",
    "Trouble",
    "Wake",
    "WorkerReady",
    "decode_command",
    "decode_event",
    "encode",
]


@dataclass(frozen=True)
class WorkerReady:
    """The worker owns the spool and takes entries.

    Attributes
    ----------
    pid : int
        Of the process that it lives in.
    adopting : tuple of str
        The earlier attempts whose spools it has found: an `AdoptionEnded` follows for each of them.
    """

    pid: int
    adopting: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # JSON makes a list of it.
        object.__setattr__(self, "adopting", tuple(self.adopting))


@dataclass(frozen=True)
class EntrySaved:
    """A save has entered the spool. Told by the task itself, to its own listeners."""

    entry: str
    size_bytes: int


@dataclass(frozen=True)
class SaveReturned:
    """A ``save()`` is about to return. Told by the task itself, to its own listeners, after `EntrySaved`.

    Attributes
    ----------
    blocked_s : float
        Seconds that it took: the snapshot, waiting for room, and, without ``async_upload``, the upload.
    """

    entry: str
    blocked_s: float


@dataclass(frozen=True)
class EntryDropped:
    """A save was given up for a later one, because the spool was full. Told by the task itself, to its own listeners."""

    entry: str
    reason: str


@dataclass(frozen=True)
class EntryDurable:
    """The entry is on the disk itself and survives a crash of the machine. `error`, in the wire form: that could not be done."""

    entry: str
    error: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EntryStarted:
    """The upload of an entry began (or was taken up again).

    Attributes
    ----------
    total_bytes : int
        Of the upload.
    name, attempt, version
        Of the save: for who has not made it, as of what an earlier attempt left.
    unix_s : float
        When, in seconds since 1970; 0 where that is not known.
    """

    entry: str
    total_bytes: int
    name: str = ""
    attempt: int = 0
    version: int = 0
    unix_s: float = 0.0


@dataclass(frozen=True)
class EntryProgress:
    """Bytes of an entry that the store has so far; emitted at most a few times a second."""

    entry: str
    done_bytes: int


@dataclass(frozen=True)
class EntryCommitted:
    """The checkpoint is visible in the store, or a part of one is stored, and the entry has left the spool.

    Attributes
    ----------
    sent_bytes : int
        What went over the line for it; less than its size where an earlier worker had sent parts.
    seconds : float
        From the start of its upload by this worker.
    copied_bytes : int
        What the store copied from an earlier checkpoint, because it had not changed.
    visible : bool
        False of a part of a group save that waits for those of other nodes.
    unix_s : float
        When, in seconds since 1970; 0 where that is not known.
    """

    entry: str
    sent_bytes: int
    seconds: float
    copied_bytes: int = 0
    visible: bool = True
    unix_s: float = 0.0


@dataclass(frozen=True)
class CheckpointPruned:
    """A checkpoint is being deleted from the store by the rules that say what is kept. From now on it is not to be relied on.

    Attributes
    ----------
    key : str
        Of the checkpoint.
    rules : str
        That don't keep it, such as ``"keep_last=3"``.
    deleted : bool
        False: take that back. The store refuses the deletion, and all of the checkpoint is there.
    """

    key: str
    rules: str
    deleted: bool = True


@dataclass(frozen=True)
class EntryFailed:
    """The entry can't be stored as things are; it stays in the spool. `error` is in the wire form; `unix_s` says when."""

    entry: str
    error: dict[str, str]
    unix_s: float = 0.0


@dataclass(frozen=True)
class Trouble:
    """A transient failure is being retried. Emitted when it begins, then rarely; `failures` 0 says that it is over."""

    failures: int
    error: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LinksGuarded:
    """What lies as links in the spool of an earlier attempt is guarded, by this worker or by that attempt's own."""

    attempt: str


@dataclass(frozen=True)
class AdoptionEnded:
    """The spool of an earlier attempt, or of a child process, needs this worker no more.

    Attributes
    ----------
    attempt : str
        The name of its folder.
    left : int
        Saves that still lie in it: 0 where all are in the store.
    error : dict
        Why some are left, in the wire form.
    """

    attempt: str
    left: int
    error: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Notice:
    """Something that the user should know once: a sentence."""

    text: str


@dataclass(frozen=True)
class Wake:
    """A new entry may be in the spool."""


@dataclass(frozen=True)
class Retry:
    """Try the entries that failed once more."""


@dataclass(frozen=True)
class Adopt:
    """Upload what child processes left that have ended. An `AdoptionEnded` follows for each.

    Attributes
    ----------
    spools : tuple of str
        The names of their spools' folders.
    """

    spools: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "spools", tuple(self.spools))


@dataclass(frozen=True)
class Press:
    """A deadline presses: the newest entry first from now on."""


@dataclass(frozen=True)
class Close:
    """No more saves will come. End once the spool is empty, or after `deadline_s` seconds."""

    deadline_s: float


Event = Union[
    WorkerReady,
    EntrySaved,
    SaveReturned,
    EntryDropped,
    EntryDurable,
    EntryStarted,
    EntryProgress,
    EntryCommitted,
    EntryFailed,
    CheckpointPruned,
    Trouble,
    LinksGuarded,
    AdoptionEnded,
    Notice,
]
Command = Union[Wake, Retry, Adopt, Press, Close]

_EVENTS: dict[str, type] = {kind.__name__: kind for kind in get_args(Event)}
_COMMANDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Command)}


def encode(message: Event | Command) -> bytes:
    """Return the message as one line of JSON."""
    return json.dumps({"kind": type(message).__name__, **dataclasses.asdict(message)}).encode() + b"\n"


def decode_event(line: bytes) -> Event:
    """Read one line of a worker. Raises ValueError where it is none."""
    return _decode(line, _EVENTS)  # type: ignore[no-any-return]


def decode_command(line: bytes) -> Command:
    """Read one line for a worker. Raises ValueError where it is none."""
    return _decode(line, _COMMANDS)  # type: ignore[no-any-return]


def _decode(line: bytes, kinds: dict[str, type]) -> Any:
    try:
        data = json.loads(line)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str) or data["kind"] not in kinds:
        raise ValueError(f"not a message: {line[:80]!r}")
    kind = kinds[data.pop("kind")]
    try:
        return kind(**data)
    except TypeError as error:
        raise ValueError(str(error)) from error
