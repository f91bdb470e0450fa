"""Digests of files: CRC-32 as in zlib, joined from those of the parts without reading the file again."""

from __future__ import annotations

from functools import lru_cache

from ckpt_async.words.errors import InvalidArgument

# The same sums, by the processor's instructions for them: a quarter of the time. A bare image, where a load may run, lacks it.
try:
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32", "crc32_combine", "format_digest"]

# Polynomials over GF(2) of degree below 32, bits mirrored as CRC-32 has them: bit 31 is the coefficient of x^0, bit 0 that of x^31.
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
_X_TO_THE_8 = 1 << 23


def _multiply(left: int, right: int) -> int:
    """Return the product of two polynomials modulo the CRC's own."""
    product = 0
    bit = _ONE
    while bit:
        if left & bit:
            product ^= right
        right = (right >> 1) ^ _POLYNOMIAL if right & 1 else right >> 1
        bit >>= 1
    return product


# Parts of one upload all have the same length but the last, so a few operators serve a whole file; finding one takes up to 60
# multiplications, using it takes one.
@lru_cache(maxsize=256)
def _shift_operator(size_bytes: int) -> int:
    """Return x^(8 * size_bytes): what appending that many bytes does to the sum of what stands before them."""
    operator = _ONE
    square = _X_TO_THE_8
    while size_bytes:
        if size_bytes & 1:
            operator = _multiply(square, operator)
        square = _multiply(square, square)
        size_bytes >>= 1
    return operator


def crc32_combine(first: int, second: int, second_size_bytes: int) -> int:
    """Return the CRC-32 of two pieces put together, from the sums of each.

    Parameters
    ----------
    first, second : int
        ``zlib.crc32`` of the pieces.
    second_size_bytes : int
        The length of the second piece.

    Returns
    -------
    int
        ``zlib.crc32(first_piece + second_piece)``. Costs microseconds; the first call for a length some hundred.

    Raises
    ------
    InvalidArgument
        The length is negative.
    """
    if second_size_bytes < 0:
        raise InvalidArgument("combine two checksums", on=f"{second_size_bytes} bytes", cause="a length is never negative")
    return _multiply(_shift_operator(second_size_bytes), first & 0xFFFFFFFF) ^ (second & 0xFFFFFFFF)


def format_digest(crc32: int) -> str:
    """Return a CRC-32 in the form of manifests: 8 hexadecimal digits."""
    return f"{crc32 & 0xFFFFFFFF:08x}"
