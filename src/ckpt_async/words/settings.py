"""What can be set, with defaults, and how a value is checked: before anything starts, with the name, the value and what is allowed.

Values may arrive as text (from a command line or from a scheduler that passes everything as strings): `coerce_settings` reads them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.keep_rules import KeepRules, refuse_setting

__all__ = ["MIB", "Settings", "StoreAddress", "coerce_settings", "read_size", "settings_from_dict"]

MIB = 1024 * 1024

#: No wait is longer: the operating system's own limits are near where "without end" is meant.
MAX_SECONDS = 30 * 24 * 3600

WORKERS = ("process", "thread")
DURABILITIES = ("process", "machine")
SNAPSHOTS = ("auto", "copy", "link")
ON_FULL = ("block", "drop_oldest", "raise")


@dataclass(frozen=True)
class StoreAddress:
    """Where a store is and how it is reached. Holds no credentials: it is written into the spool.

    Attributes
    ----------
    url : str
        ``s3://bucket/prefix``, ``azure://container/prefix``, ``gs://bucket/prefix`` or a local path (``file:///...`` is understood
        too); ``blobs://...`` for a store that the access function itself knows how to use.
    access : str
        ``"module:function"``: a function without arguments that returns the store's access object (an `S3Access`, `AzureAccess` or
        `GcsAccess`; for ``blobs://`` it is given the URL and returns a `BlobsAccess`). It is imported in the process that uploads,
        which may outlive the task. Empty: the
        client library's own defaults (environment, profiles).
    """

    url: str
    access: str = ""


@dataclass(frozen=True)
class Settings:
    """How saves are taken and uploaded.

    Attributes
    ----------
    async_upload : bool
        ``save()`` returns after the snapshot; otherwise it waits until the checkpoint is in the store.
    worker : str
        ``"process"``: a sidecar process uploads; ``"thread"``: a thread of this process does. Without `async_upload` it is the
        thread, unless an earlier attempt has left something.
    max_pending : int
        How many saves may lie in the spool, a new one included.
    max_pending_bytes : int or None
        How many bytes may lie in the spool, a new save included; None: the free disk is the limit.
    max_lag_s : float or None
        How old the oldest save may be that is not in the store, in seconds, when the next one is taken: so much progress, and
        what has come since, would go with the machine. ``save()`` waits until it is stored; None: no limit.
    on_full : str
        What ``save()`` does at these limits: ``"block"`` waits, ``"drop_oldest"`` gives up the oldest save whose upload has not
        begun, ``"raise"`` raises SaveRefused. For `max_lag_s` nothing is given up: that would bring nothing into the store.
    max_bandwidth_bytes_per_s : int or None
        How fast the worker sends at most, all of its uploads together; None: as fast as it can.
    flush_timeout_s : float
        How long ``flush()``, and the end of a task, wait for uploads; also how long a sidecar goes on by itself once its task
        is gone.
    spool_dir : str or None
        The folder for spools; None: beside the checkpoint directory.
    durability : str
        What a save survives once ``save()`` has returned: ``"process"``: the death of every process; ``"machine"``: also a crash of
        the machine, from the moment that the reference says so (`CheckpointReference.durable`), for which the worker syncs it in
        the background.
    snapshot : str
        How files are frozen: ``"auto"`` takes guarded links where it can and copies elsewhere, ``"copy"`` never links, ``"link"``
        refuses a save in which a file that is not small can't be linked.
    keep_local : int
        How many of the newest stored saves stay on local disk, for a next attempt on this machine: until the task has ended
        well, or until a save needs the room.
    keep_last : int or None
        How many of the newest checkpoints stay in the store. The three of these are the rules of `KeepRules`; where all are None,
        nothing is ever deleted.
    keep_best : str or None
        Which ones stay for a number in their metadata, such as ``"loss:min:2"``.
    keep_every : str or None
        Every how manieth stays (``"10"``), or for which periods one does (``"1h"``).
    """

    async_upload: bool = False
    worker: str = "process"
    max_pending: int = 16
    max_pending_bytes: int | None = None
    max_lag_s: float | None = None
    on_full: str = "block"
    max_bandwidth_bytes_per_s: int | None = None
    flush_timeout_s: float = 3600.0
    spool_dir: str | None = None
    durability: str = "process"
    snapshot: str = "auto"
    keep_local: int = 0
    keep_last: int | None = None
    keep_best: str | None = None
    keep_every: str | None = None

    @property
    def keep_rules(self) -> KeepRules:
        """Which checkpoints stay in the store. Raises InvalidArgument, but not for what `coerce_settings` has made."""
        return KeepRules.read(keep_last=self.keep_last, keep_best=self.keep_best, keep_every=self.keep_every)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON object; `settings_from_dict` reads it."""
        return dataclasses.asdict(self)


