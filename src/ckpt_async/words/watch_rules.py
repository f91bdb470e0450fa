"""By what rules the state of a watched folder counts as complete: the settings of watch mode, and which names mean what."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import translate

from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.settings import MAX_SECONDS

__all__ = ["IGNORED", "MARKERS", "TEMPORARY", "WATCH_NAMES", "WatchRules", "read_watch_rules"]

#: Written last, to say that the rest of the folder is complete: DCP and Megatron, Spark and orbax on object stores, and habits.
MARKERS = (".metadata", "_SUCCESS", "*.done", "*.complete", "commit_success.txt")

#: Written all the time by what observes a training.
IGNORED = ("events.out.tfevents*", "*.log", "*.wandb")

#: What will get its name when it is complete, or never: of orbax, TensorFlow, the Trainer of Hugging Face, downloads, editors, NFS,
#: and our own.
TEMPORARY = (
    *("*.tmp", "*.temp", "tmp-*", "*.tmp-*", "*.tmp.*", "*.part", "*.partial", ".partial-*", "*.incomplete", "*.crdownload"),
    *("*.orbax-checkpoint-tmp*", "*.tempstate*", "*_temp", ".~*", "*~", ".*.sw[po]", ".nfs*", ".ckpt-async-*"),
)


@dataclass(frozen=True)
class WatchRules:
    """See `read_watch_rules` for the user's names of these.

    A pattern is one of the shell's (``*``, ``?``, ``[...]``). With a ``/`` in it, it is matched with the whole relative path, else
    with the name of a file or folder; what is said of a folder holds for all below it.

    Attributes
    ----------
    quiet_s : float
        How long nothing may have changed, in seconds.
    max_wait_s : float
        How long, in seconds, something may stay incomplete before that is said, and how long a missing marker is waited for.
    markers : tuple of str
        Patterns of files that say that their folder is complete.
    marker_needed : bool
        Whether what has none has to be waited for.
    ignored : tuple of str
        Patterns of what neither makes a checkpoint nor keeps one back. It is saved along, as it is then.
    temporary : tuple of str
        Patterns of what is never saved.
    """

    quiet_s: float = 2.0
    max_wait_s: float = 60.0
    markers: tuple[str, ...] = MARKERS
    marker_needed: bool = False
    ignored: tuple[str, ...] = IGNORED
    temporary: tuple[str, ...] = TEMPORARY

    def is_marker(self, path: str) -> bool:
        """Return whether a relative path is that of a marker."""
        of_names, of_paths = _compiled(self.markers)
        return bool(of_names.match(path.rpartition("/")[2]) or of_paths.match(path))

    def is_ignored(self, path: str) -> bool:
        """Return whether what is done to a relative path is of no account."""
        return _matches(path, self.ignored)

    def is_temporary(self, path: str) -> bool:
        """Return whether a relative path is, or lies below, something temporary."""
        return _matches(path, self.temporary)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    of_names, of_paths = _compiled(patterns)
    names = path.split("/")
    return any(of_names.match(name) or of_paths.match("/".join(names[: count + 1])) for count, name in enumerate(names))


@functools.lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return one expression for names and one for paths: a folder may have thousands of files."""
    return tuple(  # type: ignore[return-value]
        re.compile("|".join(translate(pattern) for pattern in patterns if ("/" in pattern) == of_paths) or r"(?!)")
        for of_paths in (False, True)
    )


#: The user's names, and the fields that they set.
WATCH_NAMES = {
    "watch_quiet": "quiet_s",
    "watch_max_wait": "max_wait_s",
    "watch_marker": "markers",
    "watch_ignore": "ignored",
    "watch_temporary": "temporary",
}


def read_watch_rules(values: Mapping[str, object]) -> WatchRules:
    """Return the rules of a user's keyword values; text is read as the kind that is meant.

    Parameters
    ----------
    values : mapping
        ``watch_quiet`` and ``watch_max_wait`` in seconds; ``watch_marker``, patterns in place of `MARKERS`, one of which is needed
        then; ``watch_ignore`` and ``watch_temporary``, patterns beside `IGNORED` and `TEMPORARY`. Several patterns are a list, or
        text with spaces or commas between them. None is the default.

    Raises
    ------
    InvalidArgument
        A name or a value is not allowed.
    """
    found: dict[str, object] = {}
    for name, value in values.items():
        if name not in WATCH_NAMES:
            there_are = f"There are: {', '.join(WATCH_NAMES)}."
            raise InvalidArgument("use a setting", on=name, cause="there is none of that name", hint=there_are)
        if value is None or value in ("None", "none", ""):
            continue
        field = WATCH_NAMES[name]
        if name in ("watch_quiet", "watch_max_wait"):
            found[field] = _as_seconds(name, value)
            continue
        patterns = _as_patterns(name, value)
        if name == "watch_marker":
            found |= {"markers": patterns, "marker_needed": True}
        else:
            found[field] = (*getattr(WatchRules(), field), *patterns)
    return dataclasses.replace(WatchRules(), **found)  # type: ignore[arg-type]


def _as_seconds(name: str, value: object) -> float:
    try:
        seconds = 0.0 if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = 0.0
    if not 0 < seconds <= MAX_SECONDS:
        raise _refuse(name, value, f"a number of seconds above 0, up to {MAX_SECONDS} (30 days)")
    return seconds


def _as_patterns(name: str, value: object) -> tuple[str, ...]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not parts or not all(isinstance(one, str) and one.strip() for one in parts):
        raise _refuse(name, value, "one or more patterns such as '*.done', as text with spaces between them, or a list")
    patterns = tuple(one.strip() for one in parts)
    for pattern in patterns:
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise _refuse(name, value, "patterns of names, or of paths relative to the watched folder")
        if not pattern.strip("*/"):
            raise _refuse(name, value, "patterns that leave something over")
    return patterns


def _refuse(name: str, value: object, allowed: str) -> InvalidArgument:
    return InvalidArgument("use a setting", on=f"{name}={value!r}", cause="the value is not allowed", hint=f"Allowed: {allowed}.")
