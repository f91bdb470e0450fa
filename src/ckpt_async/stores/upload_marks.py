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

from ckpt_async.stores.contract import Body, ListPage, ObjectInfo, UnfinishedUpload, Uploads, check_key
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.words.errors import InvalidArgument, StoreObjectMissing

__all__ = ["HIDDEN_FOLDER", "UploadMarks", "check_open_key"]

#: What is not shown. A rule of the bucket that deletes what is old there removes what was never finished.
HIDDEN_FOLDER = ".ckpt-async-uploads"
_ID = re.compile(r"[0-9a-f]{24}")
_MARK = "begun"
READS_AT_ONCE = 8


def check_open_key(key: str) -> str:
    """Return `key` where it is one that callers may use; raises InvalidArgument otherwise."""
    if check_key(key).split("/", 1)[0] == HIDDEN_FOLDER:
        raise InvalidArgument("use a key of a store", on=repr(key), cause="the store keeps its unfinished uploads there")
    return key


class UploadMarks:
    """The marks of one store.

    Parameters
    ----------
    put, head, get, delete, list_page : callable
        Of the store, for any key.
    """

    def __init__(
        self,
        put: Callable[[str, Body], Awaitable[object]],
        head: Callable[[str], Awaitable[ObjectInfo | None]],
        get: Callable[[str], Awaitable[bytes]],
        delete: Callable[[list[str]], Awaitable[None]],
        list_page: Callable[[str, str], Awaitable[ListPage]],
    ) -> None:
        self._put = put
        self._head = head
        self._get = get
        self._delete = delete
        self._list_page = list_page

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

    async def unfinished(self, prefix: str) -> Uploads:
        """Do what `Store.list_multipart` does. Each mark is read; what lies beside it, and was stored later, is a sign of life."""
        if prefix:
            check_open_key(prefix.removesuffix("/"))
        newest_unix_s: dict[str, float] = {}
        marked = []
        token, more = "", True
        while more:
            page, token = await self._list_page(f"{HIDDEN_FOLDER}/", token)
            more = bool(token)
            for info in page:
                upload_id = info.key.split("/")[1]
                if info.stored_unix_s is None:
                    return None
                newest_unix_s[upload_id] = max(newest_unix_s.get(upload_id, 0.0), info.stored_unix_s)
                if self.is_mark(info.key):
                    marked.append(upload_id)
        found = []
        left = iter(marked)

        async def read_all() -> None:
            for upload_id in left:
                key = await self._key_of(upload_id)
                if key is not None and key.startswith(prefix):
                    found.append(UnfinishedUpload(key, upload_id, newest_unix_s[upload_id]))

        async with plain_task_group() as group:
            for _ in range(min(READS_AT_ONCE, len(marked))):
                group.start_soon(read_all)
        return found

    async def _key_of(self, upload_id: str) -> str | None:
        """Return the key that a mark names; None where the upload has ended meanwhile, or it is no mark of ours."""
        try:
            said = json.loads(await self._get(self.path(upload_id, _MARK)))
        except (StoreObjectMissing, ValueError):
            return None
        key = said.get("key") if isinstance(said, dict) else None
        # Another one could not be given up.
        is_ours = isinstance(key, str) and _ID.fullmatch(upload_id) and upload_id.endswith(_sum_of(key))
        return key if is_ours else None

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