def settings_from_dict(data: Mapping[str, Any]) -> Settings:
    """Read what `Settings.to_dict` wrote, in this version or another: what is not known here is passed by."""
    known = {setting.name for setting in dataclasses.fields(Settings)}
    return Settings(**{name: value for name, value in data.items() if name in known})


def _as_bool(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise refuse_setting(name, value, "True or False")


def _one_of(options: tuple[str, ...]) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        if value in options:
            return str(value)
        raise refuse_setting(name, value, " or ".join(repr(option) for option in options))

    return read


def _at_least(least: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        allowed = f"a whole number, {least} or more"
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise refuse_setting(name, value, allowed)
        try:
            count = int(value)
        except ValueError:
            raise refuse_setting(name, value, allowed) from None
        if count < least:
            raise refuse_setting(name, value, allowed)
        return count

    return read


def _as_seconds(name: str, value: object) -> float:
    allowed = f"a number of seconds above 0, up to {MAX_SECONDS} (30 days)"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refuse_setting(name, value, allowed)
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        raise refuse_setting(name, value, allowed) from None
    if not 0 < seconds <= MAX_SECONDS:
        raise refuse_setting(name, value, allowed)
    return seconds


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def read_size(name: str, value: object) -> int:
    """Read a number of bytes: an int, or text such as ``"20GB"``, ``"20 GiB"`` or ``"1500000"``.

    Raises
    ------
    InvalidArgument
        It is none, or not above 0.
    """
    allowed = "a number of bytes above 0, or text such as '20GB' or '512MiB'"
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, float) and value.is_integer():
        size = int(value)  # 20e9 is how people write it
    elif isinstance(value, str):
        text = value.strip().lower().removesuffix("b").strip()
        digits = text.rstrip("kmgti").strip()
        unit = text[len(digits) :].strip()
        try:
            size = int(float(digits) * _UNITS[unit])
        except (KeyError, ValueError, OverflowError):
            raise refuse_setting(name, value, allowed) from None
    else:
        raise refuse_setting(name, value, allowed)
    if size < 1:
        raise refuse_setting(name, value, allowed)
    return size


def read_rate(name: str, value: object) -> int:
    """Read bytes per second: as `read_size` reads bytes, and text such as ``"200MB/s"``.

    Raises
    ------
    InvalidArgument
        It is none, or not above 0.
    """
    return read_size(name, value.strip().removesuffix("/s") if isinstance(value, str) else value)


def _as_folder(name: str, value: object) -> str:
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return os.path.abspath(os.path.expanduser(os.fspath(value)))
    raise refuse_setting(name, value, "the path of a folder")


_READERS: dict[str, tuple[str, Callable[[str, object], Any], bool]] = {
    # the user's name: (field, reader, may be None)
    "async_upload": ("async_upload", _as_bool, False),
    "worker": ("worker", _one_of(WORKERS), False),
    "snapshot": ("snapshot", _one_of(SNAPSHOTS), False),
    "max_pending": ("max_pending", _at_least(1), False),
    "max_pending_bytes": ("max_pending_bytes", read_size, True),
    "max_lag": ("max_lag_s", _as_seconds, True),
    "on_full": ("on_full", _one_of(ON_FULL), False),
    "max_bandwidth": ("max_bandwidth_bytes_per_s", read_rate, True),
    "flush_timeout": ("flush_timeout_s", _as_seconds, False),
    "spool_dir": ("spool_dir", _as_folder, True),
    "durability": ("durability", _one_of(DURABILITIES), False),
    "keep_local": ("keep_local", _at_least(0), False),
    "keep_last": ("keep_last", lambda _, value: KeepRules.read(keep_last=value).last, True),
    "keep_best": ("keep_best", lambda _, value: KeepRules.read(keep_best=value).best_text, True),
    "keep_every": ("keep_every", lambda _, value: KeepRules.read(keep_every=value).every_text, True),
}


def coerce_settings(values: Mapping[str, object]) -> Settings:
    """Return the settings of a user's keyword values; text is read as the kind that is meant.

    Raises
    ------
    InvalidArgument
        A name or a value is not allowed; all of it is checked before anything is done.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _READERS:
            raise InvalidArgument(
                "use a setting", on=name, cause="there is none of that name", hint=f"There are: {', '.join(_READERS)}."
            )
        target, read, may_be_none = _READERS[name]
        if may_be_none and (value is None or value in ("None", "none", "")):
            found[target] = None
        else:
            found[target] = read(name, value)
    settings = Settings(**found)
    if settings.snapshot == "link" and (settings.worker == "thread" or not settings.async_upload):
        raise InvalidArgument(
            "use a setting",
            on=f"snapshot='link', worker={settings.worker!r}, async_upload={settings.async_upload}",
            cause="links are guarded by a process beside the task, and with these there is none",
            hint="Use worker='process' and async_upload=True, or snapshot='auto'.",
        )
    return settings
