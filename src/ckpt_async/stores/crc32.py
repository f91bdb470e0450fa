"""CRC32 as S3 wants it: of a whole from those of its parts, and as text."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from ckpt_async.disk.digests import crc32_combine

__all__ = ["combined_crc32", "encode_crc32"]


def combined_crc32(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC32 of the joined parts, each given as its CRC32 and its length in bytes.

    Parts are of a few different lengths, so it costs microseconds each.
    """
    crc = 0
    for part_crc, size_bytes in parts:
        crc = crc32_combine(crc, part_crc, size_bytes)
    return crc


def encode_crc32(crc: int) -> str:
    """Return a CRC32 in the form of S3's headers: base64 of four bytes, the highest first."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")
