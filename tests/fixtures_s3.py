"""Fixtures with a real S3 server: one SeaweedFS for the whole run, a place of its own for each test."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import botocore.session
import pytest

from ckpt_async.stores.s3 import store as s3
from ckpt_async.stores.s3.access import S3Access, S3Credentials
from ckpt_async.stores.s3.aio import AIOBOTOCORE
from ckpt_async.stores.s3.client import ClientLibrary
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.stores.s3.threads import threads_library
from ckpt_async.testing.access import ACCESS_SPEC, access_variables
from ckpt_async.testing.seaweed import SeaweedIdentity, SeaweedServer
from ckpt_async.words.settings import StoreAddress

BUCKET = "ckpt-async-tests"


@dataclass(frozen=True)
class S3Place:
    """An empty prefix of the test server's bucket.

    `through` makes a store that takes another way to the same place, such as a `SlowLine`.
    """

    server: SeaweedServer
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def access(self, *, endpoint_url: str | None = None, identity: SeaweedIdentity | None = None, **more: object) -> S3Access:
        who = identity or self.server.admin
        return S3Access(
            endpoint_url=endpoint_url or self.server.endpoint_url,
            region=self.server.region,
            addressing_style="path",
            credentials=lambda: S3Credentials(who.access_key, who.secret_key),
            **more,  # type: ignore[arg-type]
        )

    def store(self, **access: object) -> S3Store:
        return S3Store(self.bucket, self.prefix, self.access(**access))  # type: ignore[arg-type]


@pytest.fixture(scope="session", autouse=True)
def described_once() -> Iterator[None]:
    """Have the client library read its description of S3 once for all stores of the tests' process, as for those of one session:
    it takes a tenth of a second of a processor, and the tests make some hundred stores.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    """The server. Ask for it (or for what is below) in arguments, of a test or of a fixture: started in the middle of a test, its
    process would count as a leak."""
    with SeaweedServer() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def s3_place(seaweed: SeaweedServer) -> S3Place:
    return S3Place(seaweed, BUCKET, f"test-{uuid.uuid4().hex[:12]}/root")


@pytest.fixture(params=["aiobotocore", "threads"])
def each_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ClientLibrary:
    """Each client library of S3 in turn, for every store that the test makes."""
    library = AIOBOTOCORE if request.param == "aiobotocore" else threads_library("the test wants it.")
    monkeypatch.setattr(s3, "find_library", lambda: library)
    return library


@pytest.fixture
def s3_store(s3_place: S3Place) -> Callable[[], S3Store]:
    """Make stores over one empty place; not entered yet."""
    return s3_place.store


@pytest.fixture
def s3_address(s3_place: S3Place, monkeypatch: pytest.MonkeyPatch) -> StoreAddress:
    """The place as an address that this process, and its children, can open."""
    admin = s3_place.server.admin
    for name, value in access_variables(s3_place.server.endpoint_url, admin.access_key, admin.secret_key).items():
        monkeypatch.setenv(name, value)
    return StoreAddress(s3_place.url, ACCESS_SPEC)
