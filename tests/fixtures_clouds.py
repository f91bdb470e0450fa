"""Fixtures with servers that speak the protocols of Azure and Google Cloud Storage: one of each for the whole run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ckpt_async.stores.azure.access import AzureAccess
from ckpt_async.stores.azure.store import AzureStore
from ckpt_async.stores.gcs.access import GcsAccess
from ckpt_async.stores.gcs.store import GcsStore
from ckpt_async.testing.azurite import AzuriteServer, TestToken
from ckpt_async.testing.fake_gcs import FakeGcsServer
from tests.environments import node_package

BUCKET = "ckpt-async-tests"


@dataclass(frozen=True)
class GcsPlace:
    """An empty prefix of the test server's bucket."""

    server: FakeGcsServer
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"gs://{self.bucket}/{self.prefix}"

    def access(self, **more: object) -> GcsAccess:
        from google.auth.credentials import AnonymousCredentials

        given: dict[str, object] = {"endpoint_url": self.server.endpoint_url, "credentials": AnonymousCredentials, **more}
        return GcsAccess(**given)  # type: ignore[arg-type]

    def store(self, **access: object) -> GcsStore:
        return GcsStore(self.bucket, self.prefix, self.access(**access))


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGcsServer]:
    """The server. Ask for it in arguments: started in the middle of a test, its process would count as a leak."""
    with FakeGcsServer() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def gcs_place(fake_gcs: FakeGcsServer) -> GcsPlace:
    return GcsPlace(fake_gcs, BUCKET, f"test-{uuid.uuid4().hex[:12]}/root")


@dataclass(frozen=True)
class AzurePlace:
    """An empty prefix of the test server's container."""

    server: AzuriteServer
    container: str
    prefix: str

    @property
    def url(self) -> str:
        return f"azure://{self.container}/{self.prefix}"

    def access(self, **more: object) -> AzureAccess:
        given: dict[str, object] = {
            "endpoint_url": self.server.endpoint_url,
            "credential": TestToken,
            "verify": self.server.authority,
            **more,
        }
        return AzureAccess(**given)  # type: ignore[arg-type]

    def store(self, **access: object) -> AzureStore:
        return AzureStore(self.container, self.prefix, self.access(**access))


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteServer]:
    """The server. Ask for it in arguments, like `fake_gcs`."""
    program = node_package("azurite") / "dist" / "src" / "blob" / "main.js"
    with AzuriteServer(["node", str(program)]) as server:
        server.make_container(BUCKET)
        yield server


@pytest.fixture
def azure_place(azurite: AzuriteServer) -> AzurePlace:
    return AzurePlace(azurite, BUCKET, f"test-{uuid.uuid4().hex[:12]}/root")
