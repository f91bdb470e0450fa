"""Uploads in parts for stores that know none, or none with a name: an object of a few bytes stands for each that is not finished.

It says that the upload has begun and has been neither completed nor given up, to every process. It lies, with whatever else belongs
to the upload, in a folder of its own below the store's root, which no listing shows.
"""

from __future__ import annotations

import json
import re
import secrets
import zlib
from collections.abc import Awaitable, Callable

from ckpt_async.stores.contract import Body, ObjectInfo, check_key
from ckpt_async.words.errors import InvalidArgument, StoreObjectMissing

__all__ = ["HIDDEN_FOLDER", "UploadMarks", "check_open_key"]

#: What is not shown. A rule of the bucket that deletes what is old there removes what was never finished.
HIDDEN_FOLDER = ".ckpt-async-uploads"
_ID = re.compile(r"[0-9a-f]{24}")
_MARK = "begun"


def check_open_key(key: str) -> str:
    """Return `key` where it is one that callers may use; raises InvalidArgument otherwise."""
    if check_key(key).split("/", 1)[0] == HIDDEN_FOLDER:
        raise InvalidArgument("use a key of a store", on=repr(key), cause="the store keeps its unfinished uploads there")
    return key


class UploadMarks:
    """The marks of one store.

    Parameters
    ----------
    put, head, delete : callable
        Of the store, for any key.
    """

    def __init__(
        self,
        put: Callable[[str, Body], Awaitable[object]],
        head: Callable[[str], Awaitable[ObjectInfo | None]],
        delete: Callable[[list[str]], Awaitable[None]],
    ) -> None:
        self._put = put
        self._head = head
        self._delete = delete

    async def begin(self, key: str) -> str:
        """Mark an upload of `key` as begun; return its id."""
        upload_id = secrets.token_hex(8) + _sum_of(key)
        await self._put(self.path(upload_id, _MARK), Body.of(json.dumps({"key": key}).encode()))
        return upload_id

    @staticmethod
    def path(upload_id: str, name: str) -> str:
        """Return the key of something that belongs to an upload; ``""`` is the prefix of all of it."""
        return f"{HIDDEN_FOLDER}/{upload_id}/{name}"

    def check_id(self, attempted: str, key: str, upload_id: str, on: str) -> None:
        """Raise StoreObjectMissing where it can't be the id of an upload of `key`. The id becomes part of keys."""
        if not _ID.fullmatch(upload_id) or not upload_id.endswith(_sum_of(key)):
            raise self.unknown(attempted, on)

    async def check(self, attempted: str, key: str, upload_id: str, on: str) -> None:
        """Raise StoreObjectMissing where the upload is not known (any more)."""
        self.check_id(attempted, key, upload_id, on)
        if await self._head(self.path(upload_id, _MARK)) is None:
            raise self.unknown(attempted, on)

    async def end(self, upload_id: str) -> None:
        """Forget an upload."""
        await self._delete([self.path(upload_id, _MARK)])

    @staticmethod
    def is_mark(key: str) -> bool:
        """Whether this key is that of a mark."""
        return key.startswith(f"{HIDDEN_FOLDER}/") and key.endswith(f"/{_MARK}")

    @staticmethod
    def unknown(attempted: str, on: str) -> StoreObjectMissing:
        """Return the error for an upload that is not known."""
        return StoreObjectMissing(attempted, on=on, cause="the upload is not known (any more)")


def _sum_of(key: str) -> str:
    return f"{zlib.crc32(key.encode()):08x}"
