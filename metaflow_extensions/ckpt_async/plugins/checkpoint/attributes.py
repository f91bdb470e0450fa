"""The decorator's attributes: their defaults, and how a user's values (or a command line's text) are read. Pure functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckpt_async import InvalidArgument, Settings, WatchRules, coerce_settings, read_watch_rules

from .callbacks import read_callback_name
from .errors import WrongCheckpointAttribute
from .names import DEFAULTS, S3_OPTIONS

__all__ = ["CheckpointAttributes", "check_environment", "read_attributes"]

LOAD_POLICIES = ("fresh", "eager", "none")

_OWN = ("load_policy", "strict", "temp_dir_root", "show_card", "on_event", "watch", "s3_options")

_WATCH_NUMBERS = ("watch_quiet", "watch_max_wait")
_WATCH_PATTERNS = ("watch_marker", "watch_ignore", "watch_temporary")


@dataclass(frozen=True)
class CheckpointAttributes:
    """The attributes, checked.

    Attributes
    ----------
    load_policy : str
        ``"fresh"``, ``"eager"`` or ``"none"``.
    strict : bool
        Whether a damaged checkpoint fails the attempt, instead of an older one being loaded.
    temp_dir_root : str or None
        The folder in which the checkpoint directory is made; None: the system's folder for temporary files.
    show_card : bool
        Whether a card shows the checkpoints.
    on_event : str or None
        ``"module:function"``, which hears what the engine tells.
    settings : Settings
        What the engine is told.
    watch : bool
        Whether what is written into the checkpoint directory is saved by itself.
    watched_path : str or None
        Where the writer finds the checkpoint directory, as typed; None: where `current.checkpoint.directory` says.
    watch_patterns : dict of str to (str or None)
        Those of the attributes with patterns, as text.
    watch_rules : WatchRules
        When it is complete.
    s3_options : str or None
        What is said of the server where the datastore is S3, as text; None: nothing.
    """

    load_policy: str
    strict: bool
    temp_dir_root: str | None
    show_card: bool
    on_event: str | None
    settings: Settings
    watch: bool
    watched_path: str | None
    watch_patterns: dict[str, str | None]
    watch_rules: WatchRules
    s3_options: str | None = None

    def to_attributes(self) -> dict[str, Any]:
        """Return the decorator's attributes in a form that survives Metaflow's command line.

        Metaflow hands the attributes of a decorator that came by ``--with`` to the task as text, and leaves out those that are
        None: so no value may be None whose default is another.
        """
        return {
            "load_policy": self.load_policy,
            "strict": self.strict,
            "temp_dir_root": self.temp_dir_root,
            "show_card": self.show_card,
            "on_event": self.on_event,
            "async_upload": self.settings.async_upload,
            "worker": self.settings.worker,
            "snapshot": self.settings.snapshot,
            "max_pending": self.settings.max_pending,
            "max_pending_bytes": self.settings.max_pending_bytes,
            "max_lag": self.settings.max_lag_s,
            "on_full": self.settings.on_full,
            "max_bandwidth": self.settings.max_bandwidth_bytes_per_s,
            "flush_timeout": self.settings.flush_timeout_s,
            "spool_dir": self.settings.spool_dir,
            "durability": self.settings.durability,
            "keep_local": self.settings.keep_local,
            "keep_last": self.settings.keep_last,
            "keep_best": self.settings.keep_best,
            "keep_every": self.settings.keep_every,
            "watch": self.watched_path or self.watch,
            "watch_quiet": self.watch_rules.quiet_s,
            "watch_max_wait": self.watch_rules.max_wait_s,
            **self.watch_patterns,
            "s3_options": self.s3_options,
        }


def _refuse(name: str, value: object, allowed: str) -> WrongCheckpointAttribute:
    return WrongCheckpointAttribute(f"@checkpoint({name}={value!r}): the value is not allowed. Allowed: {allowed}.")


def _read_policy(value: object) -> str:
    text = "none" if value is None else str(value).strip()
    text = "none" if text == "None" else text
    if text not in LOAD_POLICIES:
        raise _refuse("load_policy", value, "'fresh', 'eager', 'none' or None")
    return text


def _read_folder(value: object) -> str | None:
    if value is None or value in ("None", ""):
        return None
    if isinstance(value, (str, os.PathLike)):
        return os.path.abspath(os.path.expanduser(str(os.fspath(value))))
    raise _refuse("temp_dir_root", value, "the path of a folder, or None")


def _read_switch(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    text = str(value).strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise _refuse(name, value, "True or False")


def _read_watch(value: object) -> tuple[bool, str | None]:
    """Return whether to watch, and the path by which the writer finds the folder, if it needs one of its own."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(text, str) and "/" in text and "\0" not in text:
        return True, text
    try:
        return _read_switch("watch", False if value is None or value == "None" else value), None
    except WrongCheckpointAttribute:
        raise _refuse("watch", value, "True, False, or a path with a / in it") from None


