"""Reading a part from local files: one read gives the bytes that are sent and the digests that are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ckpt_async.disk.digests import crc32, crc32_combine
from ckpt_async.stores.contract import Body
from ckpt_async.transfer.plan import PlannedObject, PlannedPart, SourceFile
from ckpt_async.words.errors import SpoolDamaged

__all__ = ["FilePiece", "ReadPart", "digest_of_pieces", "read_part"]

CHUNK_BYTES = 1024 * 1024

#: A file is replaced once, if at all.
READ_TRIES = 3

#: Joining two sums costs up to 0.2 ms for a length that was not seen before; below this size, summing the bytes again is cheaper.
JOIN_FROM_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FilePiece:
    """The CRC-32 of a run of bytes of a file."""

    file_index: int
    offset: int
    size_bytes: int
    crc32: int


@dataclass(frozen=True)
class ReadPart:
    """A part in memory, and what was learnt about the files while reading it."""

    body: Body
    pieces: tuple[FilePiece, ...]


def read_part(planned: PlannedObject, part: PlannedPart, files: Sequence[SourceFile], room: memoryview) -> ReadPart:
    """Read one part. Blocking: call it in a thread.

    Parameters
    ----------
    room : memoryview
        Where its bytes go: at least as long as the part.

    Raises
    ------
    SpoolDamaged
        A file of the snapshot is missing or shorter than it was.
    """
    pieces: list[FilePiece] = []
    whole = position = 0
    for segment, inside, length in planned.pieces(part):
        target = room[position : position + length]
        if segment.file_index < 0:
            target[:] = segment.literal[inside : inside + length]
            crc = crc32(target)
        else:
            crc = _read(files[segment.file_index], inside, target)
            pieces.append(FilePiece(segment.file_index, inside, length, crc))
        if not position:
            whole = crc
        elif length >= JOIN_FROM_BYTES:
            whole = crc32_combine(whole, crc, length)
        else:
            whole = crc32(target, whole)
        position += length
    return ReadPart(Body((room[:position],), part.size_bytes, whole), tuple(pieces))


def _read(file: SourceFile, inside: int, target: memoryview) -> int:
    """Read a run of bytes from the file that stands at the path, and return its CRC-32; a file that is replaced meanwhile is read
    again.

    What holds the place of a frozen file may be replaced by another with the same content, and be written to from then on: as long
    as it stands there it is right.
    """
    for _ in range(READ_TRIES):
        try:
            descriptor = os.open(file.local_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(file, error.strerror or str(error)) from error
        try:
            done, crc = _read_open(descriptor, file.local_offset + inside, target)
            if os.fstat(descriptor).st_ino == os.stat(file.local_path).st_ino:
                break
        except OSError as error:
            raise _unreadable(file, error.strerror or str(error)) from error
        finally:
            os.close(descriptor)
    else:
        raise _unreadable(file, f"it was replaced {READ_TRIES} times while it was read")
    if missing_bytes := len(target) - done:
        raise SpoolDamaged(
            "read a snapshot",
            on=file.local_path,
            cause=f"it ends {missing_bytes} bytes early inside {file.path!r}",
            hint="Something other than ckpt-async has changed the spool.",
        )
    return crc


def _read_open(descriptor: int, position: int, target: memoryview) -> tuple[int, int]:
    """Fill `target`; return how many bytes there were, fewer where the file ends, and their CRC-32."""
    done = crc = 0
    os.lseek(descriptor, position, os.SEEK_SET)
    while done < len(target):
        piece = target[done : done + CHUNK_BYTES]
        size_bytes = os.readv(descriptor, [piece])
        if not size_bytes:
            break
        crc = crc32(piece[:size_bytes], crc)
        done += size_bytes
    return done, crc


def _unreadable(file: SourceFile, cause: str) -> SpoolDamaged:
    return SpoolDamaged("read a snapshot", on=file.local_path, cause=f"{cause}; it holds {file.path!r} of a saved checkpoint")


def digest_of_pieces(pieces: Sequence[FilePiece], size_bytes: int) -> int | None:
    """Return the CRC-32 of a whole file from those of its pieces, or None where they don't cover it exactly."""
    crc, position = 0, 0
    for piece in sorted(pieces, key=lambda piece: piece.offset):
        if piece.offset != position:
            return None
        crc = crc32_combine(crc, piece.crc32, piece.size_bytes) if position else piece.crc32
        position += piece.size_bytes
    return crc if position == size_bytes else None
