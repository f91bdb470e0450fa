"""S3 by botocore, which comes with boto3, in threads: what is taken where aiobotocore is not installed, as in a bare image.

A call that is cancelled leaves its thread behind, which ends at the next piece of data, or at the socket's timeout. It touches
nothing of the caller's any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError

from ckpt_async.stores.contract import Body
from ckpt_async.stores.http_client import Sending
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.body import PIECE_BYTES, RequestBody
from ckpt_async.stores.s3.client import ClientLibrary, S3Client, client_params
from ckpt_async.stores.s3.credentials import ChainCredentials, SigningKeys
from ckpt_async.stores.tickets import Ticket

__all__ = ["threads_library"]

READ_BYTES = 1 << 20

T = TypeVar("T")


class _ThreadBody(RequestBody):
    """A body that a thread reads; in the loop it is paced, and it is told there that bytes move."""

    def __init__(self, body: Body, how: Sending, ticket: Ticket) -> None:
        super().__init__(body, how)
        self._ticket = ticket
        self._piece_bytes = min(PIECE_BYTES, how.piece_bytes)
        self._allowed_bytes = 0

    def read(self, size_bytes: int = -1) -> bytes:
        left = len(self) - self.tell()
        # A client that wants all of it at once wants to look at it, not to send it.
        if size_bytes is not None and size_bytes >= 0:
            size_bytes = min(size_bytes, self._piece_bytes, left)
            if self._allowed_bytes < size_bytes:
                self._ticket.check()
                asked = min(self._piece_bytes, left)
                anyio.from_thread.run(self._step, asked)
                self._allowed_bytes = asked
            self._allowed_bytes -= size_bytes
        with self._ticket.hold():
            return super().read(size_bytes)

    async def _step(self, size_bytes: int) -> None:
        self._how.moved()
        await self._how.pace(size_bytes)


class _Client:
    def __init__(self, client: Any, threads_at_once: int) -> None:
        self._client = client
        self._limiter = anyio.CapacityLimiter(threads_at_once)

    @property
    def events(self) -> Any:
        return self._client.meta.events

    async def call(self, operation: str, **params: Any) -> Any:
        return await self._in_thread(lambda ticket: getattr(self._client, operation)(**params))

    async def send(self, operation: str, body: Body, how: Sending, **params: Any) -> Any:
        def act(ticket: Ticket) -> Any:
            content = _ThreadBody(body, how, ticket) if body.size_bytes else b""
            return getattr(self._client, operation)(Body=content, **params)

        return await self._in_thread(act)

    async def get(self, moved: Callable[[], None], **params: Any) -> tuple[Mapping[str, Any], bytes]:
        def act(ticket: Ticket) -> tuple[Mapping[str, Any], bytes]:
            answer = self._client.get_object(**params)
            pieces = []
            with contextlib.closing(answer["Body"]) as stream:
                while piece := stream.read(READ_BYTES):
                    ticket.check()
                    pieces.append(piece)
                    anyio.from_thread.run_sync(moved)
            return answer, pieces[0] if len(pieces) == 1 else b"".join(pieces)

        return await self._in_thread(act)

    async def _in_thread(self, act: Callable[[Ticket], T]) -> T:
        ticket = Ticket()
        try:
            return await anyio.to_thread.run_sync(act, ticket, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            ticket.give_up()

    def close(self) -> None:
        self._client.close()


class _Credentials(Credentials):  # type: ignore[misc]
    """Our keys in the form that the library signs with: they were asked for in the loop, just before the request."""

    def __init__(self, keys: SigningKeys) -> None:
        super().__init__("", "", method="ckpt-async")
        self._keys = keys

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        latest = self._keys.latest
        if latest is None:
            raise NoCredentialsError
        return latest


class _Provider:
    """What puts credentials into a session: the place that botocore has for them."""

    METHOD = CANONICAL_NAME = "ckpt-async"

    def __init__(self, keys: SigningKeys) -> None:
        self._credentials = _Credentials(keys)

    def load_credentials(self) -> Credentials:
        return self._credentials


@contextlib.asynccontextmanager
async def _open_client(access: S3Access, keys: SigningKeys | None) -> AsyncIterator[S3Client]:
    client = _Client(await anyio.to_thread.run_sync(_make, access, keys, abandon_on_cancel=True), access.max_connections)
    try:
        yield client
    finally:
        await anyio.to_thread.run_sync(client.close)


def _make(access: S3Access, keys: SigningKeys | None) -> Any:
    session = botocore.session.Session()
    if keys is not None:
        session.register_component("credential_provider", _Provider(keys))
    return session.create_client(
        "s3",
        region_name=access.region,
        endpoint_url=access.endpoint_url,
        # botocore tells None (take the environment's) from True.
        verify=None if access.verify is True else access.verify,
        config=Config(**client_params(access)),
    )


def _chain() -> ChainCredentials:
    async def find() -> Any:
        return await anyio.to_thread.run_sync(lambda: botocore.session.Session().get_credentials(), abandon_on_cancel=True)

    async def freeze(found: Any) -> ReadOnlyCredentials:
        return await anyio.to_thread.run_sync(found.get_frozen_credentials, abandon_on_cancel=True)

    return ChainCredentials(find, freeze)


def threads_library(why: str) -> ClientLibrary:
    """Return the library.

    Parameters
    ----------
    why : str
        Why it is not the other one, for the user.
    """
    return ClientLibrary(_open_client, _chain, f"S3 is reached through botocore in threads: {why}")
