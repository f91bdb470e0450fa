"""The contract of a store. Whatever passes the suite in `ckpt_async.testing.store_contract` can hold checkpoints.

Rules that hold for every method:

- Keys are relative to the store's root, parts joined by ``/``; a key that is empty, absolute, or has an empty part, ``.`` or
  ``..`` raises `InvalidArgument` before anything is touched.
- Every method but `settle` may be repeated after any failure: the effect of a repetition is that of one call.
- What fails raises a `StoreError`. `StoreUnavailable` is the one transient kind: the caller may repeat. All others are permanent.
- A method that is cancelled leaves either the old state or the new one, never half of it; it may leave unseen temporary data. A
  server may do what was asked of it a moment after the cancellation: who writes under the same key next uses a condition, or writes
  the same bytes.
- Nothing blocks the event loop.
"""

from __future__ import annotations

import abc
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Union

from ckpt_async.words.errors import InvalidArgument

__all__ = [
    "Body",
    "Chunk",
    "CopySource",
    "ListPage",
    "ObjectInfo",
    "Part",
    "Store",
    "StoreTraits",
    "UnfinishedUpload",
    "Uploads",
    "check_key",
]

#: A run of bytes. A memoryview shows bytes of a caller, who changes them only after the call that took it has returned or raised.
Chunk = Union[bytes, memoryview]


@dataclass(frozen=True)
class Body:
    """Bytes to be stored, in memory; bounded by the caller, who never makes one above a part's size.

    Attributes
    ----------
    chunks : tuple of bytes or memoryview
        The content in order. Kept in pieces, so that no copy joins them.
    size_bytes : int
        The sum of their lengths.
    crc32 : int
        Of the whole; a store that can, verifies it.
    """

    chunks: tuple[Chunk, ...]
    size_bytes: int
    crc32: int

    @classmethod
    def of(cls, content: bytes) -> Body:
        """Return a body with this content."""
        return cls((content,), len(content), zlib.crc32(content))

    def __repr__(self) -> str:
        return f"Body(size_bytes={self.size_bytes}, crc32={self.crc32:08x})"


@dataclass(frozen=True)
class ObjectInfo:
    """An object as the store knows it.

    Attributes
    ----------
    key : str
        Relative to the root.
    size_bytes : int
        Its length.
    etag : str
        Changes when the content does; what a conditional write names.
    stored_unix_s : float or None
        When it was stored, in seconds since 1970 by the store's clock; None where that was not told, as by `put`. No part of what
        the object is: two that differ in nothing else are equal.
    """

    key: str
    size_bytes: int
    etag: str
    stored_unix_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Part:
    """A finished part of a multipart upload: what completing it needs. `number` counts from 1."""

    number: int
    etag: str
    size_bytes: int
    crc32: int


@dataclass(frozen=True)
class UnfinishedUpload:
    """A multipart upload that was begun and neither completed nor given up.

    Attributes
    ----------
    key, upload_id : str
        As `Store.abort_multipart` takes them.
    since_unix_s : float
        When it was begun, or, where the store knows that, added to; in seconds since 1970.
    """

    key: str
    upload_id: str
    since_unix_s: float


#: What `Store.list_page` returns; inside the class the name ``list`` is a method.
ListPage = tuple[list[ObjectInfo], str]
#: What `Store.list_multipart` returns.
Uploads = Union[list[UnfinishedUpload], None]


@dataclass(frozen=True)
class CopySource:
    """Bytes that the store has already, to be stored once more without being sent.

    Attributes
    ----------
    key, etag : str
        Of the object that holds them; one with another etag is another object.
    offset, size_bytes : int
        Where in it they lie.
    crc32 : int
        Their sum, as it was when they were sent; a store that computes one compares it.
    """

    key: str
    etag: str
    offset: int
    size_bytes: int
    crc32: int


@dataclass(frozen=True)
class StoreTraits:
    """What a store can do and likes.

    Attributes
    ----------
    url : str
        Its address, as users see it; never with credentials.
    min_part_bytes, max_part_bytes : int
        Bounds of a part (the last one may be smaller).
    max_parts : int
        Of one object.
    conditional_writes : bool
        Whether `put` honours its conditions against other writers. Where it does not, it looks first and then writes, and
        another writer may come in between. A store may learn of that with its first conditional write.
    far : bool
        Whether sending bytes to it takes longer than an MD5 over them.
    notices : tuple of str
        What the user should be told once of it and of the way it is reached. It may grow while the store is used.
    copies : str
        What it copies without being sent it: ``"ranges"`` of objects, by `copy_part`; only whole ``"objects"``, by `copy`;
        ``"nothing"``. What it can't raises StoreRejected. A store may learn of that with the first part that it is to copy.
    unfinished : str
        What becomes of an upload that nobody completes or gives up, for users.
    """

    url: str
    min_part_bytes: int
    max_part_bytes: int
    max_parts: int
    conditional_writes: bool = True
    far: bool = True
    notices: tuple[str, ...] = ()
    copies: str = "ranges"
    unfinished: str = "its parts are kept, and paid for"


