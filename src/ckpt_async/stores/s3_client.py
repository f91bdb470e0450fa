"""One aiobotocore client of a store: made at the first use, with the settings that cost the least CPU, closed with the store."""

from __future__ import annotations

import contextlib
import math
import ssl
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError
from botocore.httpsession import create_urllib3_context, get_cert_path

from ckpt_async.stores.http_client import open_socket
from ckpt_async.stores.s3_access import S3Access, S3Credentials
from ckpt_async.stores.s3_errors import NO_CREDENTIALS
from ckpt_async.words.errors import CheckpointError, StoreUnavailable

__all__ = ["ClientKeeper", "FollowedCredentials", "client_config", "tls_context"]

FOLLOW_EVERY_S = 600.0
# Before they expire, so that no request is signed with credentials that die on the way.
EXPIRY_MARGIN_S = 120.0
RETRY_SOON_S = 5.0
CLOSE_TIMEOUT_S = 5.0


class FollowedCredentials(AioCredentials):  # type: ignore[misc]
    """Credentials that are fetched anew: every ten minutes, before they expire, and when the server refused them.

    Parameters
    ----------
    source : callable
        Returns the credentials, or None; called in a thread.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, source: Callable[[], S3Credentials | None], clock: Callable[[], float] = time.time) -> None:
        # The parent's own fields stay empty: it signs with what `get_frozen_credentials` returns.
        super().__init__("", "", method="ckpt-async")
        self._source = source
        self._clock = clock
        self._lock = anyio.Lock()
        self._held: S3Credentials | None = None
        self._fetch_at_s = 0.0

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        held = self._held
        return () if held is None else tuple(text for text in (held.access_key, held.secret_key, held.token) if text)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return what the next request is signed with."""
        if self._held is None or self._clock() >= self._fetch_at_s:
            async with self._lock:
                if self._held is None or self._clock() >= self._fetch_at_s:
                    await self._follow()
        frozen = _frozen(self._held)
        if frozen is None:
            raise NoCredentialsError
        return frozen

    async def renew(self, refused: ReadOnlyCredentials) -> bool:
        """Fetch once more after the server refused `refused`; return whether others are held now."""
        async with self._lock:
            # Of many requests that fail together only the first one fetches.
            if _frozen(self._held) == refused:
                await self._fetch()
            return self._held is not None and _frozen(self._held) != refused

    async def _follow(self) -> None:
        """Fetch; where that fails, what is held serves until it expires."""
        try:
            await self._fetch()
        except (CheckpointError, *NO_CREDENTIALS):
            now_s = self._clock()
            expires_at_s = None if self._held is None else self._held.expires_at_s
            if self._held is None or (expires_at_s is not None and expires_at_s <= now_s):
                raise
            self._fetch_at_s = min(now_s + RETRY_SOON_S, expires_at_s or math.inf)

    async def _fetch(self) -> None:
        try:
            # Given up where the caller is cancelled: nobody knows how long a function of somebody else takes.
            held = await anyio.to_thread.run_sync(self._source, abandon_on_cancel=True)
        except (CheckpointError, *NO_CREDENTIALS):
            raise
        except Exception as error:
            # Whatever a configured function raises may pass. Its type alone is told: its text may hold credentials.
            cause = f"their source raised {type(error).__name__}"
            raise StoreUnavailable("get the credentials of the store", cause=cause) from error
        now_s = self._clock()
        self._held = held
        self._fetch_at_s = now_s + FOLLOW_EVERY_S
        if held is not None and held.expires_at_s is not None:
            # Where a source hands out what is about to expire, it is asked often, but not with each request.
            self._fetch_at_s = min(self._fetch_at_s, max(held.expires_at_s - EXPIRY_MARGIN_S, now_s + RETRY_SOON_S))


def _frozen(held: S3Credentials | None) -> ReadOnlyCredentials | None:
    return None if held is None else ReadOnlyCredentials(held.access_key, held.secret_key, held.token)


