"""CRC-32 of joined pieces."""

from __future__ import annotations

import zlib
from functools import reduce

import pytest
from hypothesis import given, strategies as st

from ckpt_async.disk.digests import crc32, crc32_combine, format_digest
from ckpt_async.words.errors import InvalidArgument


@given(st.binary(max_size=9000), st.binary(max_size=9000))
def test_a_sum_is_that_of_zlib_whoever_computes_it(first: bytes, second: bytes) -> None:
    # A machine without zlib-ng verifies what one with it has stored.
    assert crc32(memoryview(first + second)[len(first) :], crc32(first)) == zlib.crc32(first + second)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_pieces(first: bytes, second: bytes) -> None:
    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_many_pieces_from_the_left(pieces: list[bytes]) -> None:
    joined = reduce(lambda total, piece: crc32_combine(total, zlib.crc32(piece), len(piece)), pieces, 0)
    assert joined == zlib.crc32(b"".join(pieces))


def test_pieces_of_a_real_size() -> None:
    part = bytes(range(256)) * 65536
    tail = b"the last part is smaller"
    joined = crc32_combine(zlib.crc32(part), zlib.crc32(part), len(part))
    joined = crc32_combine(joined, zlib.crc32(tail), len(tail))
    assert joined == zlib.crc32(tail, zlib.crc32(part, zlib.crc32(part)))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**50), st.integers(0, 2**50))
def test_zeros_of_lengths_that_no_memory_holds(first: int, one: int, other: int) -> None:
    """Appending as many bytes at once or in two goes is the same; the pieces here are sums of 0, which needs no content."""
    assert crc32_combine(crc32_combine(first, 0, one), 0, other) == crc32_combine(first, 0, one + other)


def test_an_empty_second_piece_changes_nothing() -> None:
    assert crc32_combine(0xDEADBEEF, 0, 0) == 0xDEADBEEF


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="-1"):
        crc32_combine(0, 0, -1)


@pytest.mark.parametrize(("number", "text"), [(0, "00000000"), (0xAB, "000000ab"), (0xFFFFFFFF, "ffffffff")])
def test_a_digest_has_eight_digits(number: int, text: str) -> None:
    assert format_digest(number) == text