class Store(abc.ABC):
    """An object store. Open it with ``async with``; it is used in the loop that opened it, by many tasks at once."""

    @property
    @abc.abstractmethod
    def traits(self) -> StoreTraits:
        """What it can do."""

    @abc.abstractmethod
    async def __aenter__(self) -> Store:
        """Open connections lazily: entering succeeds while the store is down."""

    @abc.abstractmethod
    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every connection and descriptor. Never raises because of the store's state."""

    @abc.abstractmethod
    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        """Store an object, whole or not at all; an object that is there already is replaced.

        Parameters
        ----------
        if_match : str, optional
            Store only where the object's etag is this one (a missing object does not match).
        if_absent : bool
            Store only where there is no object.
        durable : bool
            Whether the object survives a crash of the store's machine once this returns; else it may take a `settle` until it does.

        Raises
        ------
        StorePreconditionFailed
            The condition does not hold; nothing was written. Of several writers with one condition exactly one succeeds.
        """

    @abc.abstractmethod
    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        """Store an object with the content of another one, all of which `source` is. Neither depends on the other afterwards.

        Raises
        ------
        StoreObjectMissing
            There is no such object (any more).
        StorePreconditionFailed
            It is not the one that `source` names.
        StoreRejected
            The store can't copy, or what it made is not what was asked for: then `put` must replace it.
        """

    @abc.abstractmethod
    async def settle(self, keys: Sequence[str]) -> None:
        """Return once these objects survive a crash of the store's machine. One that is missing is passed by.

        After a failure nobody can tell whether they ever will: store them once more. The only method that must not be repeated.
        """

    @abc.abstractmethod
    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        """Read an object, or `size_bytes` from `offset` (shorter where it ends; empty behind its end).

        Raises
        ------
        StoreObjectMissing
            There is none.
        StorePreconditionFailed
            It is not the one with the etag `if_match`.
        """

    async def get_into(self, key: str, buffer: memoryview, *, offset: int = 0) -> int:
        """Read from `offset` on into `buffer`, which may be longer than what is left; returns the number of bytes.

        For large ranges: a store that can writes straight into the buffer, which its owner uses again. After a failure the buffer's
        content is undefined.

        Raises
        ------
        StoreObjectMissing
            There is none.
        """
        content = await self.get(key, offset=offset, size_bytes=len(buffer))
        buffer[: len(content)] = content
        return len(content)

    @abc.abstractmethod
    async def head(self, key: str) -> ObjectInfo | None:
        """Look at an object without reading it; None where there is none."""

    @abc.abstractmethod
    async def list(self, prefix: str) -> list[ObjectInfo]:
        """List all objects whose key starts with `prefix`, sorted by key. `prefix` ends with ``/`` or is empty. Unfinished
        uploads are not seen.
        """

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        """List some of the objects that `list` would return, for callers that don't want all of them in memory.

        A store that can't list in pages has one, as this does.

        Parameters
        ----------
        token : str
            What the page before has returned; empty for the first.

        Returns
        -------
        list of ObjectInfo
            Not empty but for the last page, perhaps. All pages together have what `list` returns, in an order of the store's own.
        str
            For the next page; empty where there is none.
        """
        return await self.list(prefix), ""

    async def list_multipart(self, prefix: str) -> Uploads:
        """List the unfinished uploads of objects whose key starts with `prefix`, which is as for `list`; None where the store can't
        tell, as this one can't.
        """
        if prefix:
            check_key(prefix.removesuffix("/"))
        return None

    @abc.abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; a missing one counts as deleted. Returns once all are gone."""

    @abc.abstractmethod
    async def begin_multipart(self, key: str) -> str:
        """Begin an object in parts and return the upload's id. Nothing is visible before `complete_multipart`.

        A store may hold one upload of a key at a time: completing one, or storing an object under the key, then gives the others
        up, and completing those raises StoreRejected.
        """

    @abc.abstractmethod
    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        """Store one part, in any order and at once with others; a part sent again replaces the earlier one.

        Parameters
        ----------
        number : int
            From 1; parts are joined by number.
        offset : int
            Where the part starts in the object.

        Raises
        ------
        StoreObjectMissing
            The upload is not known (any more).
        """

    @abc.abstractmethod
    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        """Store one part with bytes of another object; else as `put_part`, and it raises what `copy` and `put_part` do.

        A store that can't (see `StoreTraits.copies`) raises StoreRejected.
        """

    @abc.abstractmethod
    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        """Join the parts into the object, which becomes visible whole.

        Raises
        ------
        StoreObjectMissing
            The upload is not known (any more): it was completed or aborted before.
        StoreRejected
            A part is missing or is another than the one named.
        """

    @abc.abstractmethod
    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Give the upload up and free its parts; one that is not known counts as given up."""


def check_key(key: str) -> str:
    """Return `key` where it is a valid one; raises InvalidArgument otherwise."""
    parts = key.split("/")
    if not key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument("use a key of a store", on=repr(key), cause="a key is relative, without empty parts, '.' and '..'")
    return key
