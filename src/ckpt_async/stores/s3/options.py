"""What can be said of an S3 server in a line of text: from a decorator, a command line or a variable of the environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ckpt_async.words.errors import InvalidArgument

__all__ = ["S3_OPTIONS", "read_options", "write_options"]

Reader = Callable[[str], Any]


def _one_of(*allowed: str) -> tuple[Reader, str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError
        return text

    return read, " or ".join(repr(value) for value in allowed)


def _switch(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _text(text: str) -> str:
    if not text or "," in text or not text.isprintable():
        raise ValueError
    return text


_SWITCH = (_switch, "true or false")
#: The name of each option, which is a field of `S3Access`, how it is read, and what is allowed.
S3_OPTIONS: dict[str, tuple[Reader, str]] = {
    "addressing_style": _one_of("auto", "path", "virtual"),
    "bucket_key": _SWITCH,
    "checksums": _one_of("crc32", "md5", "off"),
    "conditional_writes": _SWITCH,
    "requester_pays": _SWITCH,
    "server_side_encryption": (_text, "a name such as 'AES256' or 'aws:kms'"),
    "sse_kms_key_id": (_text, "the name of a key"),
}


def read_options(value: Mapping[str, object] | str) -> dict[str, Any]:
    """Return the fields of an `S3Access` that a value names.

    Parameters
    ----------
    value : mapping or str
        The options by name, or text: ``"checksums:md5,requester_pays:true"``, or the mapping as JSON.

    Raises
    ------
    InvalidArgument
        A name is not known, or a value is not allowed.
    """
    if isinstance(value, str):
        value = _split(value)
    found: dict[str, Any] = {}
    for name, said in value.items():
        if name not in S3_OPTIONS:
            raise InvalidArgument(
                "use an option of S3", on=name, cause="there is none of that name", hint=f"There are: {', '.join(S3_OPTIONS)}."
            )
        read, allowed = S3_OPTIONS[name]
        try:
            found[name] = read(str(said))
        except (ValueError, KeyError):
            raise InvalidArgument(
                "use an option of S3", on=f"{name}:{said}", cause="the value is not allowed", hint=f"Allowed: {allowed}."
            ) from None
    return found


def write_options(options: Mapping[str, Any]) -> str:
    """Return as text, which it reads again, what `read_options` has returned; without what a shell would take for its own."""
    return ",".join(f"{name}:{str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items())


def _split(text: str) -> Mapping[str, object]:
    text = text.strip()
    if text.startswith("{"):
        try:
            read: dict[str, object] = json.loads(text)
            return read
        except ValueError as error:
            raise InvalidArgument("use options of S3", on=text, cause=f"that is no JSON: {error}") from error
    pairs = [pair.partition(":") for pair in text.split(",") if pair.strip()]
    if any(not separator for _, separator, _ in pairs):
        raise InvalidArgument("use options of S3", on=text, cause="each is written NAME:VALUE, with commas between them")
    return {name.strip(): said.strip() for name, _, said in pairs}
