"""Checkpoint names: what a user types, and the form of it that stands in keys.

A key separates its fields by dots, so a name that holds one would be read back wrongly. Letters, digits, ``_`` and ``-``
stay as they are; every other byte of the UTF-8 form becomes ``~`` and two hexadecimal digits. The record keeps the name as typed.
"""

from __future__ import annotations

import re

from ckpt_async.words.errors import InvalidArgument

__all__ = [
    "DEFAULT_NAME",
    "MAX_ENCODED_NAME_CHARS",
    "SAVING_PREFIX",
    "check_name",
    "decode_name",
    "encode_name",
    "is_being_written",
    "readable_folder",
]

DEFAULT_NAME = "mfchckpt"

#: Of the folders in the checkpoint directory in which the integrations write the files of a save of its own.
SAVING_PREFIX = ".ckpt-async-saving-"

#: A local store keeps the name inside one file name of at most 255 bytes, beside hash, attempt, version and suffix.
MAX_ENCODED_NAME_CHARS = 180

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPE = re.compile(r"~([0-9A-F]{2})")


def is_being_written(path: str) -> bool:
    """Return whether a relative path is that of a folder in which an integration writes: no part of a save of what is around it,
    for it is half written, and gone in a moment.
    """
    return path.rpartition("/")[2].startswith(SAVING_PREFIX)


def encode_name(name: str) -> str:
    """Return the form of `name` that stands in keys and file names."""
    return "".join(chr(byte) if byte in _PLAIN else f"~{byte:02X}" for byte in name.encode("utf-8"))


def decode_name(encoded: str) -> str:
    """Return the name that `encode_name` made `encoded` from. What is not ASCII was never encoded, and is returned as it is.

    Raises
    ------
    InvalidArgument
        `encoded` is not the encoded form of any name.
    """
    if not encoded.isascii():
        return encoded
    raw = _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), encoded)
    try:
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        raise InvalidArgument("read a checkpoint's name", on=encoded, cause=str(error)) from error


def check_name(name: object) -> str:
    """Return `name` where a checkpoint may be called so.

    Raises
    ------
    InvalidArgument
        `name` is no text, is empty, holds what UTF-8 can't, or is too long. Nothing has been written then.
    """
    if not isinstance(name, str):
        raise InvalidArgument("save a checkpoint", on=f"name={name!r}", cause="a name is a str", hint="Pass name='...'.")
    if not name:
        raise InvalidArgument("save a checkpoint", on="name=''", cause="the name is empty", hint="Leave it out for the default.")
    try:
        encoded = encode_name(name)
    except UnicodeEncodeError as error:
        raise InvalidArgument("save a checkpoint", on=f"name={name!r}", cause=f"it can't be written as UTF-8: {error}") from error
    if len(encoded) > MAX_ENCODED_NAME_CHARS:
        raise InvalidArgument(
            "save a checkpoint",
            on=f"name={name[:40]!r}...",
            cause=f"the name takes {len(encoded)} characters in a key, {MAX_ENCODED_NAME_CHARS} are allowed",
            hint="Put what it tells into metadata={...} and use a shorter name.",
        )
    return name


def readable_folder(pathspec: str) -> str:
    """Return a name for a folder of a task, by which people know it; other tasks may have the same."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", pathspec.replace("/", "-"))[:120]
