"""When what lies in a watched folder is complete: pure decisions on what was seen of it, and when.

Times are of one clock that only goes forward, in seconds. The folder is saved as a whole, so it is the whole that has to be
complete.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Union

from ckpt_async.words.watch_rules import WatchRules

__all__ = [
    "Decision",
    "Ending",
    "FileSeen",
    "GiveUp",
    "History",
    "Idle",
    "Save",
    "State",
    "Wait",
    "after_event",
    "after_look",
    "after_save",
    "changed_tops",
    "decide",
    "unsaved",
]

_DIGITS = re.compile(r"\d+")


class FileSeen(NamedTuple):
    """What a look saw of a file; `mtime_ns` in nanoseconds since 1970."""

    inode: int
    size_bytes: int
    mtime_ns: int


#: The files below a folder by their relative paths; without what is temporary or ignored.
State = Mapping[str, FileSeen]


class Ending(Enum):
    """Whether the writing has come to an end, and how."""

    NOT_YET = "not yet"
    WELL = "well"
    FAILED = "failed"


@dataclass(frozen=True)
class History:
    """What is known of a folder.

    Attributes
    ----------
    saved : State
        What the newest checkpoint of it holds: saved, or loaded.
    seen : State
        What the last look saw.
    still_since_s : float
        Since when nothing has changed, as far as is known.
    waiting_since_s : float or None
        Since when there is something that is not saved; None: there is nothing.
    told : bool
        Whether events since the last look have told when the last change was.
    shapes : mapping of str to Counter
        What folders have held when they were saved, by their names, each run of digits being one ``#``: so many files of each name.
    """

    saved: State = field(default_factory=dict)
    seen: State = field(default_factory=dict)
    still_since_s: float = 0.0
    waiting_since_s: float | None = None
    told: bool = False
    shapes: Mapping[str, Counter[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Idle:
    """All is saved."""


@dataclass(frozen=True)
class Wait:
    """Look again at this time, unless something happens before; `why` is for people."""

    until_s: float
    why: str


@dataclass(frozen=True)
class Save:
    """It is complete. `lacking`: what was waited for in vain; else empty."""

    lacking: str = ""


@dataclass(frozen=True)
class GiveUp:
    """The writing has ended, and what lies there is not complete."""

    why: str


Decision = Union[Idle, Wait, Save, GiveUp]


def after_event(history: History, at_s: float) -> History:
    """Something that counts was changed."""
    since_s = at_s if history.waiting_since_s is None else history.waiting_since_s
    return dataclasses.replace(history, still_since_s=at_s, waiting_since_s=since_s, told=True)


def after_look(history: History, seen: State, at_s: float) -> History:
    """The folder was looked at. A change that no event has told of may have been made up to this moment."""
    still_since_s = history.still_since_s
    if seen != history.seen and not history.told:
        still_since_s = at_s
    history = dataclasses.replace(history, seen=seen, still_since_s=still_since_s, told=False)
    since_s = history.waiting_since_s
    return dataclasses.replace(history, waiting_since_s=(at_s if since_s is None else since_s) if unsaved(history) else None)


def after_save(history: History, saved: State, at_s: float) -> History:
    """A checkpoint holds this state."""
    changed = {path for path, file in saved.items() if history.saved.get(path) != file}
    tops = {_top(path) for path in changed}
    shapes = {_pattern(top): shape for top, shape in sorted(_shapes(saved).items()) if top in tops}
    history = dataclasses.replace(history, saved=saved, shapes={**history.shapes, **shapes})
    return dataclasses.replace(history, waiting_since_s=at_s if unsaved(history) else None)


def unsaved(history: History) -> list[str]:
    """Return the files that the newest checkpoint has not, or not so. What was deleted since is no progress, and makes none."""
    return [path for path, file in history.seen.items() if history.saved.get(path) != file]


def changed_tops(history: History) -> list[str]:
    """Return what is new or changed, by its first part: the names of folders and files in the watched folder."""
    return sorted({path.partition("/")[0] for path in unsaved(history)})


def decide(
    history: History,
    rules: WatchRules,
    now_s: float,
    *,
    written: Sequence[str] | None = (),
    newest_age_s: float | None = None,
    ending: Ending = Ending.NOT_YET,
    give_up_at_s: float = math.inf,
) -> Decision:
    """Decide what is to be done about what the last look saw.

    Parameters
    ----------
    written : sequence of str or None
        Those of the files that are not saved which some program has open for writing; None where nobody can tell.
    newest_age_s : float, optional
        How long ago the newest of the files that are not saved was written, by the clock of its filesystem.
    ending : Ending
        Whether anybody goes on writing.
    give_up_at_s : float
        Until when what may still be written is waited for, where the writing has ended well.
    """
    waiting = unsaved(history)
    if not waiting:
        return Idle()
    # A step that has failed has no say in when its writing would have been done.
    may_wait = ending is Ending.NOT_YET or (ending is Ending.WELL and now_s < give_up_at_s)
    if written:
        why = f"{written[0]} is open for writing"
        return Wait(now_s + rules.quiet_s / 2, why) if may_wait else GiveUp(why)
    lacking = _lacking(history, rules, waiting)
    if not lacking and _is_whole(history.seen, waiting, rules):
        return Save()
    rested_at_s = history.still_since_s + rules.quiet_s
    if newest_age_s is not None and 0 <= newest_age_s < rules.quiet_s:
        rested_at_s = max(rested_at_s, now_s + rules.quiet_s - newest_age_s)
    if now_s < rested_at_s:
        newest = max(waiting, key=lambda path: history.seen[path].mtime_ns)
        why = f"{newest} was written to a moment ago"
        return Wait(rested_at_s, why) if may_wait else GiveUp(why)
    if not lacking:
        return Save()
    if ending is not Ending.NOT_YET:
        return GiveUp(lacking)
    patient_until_s = history.still_since_s + rules.max_wait_s
    return Save(lacking) if now_s >= patient_until_s else Wait(patient_until_s, lacking)


def _is_whole(seen: State, waiting: Sequence[str], rules: WatchRules) -> bool:
    """Return whether all that is not saved lies in folders with a marker that is new, and as new as anything in them.

    A name that was renamed into place says less: of a model and its optimizer it may be the first.
    """
    marked_ns: dict[str, int] = {}
    for marker in filter(rules.is_marker, waiting):
        folder = marker.rpartition("/")[0]
        marked_ns[folder] = max(marked_ns.get(folder, 0), seen[marker].mtime_ns)
    if not marked_ns:
        return False
    for path, file in seen.items():
        for folder in _folders(path):
            if file.mtime_ns > marked_ns.get(folder, file.mtime_ns):
                del marked_ns[folder]
    return all(any(folder in marked_ns for folder in _folders(path)) for path in waiting)


def _lacking(history: History, rules: WatchRules, waiting: Sequence[str]) -> str:
    """Return, in words, what should still come; empty where nothing is known of that."""
    if rules.marker_needed and (top := _unmarked(history.seen, waiting, rules)) is not None:
        return f"{top or 'the folder itself'} has no marker ({' or '.join(rules.markers)}) that is newer than the last save"
    tops = {_top(path) for path in waiting}
    for top, shape in sorted(_shapes(history.seen).items()):
        missing = history.shapes.get(_pattern(top), Counter()) - shape
        if missing and top in tops:
            name = next(iter(sorted(missing)))
            return f"{top} has no {name} yet, as those before it had ({sum(missing.values())} missing in all)"
    return ""


def _unmarked(seen: State, waiting: Sequence[str], rules: WatchRules) -> str | None:
    """Return a folder, or "" for the watched one itself, in which something is not saved and no new marker stands."""
    fresh = {_top(path) for path in waiting if rules.is_marker(path)}
    if "" in fresh:
        return None  # one that speaks for all of it
    tops = {_top(path) for path in waiting}
    marked = {_top(path) for path in seen if rules.is_marker(path)}
    if marked - {""}:
        tops.discard("")  # what lies beside folders with markers is a by-product
    return min(tops - fresh, default=None)


def _top(path: str) -> str:
    """Return the folder in the watched one that a file lies in, or below; empty where it lies in the watched one itself."""
    top, slash, _ = path.partition("/")
    return top if slash else ""


def _pattern(name: str) -> str:
    return _DIGITS.sub("#", name)


def _shapes(state: State) -> dict[str, Counter[str]]:
    """Return what each folder in the watched one holds."""
    found: dict[str, Counter[str]] = {}
    for path in state:
        top, slash, below = path.partition("/")
        if slash:
            found.setdefault(top, Counter())[_pattern(below)] += 1
    return found


def _folders(path: str) -> list[str]:
    """Return the folders that a file lies in, or below, the watched one included."""
    names = path.split("/")[:-1]
    return ["/".join(names[:count]) for count in range(len(names) + 1)]
