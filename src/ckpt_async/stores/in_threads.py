"""Calls of a blocking client, made in threads: how the stores on Azure and Google Cloud reach their servers.

The official clients block, or need aiohttp where they don't, which a bare image of a remote task lacks: Metaflow installs the
blocking ones there. A call that is cancelled leaves its thread behind, which ends at the next piece of data, or at the socket's
timeout. It touches nothing of the caller's any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from ckpt_async.stores.contract import Body, Chunk
from ckpt_async.stores.http_client import Sending
from ckpt_async.stores.pacing import Pace
from ckpt_async.stores.tickets import Ticket
from ckpt_async.words.errors import StoreError, StoreUnavailable

__all__ = ["BlockingClient", "Call", "Caller", "PacedBody", "Patience"]

PIECE_BYTES = 256 * 1024
CLOSE_TIMEOUT_S = 5.0
#: For what makes access and client: before there is an access, nothing says how patient one should be.
OPEN_TIMEOUT_S = 70.0
#: How exactly a deadline is kept that moved bytes push on, as a share of it.
MOVED_SHARE = 0.01


class BlockingClient(Protocol):
    """A client of a store that blocks, and may be used by several threads at once."""

    @property
    def patience(self) -> Patience:
        """How many threads may use it, and for how long one waits."""

    def close(self) -> None:
        """Close its connections."""

    def refused(self, error: Exception) -> bool:
        """Whether the credentials were refused, and others may be at hand now."""

    def translate(self, error: Exception, attempted: str, on: str) -> StoreError | None:
        """Return the store's error for a failure; None for one that is no failure of the store, but a mistake of ours."""


@dataclass(frozen=True)
class Patience:
    """Bounds of a client.

    Attributes
    ----------
    threads_at_once : int
        How many calls at a time.
    limit_s : float
        How long a call waits while nothing moves.
    """

    threads_at_once: int
    limit_s: float


C = TypeVar("C", bound=BlockingClient)
T = TypeVar("T")


class PacedBody:
    """The bytes of a request as `requests` sends them with the least work: something with a length that gives pieces, from the
    beginning each time.

    Parameters
    ----------
    chunks : tuple of bytes or memoryview
        The content.
    size_bytes : int
        Its length.
    how : Sending
        At which pace, and who is told; both in the loop.
    ticket : Ticket
        Of the call.
    """

    def __init__(self, chunks: tuple[Chunk, ...], size_bytes: int, how: Sending, ticket: Ticket) -> None:
        self._chunks = chunks
        self._size_bytes = size_bytes
        self._how = how
        self._ticket = ticket
        self._piece_bytes = min(PIECE_BYTES, how.piece_bytes)

    def __len__(self) -> int:
        return self._size_bytes

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), self._piece_bytes):
                piece = view[start : start + self._piece_bytes]
                self._ticket.check()
                anyio.from_thread.run(self._step, len(piece))
                with self._ticket.hold():
                    # A copy: once the call has ended, its memory is used for something else, and this piece may still be going out.
                    copied = bytes(piece)
                yield copied

    async def _step(self, size_bytes: int) -> None:
        self._how.moved()
        await self._how.pace(size_bytes)


class Call:
    """What runs in a thread for one call has this at hand."""

    def __init__(self, how: Sending, ticket: Ticket) -> None:
        self._how = how
        self._ticket = ticket

    def stream(self, body: Body, before: bytes = b"", after: bytes = b"") -> PacedBody | bytes:
        """Return a body to be sent, with something around it."""
        chunks = (before, *body.chunks, after)
        size_bytes = len(before) + body.size_bytes + len(after)
        # requests takes something without a length for a body of unknown length.
        return PacedBody(chunks, size_bytes, self._how, self._ticket) if size_bytes else b""

    def joined(self, body: Body) -> bytes:
        """Return a small body as it is, at the pace of the others."""
        self._ticket.check()
        anyio.from_thread.run(self._pace, body.size_bytes)
        with self._ticket.hold():
            return b"".join(body.chunks)

    async def _pace(self, size_bytes: int) -> None:
        # In pieces: under a low cap, the time that one body takes is longer than a call waits.
        while size_bytes > 0:
            piece_bytes = min(PIECE_BYTES, self._how.piece_bytes, size_bytes)
            await self._how.pace(piece_bytes)
            self._how.moved()
            size_bytes -= piece_bytes

    def moved(self) -> None:
        """Say that bytes have moved; ends the thread where the call is not wanted any more."""
        self._ticket.check()
        anyio.from_thread.run_sync(self._how.moved)

    def fill(self, view: memoryview, data: Chunk) -> None:
        """Put data into memory of the caller's, unless that is not wanted any more."""
        with self._ticket.hold():
            view[: len(data)] = data


