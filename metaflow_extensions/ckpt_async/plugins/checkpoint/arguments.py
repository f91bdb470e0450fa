"""Plain arguments of users' calls: what each may be, told before anything is done. Pure functions."""

from __future__ import annotations

import os

from ckpt_async import InvalidArgument

__all__ = ["read_attempt", "read_name_filter", "read_path", "read_timeout"]

#: As for the attribute ``flush_timeout``: 30 days.
LONGEST_TIMEOUT_S = 30 * 24 * 3600


def read_path(path: object, *, attempted: str, argument: str = "path") -> str:
    """Return a path that a user names, absolute.

    Raises
    ------
    InvalidArgument
        It is no path, or an empty one, which would be the working folder.
    """
    named = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(named, str) or not named:
        cause = "it is empty" if named == "" else f"it is a {type(path).__name__}"
        raise InvalidArgument(attempted, on=f"{argument}={path!r}"[:200], cause=cause, hint="Pass a text or a pathlib.Path.")
    return os.path.abspath(named)


def read_name_filter(name: object) -> str | None:
    """Return the name that a list is to keep to, or None for all; raises InvalidArgument where it is no text."""
    if name is None or isinstance(name, str):
        return name
    raise InvalidArgument("list checkpoints", on=f"name={name!r}"[:200], cause="a name is a text")


def read_attempt(attempt: int | str | None) -> int | None:
    """Return an attempt as a number; raises InvalidArgument where it is none."""
    if attempt is None:
        return None
    try:
        number = int(attempt) if isinstance(attempt, (int, str)) and not isinstance(attempt, bool) else -1
    except ValueError:
        number = -1
    if number < 0:
        raise InvalidArgument("find an attempt", on=f"attempt={attempt!r}", cause="attempts are whole numbers, from 0")
    return number


def read_timeout(timeout: object) -> float | None:
    """Return seconds to wait, or None; raises InvalidArgument where it is no number, below 0, or more than 30 days."""
    if timeout is None:
        return None
    # NaN is neither.
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 <= timeout <= LONGEST_TIMEOUT_S:
        return timeout
    raise InvalidArgument(
        "wait for the uploads",
        on=f"timeout={timeout!r}",
        cause="it is no such time",
        hint=f"Allowed: a number of seconds from 0 to {LONGEST_TIMEOUT_S} (30 days), or None.",
    )