def _pattern_text(value: Any) -> str | None:
    """Return patterns, which have been checked, as the text that Metaflow's command line can carry."""
    if value is None or value in ("None", ""):
        return None
    return " ".join(value.replace(",", " ").split() if isinstance(value, str) else value)


def _read_s3_options(value: object, given_as: str = "@checkpoint(s3_options={!r})") -> str | None:
    if value is None or value in ("None", ""):
        return None
    from ckpt_async import S3Access

    if not isinstance(value, (str, Mapping)):
        raise _refuse("s3_options", value, "a dict, or text such as 'checksums:md5,requester_pays:true'")
    try:
        return S3Access.check_options(value) or None
    except InvalidArgument as error:
        text = f"{given_as.format(value)}: {error.on}: {error.cause}. {error.hint}"
        raise WrongCheckpointAttribute(text.strip()) from error


def check_environment(environment: Mapping[str, str]) -> None:
    """Check what a variable says in place of an attribute; raises like `read_attributes`."""
    _read_s3_options(environment.get(S3_OPTIONS), f"{S3_OPTIONS}={{}}")


def read_attributes(values: Mapping[str, object]) -> CheckpointAttributes:
    """Check and read all attributes.

    Parameters
    ----------
    values : mapping
        By attribute name; a missing one has its default. Text is read as what it stands for (``"True"``, ``"None"``, ``"20GB"``).

    Raises
    ------
    WrongCheckpointAttribute
        A name is not known, or a value is not allowed; it names the attribute, the value and what is allowed.
    """
    for name, value in values.items():
        if name not in DEFAULTS:
            raise WrongCheckpointAttribute(
                f"@checkpoint({name}={value!r}): there is no such attribute. There are: {', '.join(DEFAULTS)}."
            )
    every = {**DEFAULTS, **values}
    engine: dict[str, object] = {}
    watching: dict[str, object] = {}
    for name, value in every.items():
        if name in _OWN:
            continue
        of_watch = name in (*_WATCH_NUMBERS, *_WATCH_PATTERNS)
        try:
            read_watch_rules({name: value}) if of_watch else coerce_settings({name: value})
        except InvalidArgument as error:
            raise _refuse(name, value, error.hint.removeprefix("Allowed: ").rstrip(".")) from error
        (watching if of_watch else engine)[name] = value
    watch, watched_path = _read_watch(every["watch"])
    if watch:
        # Saves that nobody has called for have nobody who could wait for them.
        engine["async_upload"] = True
    try:
        settings = coerce_settings(engine)
    except InvalidArgument as error:
        raise WrongCheckpointAttribute(f"@checkpoint({error.on}): {error.cause}. {error.hint}") from error
    return CheckpointAttributes(
        load_policy=_read_policy(every["load_policy"]),
        strict=_read_switch("strict", every["strict"]),
        temp_dir_root=_read_folder(every["temp_dir_root"]),
        show_card=_read_switch("show_card", every["show_card"]),
        on_event=read_callback_name(every["on_event"]),
        settings=settings,
        watch=watch,
        watched_path=watched_path,
        watch_patterns={name: _pattern_text(watching[name]) for name in _WATCH_PATTERNS},
        watch_rules=read_watch_rules(watching),
        s3_options=_read_s3_options(every["s3_options"]),
    )
