"""The client of a store: made at the first use by the library that is at hand, closed with the store."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import botocore.session
from botocore import UNSIGNED
from botocore.credentials import ReadOnlyCredentials
from botocore.httpsession import create_urllib3_context, get_cert_path

from ckpt_async.stores.contract import Body
from ckpt_async.stores.http_client import Sending
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.credentials import ChainCredentials, FollowedCredentials, SigningKeys
from ckpt_async.words.errors import StoreUnavailable

__all__ = ["ClientKeeper", "ClientLibrary", "S3Client", "client_params", "tls_context", "warm_up"]

CLOSE_TIMEOUT_S = 5.0

#: For what makes access and client: before there is an access, nothing says how patient one should be.
ACCESS_TIMEOUT_S = 70.0

T = TypeVar("T")


class S3Client(Protocol):
    """What is asked of a client library. Parameters and answers are those of botocore, and so are errors."""

    @property
    def events(self) -> Any:
        """Where functions are registered that see requests before they are sent."""

    async def call(self, operation: str, **params: Any) -> Any:
        """Send one request without data, and return its answer."""

    async def send(self, operation: str, body: Body, how: Sending, **params: Any) -> Any:
        """Send one request with a body. Once this has ended, in whatever way, the memory of the body is not read any more."""

    async def get(self, moved: Callable[[], None], **params: Any) -> tuple[Mapping[str, Any], bytes]:
        """Read an object, or a range of it; return the answer and the content."""


@dataclass(frozen=True)
class ClientLibrary:
    """A library that makes clients.

    Attributes
    ----------
    open_client : callable
        Returns a context manager that gives a client; without keys it signs nothing.
    chain : callable
        Returns the credentials that the library finds by itself.
    notice : str
        What the user should know of it; empty where there is nothing.
    """

    open_client: Callable[[S3Access, SigningKeys | None], AbstractAsyncContextManager[S3Client]]
    chain: Callable[[], ChainCredentials]
    notice: str = ""


class ClientKeeper:
    """Makes the client when it is first asked for, and closes it.

    Parameters
    ----------
    library : ClientLibrary
        What makes it.
    make_access : callable
        Returns how the bucket is reached. Called in a thread, until it returns once.
    """

    def __init__(self, library: ClientLibrary, make_access: Callable[[], S3Access]) -> None:
        self._library = library
        self._make_access = make_access
        self._access: S3Access | None = None
        self._access_lock = anyio.Lock()
        self._lock = anyio.Lock()
        self._client: S3Client | None = None
        self._exit = contextlib.AsyncExitStack()
        self._keys: SigningKeys | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in an error's text."""
        return () if self._keys is None else self._keys.secrets

    async def access(self) -> S3Access:
        """Return how the bucket is reached. Raises what `load_access` does: part of a request, so that it is repeated like one."""
        if self._access is None:
            self._access = await _answer_within(ACCESS_TIMEOUT_S, "make a store's access", self._find_access)
        return self._access

    async def _find_access(self) -> S3Access:
        async with self._access_lock:
            if self._access is None:
                self._access = await anyio.to_thread.run_sync(self._make_access, abandon_on_cancel=True)
            return self._access

    async def credentials(self) -> ReadOnlyCredentials | None:
        """Return what the next request is signed with; None where requests carry no signature."""
        if (keys := self._keys) is None:
            return None
        return await self._from_source(keys.get_frozen_credentials)

    async def renew(self, refused: ReadOnlyCredentials | None) -> bool:
        """Fetch other credentials than `refused`; return whether there are any."""
        if (keys := self._keys) is None or refused is None:
            return False
        return await self._from_source(lambda: keys.renew(refused))

    async def get(self) -> S3Client:
        """Return the client."""
        if self._client is None:
            # Its libraries may look for credentials of their own, also where none are wanted.
            self._client = await _answer_within(ACCESS_TIMEOUT_S, "make a client of the store", self._find)
        return self._client

    async def _find(self) -> S3Client:
        async with self._lock:
            if self._client is None:
                self._client = await self._make()
            return self._client

    async def _from_source(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask where the credentials come from, for as long as a request may stand still."""
        access = await self.access()
        return await _answer_within(access.connect_timeout_s + access.read_timeout_s, "get the credentials of the store", ask)

    async def close(self) -> None:
        """Close the client and its connections; another one is made if it is asked for again."""
        stack, self._exit, self._client = self._exit, contextlib.AsyncExitStack(), None
        # Under a shield, since it also runs on cancellation; with a deadline, since a dead peer must not hold it.
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await stack.aclose()

    async def _make(self) -> S3Client:
        access = await self.access()
        if not access.anonymous:
            self._keys = self._library.chain() if access.credentials is None else FollowedCredentials(access.credentials)
        return await self._exit.enter_async_context(self._library.open_client(access, self._keys))


async def _answer_within(limit_s: float, attempted: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Wait no longer than a request would: a process, a role or a service that gives out keys may be silent for ever."""
    with anyio.CancelScope(deadline=asyncio.get_running_loop().time() + limit_s):
        return await ask()
    raise StoreUnavailable(attempted, cause=f"no answer for {limit_s:.0f} s")


def client_params(access: S3Access, **more: object) -> dict[str, Any]:
    """Return the client's settings: no pass over the payload for checksum or signature (our CRC32 protects it), no repeating.

    Parameters
    ----------
    access : S3Access
        Its own `client_params` beat all others.
    more
        Settings of one library alone.
    """
    params: dict[str, Any] = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "max_pool_connections": access.max_connections,
        "connect_timeout": access.connect_timeout_s,
        "read_timeout": access.read_timeout_s,
        "retries": {"total_max_attempts": max(1, access.max_attempts), "mode": "standard"},
        **more,
        **access.client_params,
    }
    if access.anonymous:
        params["signature_version"] = UNSIGNED
    params["s3"] = {
        "payload_signing_enabled": False,
        "addressing_style": access.addressing_style,
        **dict(access.client_params.get("s3") or {}),
    }
    return params


def warm_up(session: Any) -> None:
    """Have a session read its description of S3: a tenth of a second."""
    loader = session.get_component("data_loader")
    loader.load_service_model("s3", type_name="service-2")
    loader.load_service_model("s3", type_name="endpoint-rule-set-1")
    for name in ("endpoints", "partitions", "_retry", "sdk-default-configuration"):
        loader.load_data(name)


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return what a connection trusts: what botocore would."""
    context: ssl.SSLContext = create_urllib3_context()
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    bundle = botocore.session.Session().get_config_variable("ca_bundle") if verify is True else verify
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.load_verify_locations(get_cert_path(bundle or True))
    return context
