"""S3 by aiobotocore: what is taken where it is installed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio.to_thread
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials

from ckpt_async.stores.contract import Body
from ckpt_async.stores.http_client import Sending, open_socket
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.body import RequestBody
from ckpt_async.stores.s3.client import ClientLibrary, S3Client, client_params, warm_up
from ckpt_async.stores.s3.credentials import ChainCredentials, SigningKeys

__all__ = ["AIOBOTOCORE"]

READ_BYTES = 1 << 20


class _Client:
    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def events(self) -> Any:
        return self._client.meta.events

    async def call(self, operation: str, **params: Any) -> Any:
        return await getattr(self._client, operation)(**params)

    async def send(self, operation: str, body: Body, how: Sending, **params: Any) -> Any:
        content = RequestBody(body, how) if body.size_bytes else b""
        return await getattr(self._client, operation)(Body=content, **params)

    async def get(self, moved: Callable[[], None], **params: Any) -> tuple[Mapping[str, Any], bytes]:
        answer = await self._client.get_object(**params)
        pieces = []
        async with answer["Body"] as stream:
            while piece := await stream.read(READ_BYTES):
                moved()
                pieces.append(piece)
        return answer, pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Credentials(AioCredentials):  # type: ignore[misc]
    """Our keys in the form that the library signs with. The parent's own fields stay empty."""

    def __init__(self, keys: SigningKeys) -> None:
        super().__init__("", "", method="ckpt-async")
        self._keys = keys

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return await self._keys.get_frozen_credentials()


class _Provider:
    """What puts credentials into a session: the place that botocore has for them."""

    METHOD = CANONICAL_NAME = "ckpt-async"

    def __init__(self, keys: SigningKeys) -> None:
        self._credentials = _Credentials(keys)

    async def load_credentials(self) -> AioCredentials:
        return self._credentials


@contextlib.asynccontextmanager
async def _open_client(access: S3Access, keys: SigningKeys | None) -> AsyncIterator[S3Client]:
    session = AioSession()
    if keys is not None:
        session.register_component("credential_provider", _Provider(keys))
    # Not in the loop.
    await anyio.to_thread.run_sync(warm_up, session)
    async with session.create_client(
        "s3",
        region_name=access.region,
        endpoint_url=access.endpoint_url,
        # botocore tells None (take the environment's) from True.
        verify=None if access.verify is True else access.verify,
        config=AioConfig(**client_params(access, connector_args={"socket_factory": open_socket})),
    ) as client:
        yield _Client(client)


def _chain() -> ChainCredentials:
    async def find() -> Any:
        return await AioSession().get_credentials()

    async def freeze(found: Any) -> ReadOnlyCredentials:
        return await found.get_frozen_credentials()

    return ChainCredentials(find, freeze)


AIOBOTOCORE = ClientLibrary(_open_client, _chain)
