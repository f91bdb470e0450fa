"""How one request of an S3 store is carried out: by which way, under which deadline, and what is tried when it is refused."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread
from botocore.credentials import ReadOnlyCredentials

from ckpt_async.stores.http_client import Sending
from ckpt_async.stores.pacing import UNPACED, Pace
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.client import ClientKeeper, ClientLibrary, S3Client, tls_context
from ckpt_async.stores.s3.direct import DirectPath, find_place
from ckpt_async.stores.s3.errors import FOREIGN, credentials_refused, sent_elsewhere, translate
from ckpt_async.words.errors import StoreMissing, StoreObjectMissing, StoreUnavailable

__all__ = ["Caller", "Way"]

#: How exactly a deadline is kept that moved bytes push on, as a share of it.
MOVED_SHARE = 0.01

T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """What a request has at hand.

    Attributes
    ----------
    client : S3Client
        Of the library.
    direct : DirectPath or None
        The shorter way, where there is one.
    keys : ReadOnlyCredentials or None
        What it is signed with.
    how : Sending
        At which pace its body goes out, and who is told that bytes move.
    """

    client: S3Client
    direct: DirectPath | None
    keys: ReadOnlyCredentials | None
    how: Sending


class Caller:
    """Carries out the requests for one bucket.

    Parameters
    ----------
    bucket : str
        Its name.
    url : str
        Of the store, for errors.
    library : ClientLibrary
        What makes clients.
    make_access : callable
        Returns how it is reached; called in a thread.
    pace : Pace
        For the bodies of all requests.
    """

    def __init__(
        self, bucket: str, url: str, library: ClientLibrary, make_access: Callable[[], S3Access], pace: Pace = UNPACED
    ) -> None:
        self._bucket = bucket
        self._url = url
        self._pace = pace
        self._clients = ClientKeeper(library, make_access)
        self._direct: DirectPath | None = None
        self._direct_sought = False
        self._direct_lock = anyio.Lock(fast_acquire=True)
        #: Whether any request has been answered by the bucket.
        self.bucket_seen = False

    async def access(self) -> S3Access:
        """Return how the bucket is reached."""
        return await self._clients.access()

    async def close(self) -> None:
        """Close every connection."""
        direct, self._direct, self._direct_sought = self._direct, None, False
        try:
            if direct is not None:
                await direct.close()
        finally:
            # Also where this runs on a cancellation.
            await self._clients.close()

    async def call(self, attempted: str, on: str, act: Callable[[Way], Awaitable[T]]) -> T:
        """Run one request: under a deadline that every moved byte pushes on, with its failure translated."""
        renewed = rerouted = False
        while True:
            used = None
            try:
                client = await self._clients.get()
                used = await self._clients.credentials()
                result = await self._bounded(attempted, on, client, used, act)
            except FOREIGN as error:
                if not renewed and credentials_refused(error):
                    renewed = True
                    try:
                        if await self._clients.renew(used):
                            continue
                    except FOREIGN as other:
                        raise translate(other, "renew the credentials of the store", on, self._clients.secrets) from other
                if not rerouted and sent_elsewhere(error):
                    # The bucket is in another region. A request without a body lets botocore find that out, and remember it.
                    rerouted = True
                    await self.look_for_bucket()
                    await self._look_for_place_again()
                    continue
                raise translate(error, attempted, on, self._clients.secrets) from error
            self.bucket_seen = True
            return result

    async def look_for_bucket(self) -> None:
        """Raises StoreMissing where there is no bucket of that name."""
        try:
            await self.call("look at the bucket", self._url, lambda way: way.client.call("head_bucket", Bucket=self._bucket))
        except StoreObjectMissing as error:
            raise StoreMissing("look at the bucket", on=self._url, cause="there is no such bucket") from error

    async def _bounded(
        self, attempted: str, on: str, client: S3Client, keys: ReadOnlyCredentials | None, act: Callable[[Way], Awaitable[T]]
    ) -> T:
        # The client's own read timeout starts when a request was sent; a connection that takes no more bytes would never end.
        access = await self._clients.access()
        limit_s = access.connect_timeout_s + access.read_timeout_s
        noted_s = time.monotonic()
        with anyio.CancelScope(deadline=asyncio.get_running_loop().time() + limit_s) as scope:

            def moved() -> None:
                # Bytes move a thousand times a second, and to set a deadline costs more than to look at a clock.
                nonlocal noted_s
                now_s = time.monotonic()
                if now_s - noted_s >= limit_s * MOVED_SHARE:
                    noted_s = now_s
                    scope.deadline = asyncio.get_running_loop().time() + limit_s

            direct = None if keys is None else await self._find_direct(client, access)
            return await act(Way(client, direct, keys, Sending(moved, self._pace.take, self._pace.piece_bytes)))
        raise StoreUnavailable(attempted, on=on, cause=f"nothing moved for {limit_s:.0f} s")

    async def _find_direct(self, client: S3Client, access: S3Access) -> DirectPath | None:
        if not self._direct_sought:
            async with self._direct_lock:
                if not self._direct_sought:
                    place = await find_place(client, self._bucket, access)
                    if place is not None:
                        tls: ssl.SSLContext | None = None
                        if place.scheme == "https":
                            tls = await anyio.to_thread.run_sync(tls_context, access.verify)
                        self._direct = DirectPath(place, tls, access.connect_timeout_s)
                    self._direct_sought = True
        return self._direct

    async def _look_for_place_again(self) -> None:
        """Where the bucket is not what botocore has told before, the direct path goes there; else it is not taken any more."""
        if self._direct is None:
            return
        place = await find_place(await self._clients.get(), self._bucket, await self._clients.access())
        direct, self._direct = self._direct, None
        await direct.close()
        # Found out anew by the next request, unless there is nothing new.
        self._direct_sought = place == direct.place