class _ChainCredentials(AioCredentials):  # type: ignore[misc]
    """The credentials that the client library finds by itself (it refreshes those of roles); looked up anew after a refusal."""

    def __init__(self) -> None:
        super().__init__("", "", method="ckpt-async")
        self._lock = anyio.Lock()
        self._found: Any = None
        self._frozen: ReadOnlyCredentials | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        frozen = self._frozen
        return () if frozen is None else tuple(text for text in (frozen.access_key, frozen.secret_key, frozen.token) if text)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        async with self._lock:
            return await self._freeze()

    async def renew(self, refused: ReadOnlyCredentials) -> bool:
        async with self._lock:
            if self._frozen == refused:
                self._found = None
                await self._freeze()
            return bool(self._frozen != refused)

    async def _freeze(self) -> ReadOnlyCredentials:
        if self._found is None:
            self._found = await AioSession().get_credentials()
        if self._found is None and self._frozen is not None:
            # The library passes a service by that does not answer. Where there have been credentials, that is what it is.
            raise CredentialRetrievalError(provider="the chain", error_msg="there were some before, now there are none")
        if self._found is None:
            raise NoCredentialsError
        self._frozen = await self._found.get_frozen_credentials()
        return self._frozen


class _CredentialProvider:
    """What puts credentials into a session: the place that botocore has for them."""

    METHOD = CANONICAL_NAME = "ckpt-async"

    def __init__(self, credentials: AioCredentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> AioCredentials:
        return self._credentials


class ClientKeeper:
    """Makes the client when it is first asked for, and closes it.

    Parameters
    ----------
    make_access : callable
        Returns how the bucket is reached. Called in a thread, until it returns once.
    """

    def __init__(self, make_access: Callable[[], S3Access]) -> None:
        self._make_access = make_access
        self._access: S3Access | None = None
        self._access_lock = anyio.Lock()
        self._lock = anyio.Lock()
        self._client: Any = None
        self._exit = contextlib.AsyncExitStack()
        self._credentials: FollowedCredentials | _ChainCredentials | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in an error's text."""
        return () if self._credentials is None else self._credentials.secrets

    async def access(self) -> S3Access:
        """Return how the bucket is reached. Raises what `load_access` does: part of a request, so that it is repeated like one."""
        if self._access is None:
            async with self._access_lock:
                if self._access is None:
                    self._access = await anyio.to_thread.run_sync(self._make_access, abandon_on_cancel=True)
        return self._access

    async def credentials(self) -> ReadOnlyCredentials | None:
        """Return what the next request is signed with; None where requests carry no signature."""
        return None if self._credentials is None else await self._credentials.get_frozen_credentials()

    async def renew(self, refused: ReadOnlyCredentials | None) -> bool:
        """Fetch other credentials than `refused`; return whether there are any."""
        if self._credentials is None or refused is None:
            return False
        renewed: bool = await self._credentials.renew(refused)
        return renewed

    async def get(self) -> Any:
        """Return the client."""
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    self._client = await self._make()
        return self._client

    async def close(self) -> None:
        """Close the client and its connections; another one is made if it is asked for again."""
        stack, self._exit, self._client = self._exit, contextlib.AsyncExitStack(), None
        # Under a shield, since it also runs on cancellation; with a deadline, since a dead peer must not hold it.
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await stack.aclose()

    async def _make(self) -> Any:
        access = await self.access()
        session = AioSession()
        if not access.anonymous:
            self._credentials = _ChainCredentials() if access.credentials is None else FollowedCredentials(access.credentials)
            session.register_component("credential_provider", _CredentialProvider(self._credentials))
        # Reading the description of S3 takes a tenth of a second: not in the loop.
        await anyio.to_thread.run_sync(_warm_up, session)
        return await self._exit.enter_async_context(
            session.create_client(
                "s3",
                region_name=access.region,
                endpoint_url=access.endpoint_url,
                # botocore tells None (take the environment's) from True.
                verify=None if access.verify is True else access.verify,
                config=client_config(access),
            )
        )


def client_config(access: S3Access) -> AioConfig:
    """Return the client's settings: no pass over the payload for checksum or signature (our CRC32 protects it), no repeating."""
    params: dict[str, Any] = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "max_pool_connections": access.max_connections,
        "connect_timeout": access.connect_timeout_s,
        "read_timeout": access.read_timeout_s,
        "retries": {"total_max_attempts": max(1, access.max_attempts), "mode": "standard"},
        "connector_args": {"socket_factory": open_socket},
        **access.client_params,
    }
    if access.anonymous:
        params["signature_version"] = UNSIGNED
    params["s3"] = {
        "payload_signing_enabled": False,
        "addressing_style": access.addressing_style,
        **dict(access.client_params.get("s3") or {}),
    }
    return AioConfig(**params)


def _warm_up(session: AioSession) -> None:
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
    bundle = AioSession().get_config_variable("ca_bundle") if verify is True else verify
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.load_verify_locations(get_cert_path(bundle or True))
    return context
