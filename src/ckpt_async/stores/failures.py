"""What stores do alike when sums don't match or several calls failed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from ckpt_async.stores.contract import Body
from ckpt_async.words.errors import StoreError, StoreRejected, StoreUnavailable

__all__ = ["damaged", "worst"]


def damaged(error: StoreError, body: Body) -> StoreError:
    """Return the error for bytes that arrived with another sum than they were sent with.

    Parameters
    ----------
    error : StoreError
        What the server said.
    body : Body
        What was sent: looked at once more, to tell damage on the way from damage before it.
    """
    crc = 0
    for chunk in body.chunks:
        crc = zlib.crc32(chunk, crc)
    if crc == body.crc32:
        return StoreUnavailable(error.attempted, on=error.on, cause=f"the bytes were damaged on the way ({error.cause})")
    cause = "the checksum is not that of the bytes: they changed in memory, or at their source"
    return StoreRejected(error.attempted, on=error.on, cause=cause)


def worst(failures: Sequence[StoreError]) -> StoreError:
    """Return the failure that matters most: a permanent one, since a repetition won't help against it."""
    first = next((failure for failure in failures if not failure.transient), failures[0])
    if len(failures) == 1:
        return first
    return type(first)(first.attempted, on=first.on, cause=f"{first.cause} (and {len(failures) - 1} others)", hint=first.hint)
