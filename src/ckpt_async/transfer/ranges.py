"""Which ranges of which objects a load reads: a pure function of what is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["RANGE_BYTES", "Piece", "RangeRead", "WantedFile", "pieces_of", "plan_reads"]

#: Bytes read by one request at most: as much as a part has when it is sent, which servers often keep as one piece. Files that lie
#: together in one object are read together up to that.
RANGE_BYTES = 16 * 1024 * 1024

#: Bytes between two files of one object (headers, padding) that are read along with them rather than left out by a request more.
GAP_BYTES = 64 * 1024


@dataclass(frozen=True)
class WantedFile:
    """A file to be loaded.

    Attributes
    ----------
    path : str
        Relative to the folder that is loaded into.
    size_bytes : int
        Its length.
    key : str
        The object that holds it.
    offset : int
        Where its content starts in that object, in bytes.
    digest : str
        What its content must have; empty where that is not known.
    mode : int or None
        The permission bits that it gets; None: those of any new file.
    mtime_ns : int or None
        The time that it gets, nanoseconds since 1970; None: that of the load.
    """

    path: str
    size_bytes: int
    key: str
    offset: int
    digest: str
    mode: int | None
    mtime_ns: int | None


@dataclass(frozen=True)
class Piece:
    """A part of a file inside a range that is read.

    Attributes
    ----------
    file_index : int
        Of the wanted file.
    file_offset : int
        Where it starts in the file, in bytes.
    inside : int
        Where it starts in the range, in bytes.
    size_bytes : int
        Its length.
    """

    file_index: int
    file_offset: int
    inside: int
    size_bytes: int


@dataclass(frozen=True)
class RangeRead:
    """One request, and what of the files it brings."""

    key: str
    offset: int
    size_bytes: int
    pieces: tuple[Piece, ...]


def pieces_of(file: WantedFile) -> int:
    """Return how many pieces `plan_reads` takes a file in."""
    return -(-file.size_bytes // RANGE_BYTES)


def plan_reads(files: Sequence[WantedFile]) -> Iterator[RangeRead]:
    """Yield the reads that bring all files; empty files need none. One by one, for sizes may be anything that a manifest claims.

    Parameters
    ----------
    files : sequence of WantedFile
        Those of one object are read in the order in which they lie there.
    """
    together: list[tuple[int, WantedFile]] = []
    for index, file in sorted(enumerate(files), key=lambda numbered: (numbered[1].key, numbered[1].offset)):
        if not file.size_bytes:
            continue
        if together and not _fits(together, file):
            yield _joined(together)
            together = []
        if file.size_bytes <= RANGE_BYTES:
            together.append((index, file))
            continue
        for start in range(0, file.size_bytes, RANGE_BYTES):
            length = min(RANGE_BYTES, file.size_bytes - start)
            yield RangeRead(file.key, file.offset + start, length, (Piece(index, start, 0, length),))
    if together:
        yield _joined(together)


def _fits(together: list[tuple[int, WantedFile]], file: WantedFile) -> bool:
    """Return whether a file is read along with those before it."""
    first, last = together[0][1], together[-1][1]
    end = last.offset + last.size_bytes
    return (
        file.key == first.key
        and end <= file.offset <= end + GAP_BYTES
        and file.offset + file.size_bytes - first.offset <= RANGE_BYTES
    )


def _joined(together: list[tuple[int, WantedFile]]) -> RangeRead:
    first, last = together[0][1], together[-1][1]
    pieces = tuple(Piece(index, 0, file.offset - first.offset, file.size_bytes) for index, file in together)
    return RangeRead(first.key, first.offset, last.offset + last.size_bytes - first.offset, pieces)
