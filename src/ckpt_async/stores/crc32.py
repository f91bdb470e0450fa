"""The CRC32 of a whole from the CRC32s of its parts, without their bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["combined_crc32", "encode_crc32"]

# The polynomial of zlib.crc32, bits reversed: the highest bit stands for x**0.
_POLYNOMIAL = 0xEDB88320
_ONE = 0x80000000


def _multiply(left: int, right: int) -> int:
    """Multiply two polynomials modulo the CRC's."""
    product = 0
    bit = _ONE
    while bit:
        if left & bit:
            product ^= right
        right = (right >> 1) ^ _POLYNOMIAL if right & 1 else right >> 1
        bit >>= 1
    return product


@lru_cache(maxsize=64)
def _shift(size_bytes: int) -> int:
    """Return x to the power of 8 * `size_bytes`: what appending so many bytes multiplies a CRC with."""
    result, power = _ONE, _ONE >> 8
    while size_bytes:
        if size_bytes & 1:
            result = _multiply(power, result)
        power = _multiply(power, power)
        size_bytes >>= 1
    return result


def combined_crc32(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC32 of the joined parts, each given as its CRC32 and its length in bytes.

    Parts are of a few different lengths, so it costs microseconds each.
    """
    crc = 0
    for part_crc, size_bytes in parts:
        crc = _multiply(_shift(size_bytes), crc) ^ part_crc
    return crc


def encode_crc32(crc: int) -> str:
    """Return a CRC32 in the form of S3's headers: base64 of four bytes, the highest first."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")
