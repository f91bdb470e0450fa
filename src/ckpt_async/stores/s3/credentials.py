"""What requests to S3 are signed with: keys that change while a task runs are followed, whichever client library is at hand."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import anyio.to_thread
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError

from ckpt_async.stores.s3.access import S3Credentials
from ckpt_async.stores.s3.errors import NO_CREDENTIALS
from ckpt_async.words.errors import CheckpointError, StoreUnavailable

__all__ = ["ChainCredentials", "FollowedCredentials", "SigningKeys"]

FOLLOW_EVERY_S = 600.0
# Before they expire, so that no request is signed with credentials that die on the way.
EXPIRY_MARGIN_S = 120.0
RETRY_SOON_S = 5.0
# For a source that does not answer while what is held still serves, and until it is asked again.
RENEWAL_TIMEOUT_S = 10.0
RETRY_SILENT_S = 60.0


class SigningKeys(Protocol):
    """Where the keys of a request come from."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""

    @property
    def latest(self) -> ReadOnlyCredentials | None:
        """What `get_frozen_credentials` has returned last. May be read in any thread."""

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return what the next request is signed with."""

    async def renew(self, refused: ReadOnlyCredentials) -> bool:
        """Fetch once more after the server refused `refused`; return whether others are held now."""


class FollowedCredentials:
    """Credentials that are fetched anew: every ten minutes, before they expire, and when the server refused them.

    Parameters
    ----------
    source : callable
        Returns the credentials, or None; called in a thread.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, source: Callable[[], S3Credentials | None], clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._clock = clock
        self._lock = anyio.Lock()
        self._held: S3Credentials | None = None
        self._fetch_at_s = 0.0

    @property
    def secrets(self) -> tuple[str, ...]:
        held = self._held
        return () if held is None else tuple(text for text in (held.access_key, held.secret_key, held.token) if text)

    @property
    def latest(self) -> ReadOnlyCredentials | None:
        return _frozen(self._held)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        # While one asks for others, what is held serves all the rest: its source may be silent.
        asked = self._lock.locked() and self._serves()
        if not asked and (self._held is None or self._clock() >= self._fetch_at_s):
            async with self._lock:
                if self._held is None or self._clock() >= self._fetch_at_s:
                    await self._follow()
        frozen = _frozen(self._held)
        if frozen is None:
            raise NoCredentialsError
        return frozen

    async def renew(self, refused: ReadOnlyCredentials) -> bool:
        async with self._lock:
            # Of many requests that fail together only the first one fetches.
            if _frozen(self._held) == refused:
                await self._fetch()
            forget = getattr(self._source, "forget", None)
            if _frozen(self._held) == refused and forget is not None:
                # It believes that they still serve: its clock, or whoever has ended them, says otherwise.
                forget()
                await self._fetch()
            return self._held is not None and _frozen(self._held) != refused

    async def _follow(self) -> None:
        """Fetch; where that fails, what is held serves until it expires."""
        try:
            with anyio.move_on_after(RENEWAL_TIMEOUT_S if self._serves() else math.inf):
                await self._fetch()
                return
        except (CheckpointError, *NO_CREDENTIALS):
            if not self._serves():
                raise
            again_s = RETRY_SOON_S
        else:
            again_s = RETRY_SILENT_S
        expires_at_s = None if self._held is None else self._held.expires_at_s
        self._fetch_at_s = min(self._clock() + again_s, expires_at_s or math.inf)

    def _serves(self) -> bool:
        """Whether what is held has not expired yet."""
        held = self._held
        return held is not None and (held.expires_at_s is None or held.expires_at_s > self._clock())

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


class ChainCredentials:
    """The credentials that the client library finds by itself (it refreshes those of roles); looked up anew after a refusal.

    Parameters
    ----------
    find : callable
        Returns the library's object for them, or None.
    freeze : callable
        Returns what that object holds at the moment, renewed where it was about to expire.
    """

    def __init__(self, find: Callable[[], Awaitable[Any]], freeze: Callable[[Any], Awaitable[ReadOnlyCredentials]]) -> None:
        self._find = find
        self._freeze_found = freeze
        self._lock = anyio.Lock()
        self._found: Any = None
        self._frozen: ReadOnlyCredentials | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        frozen = self._frozen
        return () if frozen is None else tuple(text for text in (frozen.access_key, frozen.secret_key, frozen.token) if text)

    @property
    def latest(self) -> ReadOnlyCredentials | None:
        return self._frozen

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
            self._found = await self._find()
        if self._found is None and self._frozen is not None:
            # The library passes a service by that does not answer. Where there have been credentials, that is what it is.
            raise CredentialRetrievalError(provider="the chain", error_msg="there were some before, now there are none")
        if self._found is None:
            raise NoCredentialsError
        self._frozen = await self._freeze_found(self._found)
        return self._frozen
