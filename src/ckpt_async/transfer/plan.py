"""What an upload will do, decided before it begins: objects, parts, and where their bytes come from.

Every object is a run of segments: a piece of a local file, or literal bytes (the headers of a tar). A plain file is an object
of one segment, an archive is one of many; from there on both are treated alike.
"""

from __future__ import annotations

import bisect
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ckpt_async.stores.contract import StoreTraits
from ckpt_async.transfer.line_speed import PART_BYTES
from ckpt_async.words.records import CheckpointRecord

__all__ = [
    "PlannedObject",
    "PlannedPart",
    "Segment",
    "SourceFile",
    "UploadPlan",
    "largest_object_bytes",
    "make_plan",
    "part_bytes_within",
    "tar_size_bytes",
]

MIB = 1024 * 1024

#: The share of a store's limit on parts that a plan uses at most.
PARTS_SHARE = 0.9


@dataclass(frozen=True)
class SourceFile:
    """A frozen local file.

    Attributes
    ----------
    path : str
        Relative to the saved folder.
    local_path, local_offset
        Where its bytes lie.
    content : str
        Files with one name here hold the same bytes; empty where nothing is known.
    """

    path: str
    size_bytes: int
    mode: int
    mtime_ns: int
    local_path: str
    local_offset: int
    content: str = ""


@dataclass(frozen=True)
class Segment:
    """A run of bytes of an object.

    Attributes
    ----------
    size_bytes : int
        Its length.
    file_index : int
        Of the file that it is content of; -1 for literal bytes.
    literal : bytes
        Empty for content.
    """

    size_bytes: int
    file_index: int = -1
    literal: bytes = b""


@dataclass(frozen=True)
class PlannedPart:
    """A part of an object; `number` counts from 1."""

    number: int
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class PlannedObject:
    """An object to be stored.

    Attributes
    ----------
    key : str
        In the store.
    segments : tuple of Segment
        Its content.
    parts : tuple of PlannedPart
        One part: a plain put; more: a multipart upload.
    starts : tuple of int
        The offset of each segment.
    """

    key: str
    segments: tuple[Segment, ...]
    parts: tuple[PlannedPart, ...]
    starts: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.parts[-1].offset + self.parts[-1].size_bytes

    def pieces(self, part: PlannedPart) -> list[tuple[Segment, int, int]]:
        """Return the (segment, offset in it, length) triples that make up a part."""
        found = []
        offset, left = part.offset, part.size_bytes
        index = max(0, bisect.bisect_right(self.starts, offset) - 1)
        while left:
            segment = self.segments[index]
            inside = offset - self.starts[index]
            length = min(left, segment.size_bytes - inside)
            if length:
                found.append((segment, inside, length))
            offset, left, index = offset + length, left - length, index + 1
        return found


@dataclass(frozen=True)
class UploadPlan:
    """All objects of a checkpoint, and where in the archive each file starts (-1: an object of its own)."""

    objects: tuple[PlannedObject, ...]
    tar_offsets: tuple[int, ...]
    part_bytes: int

    @property
    def total_bytes(self) -> int:
        """What will be sent if nothing is there yet."""
        return sum(part.size_bytes for planned in self.objects for part in planned.parts)


def make_plan(
    record: CheckpointRecord,
    files: Sequence[SourceFile],
    directories: Sequence[str],
    traits: StoreTraits,
    part_bytes: int = PART_BYTES,
) -> UploadPlan:
    """Plan the upload of a checkpoint. The same input gives the same plan, so that a later worker can take an upload up again.

    Parameters
    ----------
    part_bytes : int
        The size of parts that is wanted; that of the plan may differ where the store has other bounds.
    """
    if record.storage_format == "tar":
        segments, tar_offsets = _tar_segments(files, directories)
        size_bytes = sum(segment.size_bytes for segment in segments)
        part_bytes = part_bytes_within(size_bytes, traits, part_bytes)
        return UploadPlan((_object(record.key, segments, part_bytes),), tuple(tar_offsets), part_bytes)
    part_bytes = part_bytes_within(largest_object_bytes(record, files), traits, part_bytes)
    objects = tuple(
        _object(f"{record.key}/{file.path}", [Segment(file.size_bytes, index)], part_bytes) for index, file in enumerate(files)
    )
    return UploadPlan(objects, (-1,) * len(files), part_bytes)