class Caller(Generic[C]):
    """Makes the client with the first call, carries calls out, and closes it.

    Parameters
    ----------
    make : callable
        Returns the client; called in a thread, until it returns once.
    translate : callable
        Returns the store's error for what `make` has raised, given that, what was attempted and on what; None for a mistake of
        ours.
    pace : Pace
        For the bodies of all calls.
    """

    def __init__(self, make: Callable[[], C], translate: Callable[[Exception, str, str], StoreError | None], pace: Pace) -> None:
        self._make = make
        self._translate = translate
        self._pace = pace
        self._lock = anyio.Lock()
        self._client: C | None = None
        self._limiter: anyio.CapacityLimiter | None = None

    async def call(self, attempted: str, on: str, act: Callable[[C, Call], T]) -> T:
        """Run `act` in a thread: under a deadline that every moved byte pushes on, with its failure translated. Where the
        credentials were refused it is run once more, by then with renewed ones.
        """
        client, limiter = await self._get(on)
        renewed = False
        while True:
            try:
                return await self._bounded(client, limiter, attempted, on, act)
            except StoreError:
                raise
            except Exception as error:
                if not renewed and client.refused(error):
                    renewed = True
                    continue
                translated = client.translate(error, attempted, on)
                if translated is None:
                    raise
                raise translated from error

    async def _bounded(self, client: C, limiter: anyio.CapacityLimiter, attempted: str, on: str, act: Callable[[C, Call], T]) -> T:
        limit_s = client.patience.limit_s
        noted_s = time.monotonic()
        ticket = Ticket()
        # The client's own timeout is for one read of a socket; who sends a byte now and then would never end.
        with anyio.CancelScope(deadline=asyncio.get_running_loop().time() + limit_s) as scope:

            def moved() -> None:
                nonlocal noted_s
                now_s = time.monotonic()
                if now_s - noted_s >= limit_s * MOVED_SHARE:
                    noted_s = now_s
                    scope.deadline = asyncio.get_running_loop().time() + limit_s

            call = Call(Sending(moved, self._pace.take, self._pace.piece_bytes), ticket)
            try:
                return await anyio.to_thread.run_sync(act, client, call, abandon_on_cancel=True, limiter=limiter)
            finally:
                ticket.give_up()
        raise StoreUnavailable(attempted, on=on, cause=f"nothing moved for {limit_s:.0f} s")

    async def _get(self, on: str) -> tuple[C, anyio.CapacityLimiter]:
        if self._client is None or self._limiter is None:
            async with self._lock:
                if self._client is None or self._limiter is None:
                    self._client = await self._open(on)
                    self._limiter = anyio.CapacityLimiter(self._client.patience.threads_at_once)
        return self._client, self._limiter

    async def _open(self, on: str) -> C:
        """Make the client, within the time that a request has: what gives out credentials may be silent for ever."""
        attempted = "make a client of the store"
        with anyio.CancelScope(deadline=asyncio.get_running_loop().time() + OPEN_TIMEOUT_S):
            try:
                return await anyio.to_thread.run_sync(self._make, abandon_on_cancel=True)
            except StoreError:
                raise
            except Exception as error:
                translated = self._translate(error, attempted, on)
                if translated is None:
                    raise
                raise translated from error
        raise StoreUnavailable(attempted, on=on, cause=f"no answer for {OPEN_TIMEOUT_S:.0f} s")

    async def close(self) -> None:
        """Close the client; another one is made if there is another call."""
        client, self._client, self._limiter = self._client, None, None
        if client is not None:
            # Under a shield, since it also runs on cancellation; with a deadline, since a dead peer must not hold it.
            with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await anyio.to_thread.run_sync(client.close, abandon_on_cancel=True)
