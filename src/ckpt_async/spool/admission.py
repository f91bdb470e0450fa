"""Whether a save may enter the spool: a pure decision on numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

__all__ = ["Admit", "Decision", "Drop", "Limits", "Queued", "Refuse", "SpoolLoad", "Wait", "decide"]

#: Disk that a save always leaves free, so that the task's other files and the spool's own notes still fit.
RESERVE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Queued:
    """A save that could be given up: its upload has not begun and a later save has the same name."""

    entry: str
    size_bytes: int


@dataclass(frozen=True)
class SpoolLoad:
    """What lies in the spool now.

    Attributes
    ----------
    saves, size_bytes : int
        All entries that are not yet in the store.
    free_bytes : int
        Of the spool's filesystem.
    droppable : tuple of Queued
        Oldest first.
    lag_s : float
        The age of the oldest save whose progress is not in the store, in seconds.
    """

    saves: int
    size_bytes: int
    free_bytes: int
    droppable: tuple[Queued, ...] = ()
    lag_s: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What the user allows; see `ckpt_async.words.settings.Settings`."""

    max_pending: int
    max_pending_bytes: int | None
    on_full: str
    max_lag_s: float | None = None
    reserve_bytes: int = RESERVE_BYTES


@dataclass(frozen=True)
class Admit:
    """The save may be taken now."""


@dataclass(frozen=True)
class Wait:
    """The save has to wait until an upload frees room. `reason` tells for what, with the numbers."""

    reason: str


@dataclass(frozen=True)
class Drop:
    """Give this entry up, then decide again."""

    entry: str
    reason: str


@dataclass(frozen=True)
class Refuse:
    """The save is not taken. `hint` tells what to do."""

    reason: str
    hint: str


Decision = Union[Admit, Wait, Drop, Refuse]


def decide(size_bytes: int, load: SpoolLoad, limits: Limits) -> Decision:
    """Decide on a save of `size_bytes`.

    A save that could not even enter an empty spool is refused at once, whatever `on_full` says.
    """
    if limits.max_pending_bytes is not None and size_bytes > limits.max_pending_bytes:
        return Refuse(
            f"the save has {_gb(size_bytes)}, max_pending_bytes allows {_gb(limits.max_pending_bytes)}",
            "Raise max_pending_bytes, or save fewer files.",
        )
    needed_bytes = size_bytes + limits.reserve_bytes
    if needed_bytes > load.free_bytes and not load.saves:
        return Refuse(
            f"the save has {_gb(size_bytes)}, the disk of the spool has {_gb(load.free_bytes)} free "
            f"and {_gb(limits.reserve_bytes)} stay free",
            "Free disk space, or set spool_dir to a folder on a larger disk.",
        )
    full = _obstacle(size_bytes, needed_bytes, load, limits)
    late = _lateness(load, limits)
    if not (full or late):
        return Admit()
    if limits.on_full == "raise":
        return Refuse(full or late, "Save less often, raise the limit, or use on_full='block' or 'drop_oldest'.")
    # Giving up a save makes room; the progress that is not in the store becomes no less by it.
    if full and limits.on_full == "drop_oldest" and load.droppable:
        return Drop(load.droppable[0].entry, full)
    return Wait(full or late)


def _lateness(load: SpoolLoad, limits: Limits) -> str:
    if limits.max_lag_s is None or load.lag_s <= limits.max_lag_s:
        return ""
    return f"the oldest save that is not in the store was taken {load.lag_s:.3g} s ago, max_lag is {limits.max_lag_s:.3g} s"


def _obstacle(size_bytes: int, needed_bytes: int, load: SpoolLoad, limits: Limits) -> str:
    if load.saves >= limits.max_pending:
        return f"{load.saves} saves wait for their upload, max_pending is {limits.max_pending}"
    if limits.max_pending_bytes is not None and load.size_bytes + size_bytes > limits.max_pending_bytes:
        return (
            f"{_gb(load.size_bytes)} wait for their upload, {_gb(size_bytes)} come on top, "
            f"max_pending_bytes is {_gb(limits.max_pending_bytes)}"
        )
    if needed_bytes > load.free_bytes:
        return f"the disk of the spool has {_gb(load.free_bytes)} free, the save needs {_gb(size_bytes)}"
    return ""


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3g} GB" if size_bytes >= 10**9 else f"{size_bytes / 1e6:.3g} MB"