def tar_size_bytes(files: Sequence[SourceFile], directories: Sequence[str]) -> int:
    """Return the size of the archive of these files, without laying it out."""
    size_bytes = sum(_tar_header_bytes(path, 0) for path in directories)
    for file in files:
        size_bytes += _tar_header_bytes(file.path, file.size_bytes) + file.size_bytes + -file.size_bytes % tarfile.BLOCKSIZE
    size_bytes += 2 * tarfile.BLOCKSIZE
    return size_bytes + -size_bytes % tarfile.RECORDSIZE


def _tar_header_bytes(path: str, size_bytes: int) -> int:
    if path.isascii() and len(path) < tarfile.LENGTH_NAME and size_bytes < 8**11:
        return tarfile.BLOCKSIZE  # Fits into the plain header; it is what nearly every file has.
    info = tarfile.TarInfo(path)
    info.size = size_bytes
    return len(info.tobuf(tarfile.PAX_FORMAT))


def largest_object_bytes(record: CheckpointRecord, files: Sequence[SourceFile]) -> int:
    """Return the size of the largest object that these files become: the archive, or the largest of them."""
    if record.storage_format == "tar":
        return record.size_bytes
    return max((file.size_bytes for file in files), default=0)


def part_bytes_within(largest_bytes: int, traits: StoreTraits, wanted_bytes: int) -> int:
    """Return the size of parts that is nearest to the wanted one and suits a store, for objects of up to `largest_bytes`."""
    needed = -(-largest_bytes // max(1, int(traits.max_parts * PARTS_SHARE)))
    rounded = -(-needed // MIB) * MIB
    return max(traits.min_part_bytes, min(traits.max_part_bytes, max(wanted_bytes, rounded)))


def _object(key: str, segments: Sequence[Segment], part_bytes: int) -> PlannedObject:
    size_bytes = sum(segment.size_bytes for segment in segments)
    parts = [
        PlannedPart(number, offset, min(part_bytes, size_bytes - offset))
        for number, offset in enumerate(range(0, size_bytes, part_bytes), 1)
    ] or [PlannedPart(1, 0, 0)]
    starts = (0, *accumulate(segment.size_bytes for segment in segments))[:-1] if segments else ()
    return PlannedObject(key, tuple(segments), tuple(parts), tuple(starts))


def _tar_segments(files: Sequence[SourceFile], directories: Sequence[str]) -> tuple[list[Segment], list[int]]:
    """Lay out an uncompressed tar: its size and every offset are known before a byte is read, so it needs no temporary file."""
    segments: list[Segment] = []
    tar_offsets: list[int] = []
    position = 0

    def add(segment: Segment) -> None:
        nonlocal position
        if segment.size_bytes:
            segments.append(segment)
            position += segment.size_bytes

    for path in sorted(directories):
        info = tarfile.TarInfo(path)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        add(_literal(info.tobuf(tarfile.PAX_FORMAT)))
    for index, file in enumerate(files):
        info = tarfile.TarInfo(file.path)
        info.size, info.mode, info.mtime = file.size_bytes, file.mode, file.mtime_ns // 10**9
        add(_literal(info.tobuf(tarfile.PAX_FORMAT)))
        tar_offsets.append(position)
        add(Segment(file.size_bytes, index))
        add(_literal(b"\0" * (-file.size_bytes % tarfile.BLOCKSIZE)))
    # Two empty blocks end an archive, which is then filled up to a whole record.
    add(_literal(b"\0" * (2 * tarfile.BLOCKSIZE + -(position + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)))
    return segments, tar_offsets


def _literal(content: bytes) -> Segment:
    return Segment(len(content), -1, content)
