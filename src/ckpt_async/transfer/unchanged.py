"""Parts that need not be sent: the store has their bytes already, in an earlier checkpoint, and is asked to copy them.

Two kinds of evidence count, and nothing else does:

- The same *content*: the guard of linked files gives one name to links between which nobody can have written to the file. Such a
  part is not even read.
- The same size, CRC-32 and MD5. The CRC-32 comes with the read that sends. Where it is that of the earlier part in the same
  place, the MD5 is computed too, and compared with what the store computed when it took that part (S3's etag), or with what was
  computed here the last time. So a part that has changed costs nothing, and one that has not costs its MD5 in place of the line.

CRC-32 alone is no evidence: of 2^32 changed parts one has the old sum, and nobody would ever see it. Inode, size and times alone
are none either: a mapping that was written through before writes on without moving them.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread

from ckpt_async.stores.contract import Body, CopySource, Store
from ckpt_async.transfer.notes import UploadNotes
from ckpt_async.transfer.plan import PlannedObject, PlannedPart, SourceFile, UploadPlan
from ckpt_async.words.errors import StoreError, StoreObjectMissing, StorePreconditionFailed, StoreUnavailable
from ckpt_async.words.records import CheckpointRecord

__all__ = ["COPY_MIN_BYTES", "Copying", "StoredBefore", "StoredPart", "md5_in", "stored_parts"]

#: Smaller objects are sent: for them a copy is a request that costs what sending them costs.
COPY_MIN_BYTES = 1024 * 1024

#: A store that takes longer for one copy is not waited for: the rest of the checkpoint is sent.
COPY_TIMEOUT_S = 120.0

#: The last checkpoint of each name and format, of so many of them.
CHECKPOINTS_KNOWN = 8

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')

_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredPart:
    """A part of an object in the store.

    Attributes
    ----------
    source : CopySource
        Where its bytes lie.
    whole : bool
        Whether they are the whole object.
    md5 : str
        Of them, 32 hexadecimal digits; empty where nobody has computed it.
    content : str
        The name of the content of its file; empty where it has none.
    """

    source: CopySource
    whole: bool
    md5: str
    content: str


def stored_parts(plan: UploadPlan, files: Sequence[SourceFile], notes: UploadNotes) -> tuple[StoredPart, ...]:
    """Return what a later upload may refer to, once all objects of this one are complete."""
    found = []
    for index, planned in enumerate(plan.objects):
        noted, whole = notes.parts.get(index, {}), len(planned.parts) == 1
        etag = noted[1].etag if whole else notes.etags.get(index, "")
        if planned.size_bytes < COPY_MIN_BYTES or not etag:
            continue
        content = _content_of(planned, files)
        for part in planned.parts:
            md5 = notes.md5s.get((index, part.number)) or md5_in(noted[part.number].etag)
            source = CopySource(planned.key, etag, part.offset, part.size_bytes, noted[part.number].crc32)
            found.append(StoredPart(source, whole, md5, content))
    return tuple(found)


def md5_in(etag: str) -> str:
    """Return the MD5 that an etag is; empty where it is none."""
    known = _MD5.fullmatch(etag)
    return known[1] if known else ""


def _content_of(planned: PlannedObject, files: Sequence[SourceFile]) -> str:
    """Return the name of an object's content where the object is a file; an archive has none."""
    is_file = len(planned.segments) == 1 and planned.segments[0].file_index >= 0
    return files[planned.segments[0].file_index].content if is_file else ""


class _Known:
    """The parts of one checkpoint, by what they can be recognised by."""

    def __init__(self, parts: Iterable[StoredPart], part_bytes: int) -> None:
        self.part_bytes = part_bytes
        self.by_content: dict[tuple[bool, str, int, int], StoredPart] = {}
        self.by_sum: dict[tuple[bool, int, int, int], StoredPart] = {}
        #: Objects of several parts, by their size.
        self.in_parts: dict[int, list[tuple[StoredPart, ...]]] = {}
        parts = tuple(parts)
        for _, group in itertools.groupby(parts, lambda part: part.source.key):
            if not (of_object := tuple(group))[0].whole:
                last = of_object[-1].source
                self.in_parts.setdefault(last.offset + last.size_bytes, []).append(of_object)
        for part in parts:
            source = part.source
            if part.content:
                self.by_content[part.whole, part.content, source.offset, source.size_bytes] = part
            self.by_sum[part.whole, source.crc32, source.offset, source.size_bytes] = part


class StoredBefore:
    """The parts of the last checkpoints that one worker has stored; `ckpt_async.transfer.recalling` brings what was stored before
    it.

    Parameters
    ----------
    tell : callable
        Called with a sentence for the user where the store does not copy.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._known: dict[tuple[str, str], _Known] = {}
        self._gone: set[str] = set()
        #: Whether the store has refused to copy, for a reason that does not pass.
        self.refused = False

    def remember(self, record: CheckpointRecord, parts: Iterable[StoredPart], part_bytes: int) -> None:
        """Note what a committed checkpoint is made of; the last one of its name and format is forgotten.

        Parameters
        ----------
        part_bytes : int
            The size of its parts.
        """
        kind = (record.name, record.storage_format)
        self._known.pop(kind, None)
        self._known[kind] = _Known(parts, part_bytes)
        if len(self._known) > CHECKPOINTS_KNOWN:
            del self._known[next(iter(self._known))]
        self._gone.clear()

    def part_bytes(self, record: CheckpointRecord) -> int | None:
        """Return the size of the parts of the last checkpoint of this name and format: only parts of one size can be compared."""
        known = self._known.get((record.name, record.storage_format))
        return known.part_bytes if known is not None else None

    def with_content(self, content: str, *, whole: bool, part: PlannedPart) -> StoredPart | None:
        """Return a stored part with this content, in the same place of its file."""
        return self._first(known.by_content.get((whole, content, part.offset, part.size_bytes)) for known in self._known.values())

    def with_sum(self, crc32: int, *, whole: bool, part: PlannedPart) -> StoredPart | None:
        """Return a stored part that has this CRC-32, in the same place of its object."""
        return self._first(known.by_sum.get((whole, crc32, part.offset, part.size_bytes)) for known in self._known.values())

    def objects_of(self, size_bytes: int) -> list[tuple[StoredPart, ...]]:
        """Return the stored objects of this size that were made of several parts: the parts of each, in order."""
        found = [parts for known in self._known.values() for parts in known.in_parts.get(size_bytes, ())]
        return [parts for parts in found if parts[0].source.key not in self._gone]

    def _first(self, found: Iterable[StoredPart | None]) -> StoredPart | None:
        return next((part for part in found if part is not None and part.source.key not in self._gone), None)

    def forget(self, key: str) -> None:
        """An object is not in the store any more."""
        self._gone.add(key)

    def tell_once(self, kind: str, text: str) -> None:
        """Tell the user, unless that has been done."""
        if kind not in self._told:
            self._told.add(kind)
            self._tell(text)


class Copying:
    """What of one upload is copied.

    Parameters
    ----------
    store : Store
        Asked for copies.
    before : StoredBefore
        What may be copied.
    files : sequence of SourceFile
        Of the upload.
    """

    def __init__(self, store: Store, before: StoredBefore, files: Sequence[SourceFile]) -> None:
        self._store = store
        self._url = store.traits.url
        self._before = before
        self._files = files
        self._paused = before.refused
        self._far = store.traits.far

    def unread(self, planned: PlannedObject, part: PlannedPart) -> StoredPart | None:
        """Return the stored part that has the bytes of this one by the name of their content."""
        content = _content_of(planned, self._files)
        if self._paused or not content or not self._copies(planned):
            return None
        return self._before.with_content(content, whole=len(planned.parts) == 1, part=part)

    async def read(self, planned: PlannedObject, part: PlannedPart, body: Body) -> tuple[StoredPart | None, str]:
        """Return the stored part that has the bytes of this one by their sums, and their MD5 where it was computed."""
        if self._paused or not self._far or planned.size_bytes < COPY_MIN_BYTES:
            return None, ""
        similar = self._before.with_sum(body.crc32, whole=len(planned.parts) == 1, part=part)
        if similar is None:
            return None, ""
        md5 = await self.md5_of(body)
        return (similar if md5 == similar.md5 and self._copies(planned) else None), md5

    def _copies(self, planned: PlannedObject) -> bool:
        """Whether the store copies a part of this object."""
        copies = self._store.traits.copies
        return copies == "ranges" or (copies == "objects" and len(planned.parts) == 1)

    def objects_like(self, planned: PlannedObject) -> list[tuple[StoredPart, ...]]:
        """Return stored objects that a whole object may be a copy of, in parts of the same size, for a store that copies no
        ranges.
        """
        if self._paused or len(planned.parts) == 1 or self._store.traits.copies != "objects":
            return []
        sizes = [part.size_bytes for part in planned.parts]
        found = self._before.objects_of(planned.size_bytes)
        return [parts for parts in found if [part.source.size_bytes for part in parts] == sizes]

    def same_content(self, planned: PlannedObject, parts: Sequence[StoredPart]) -> bool:
        """Whether an object has the content of stored parts, by its name."""
        content = _content_of(planned, self._files)
        return bool(content) and all(part.content == content for part in parts)

    @staticmethod
    async def md5_of(body: Body) -> str:
        """Return the MD5 of a body."""
        return await anyio.to_thread.run_sync(_md5_of, body)

    async def tried(self, same: StoredPart, copy: Callable[[CopySource], Awaitable[_T]]) -> _T | None:
        """Return what a copy returns, or None where the part must be sent after all. Only what may pass by itself is raised."""
        with anyio.move_on_after(COPY_TIMEOUT_S):
            try:
                return await copy(same.source)
            except (StoreObjectMissing, StorePreconditionFailed):
                # Deleted meanwhile, by its user or by a rule of the store.
                self._before.forget(same.source.key)
                return None
            except StoreUnavailable:
                raise
            except StoreError as error:
                if not same.whole and self._store.traits.copies == "objects":
                    return None  # It has just learnt that it copies no ranges. Objects it may.
                self._paused = self._before.refused = True
                self._before.tell_once("refused", f"{self._url} does not copy what has not changed: it is sent again. {error}")
                return None
        self._paused = True
        self._before.tell_once(
            "slow", f"{self._url} took more than {COPY_TIMEOUT_S:.0f} s for a copy: what has not changed is sent again."
        )
        return None


def _md5_of(body: Body) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    for chunk in body.chunks:
        md5.update(chunk)
    return md5.hexdigest()
