"""Desks over each kind of store and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_async import StoreAddress
from ckpt_async.testing.access import ENDPOINT
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from tests.engine.desk import Desk

MakeDesk = Callable[..., Desk]


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[MakeDesk]:
    """Make desks over an address; all end with the test."""
    desks: list[Desk] = []

    def make(address: StoreAddress, worker: str = "process") -> Desk:
        desks.append(Desk(tmp_path, address, worker))
        return desks[-1]

    yield make
    for desk in desks:
        desk.end()


@pytest.fixture
def local_address(tmp_path: Path) -> StoreAddress:
    """A folder as the store."""
    (tmp_path / "store").mkdir()
    return StoreAddress(str(tmp_path / "store"))


@pytest.fixture(params=["local-process", "local-thread", "s3-process", "s3-thread"])
def desk(request: pytest.FixtureRequest, seaweed: SeaweedServer, make_desk: MakeDesk) -> Desk:
    """A desk over each store, with each worker."""
    store, worker = request.param.split("-")
    return make_desk(request.getfixturevalue(f"{store}_address"), worker)


@pytest.fixture(params=["process", "thread"])
def local_desk(request: pytest.FixtureRequest, local_address: StoreAddress, make_desk: MakeDesk) -> Desk:
    """A desk over a folder, with each worker."""
    return make_desk(local_address, request.param)


@pytest.fixture
def s3_desk(s3_address: StoreAddress, make_desk: MakeDesk) -> Desk:
    """A desk over S3, for what does not depend on where the worker lives: in a thread, which is there at once."""
    return make_desk(s3_address, "thread")


@pytest.fixture
def thread_desk(local_address: StoreAddress, make_desk: MakeDesk) -> Desk:
    """A desk over a folder, likewise."""
    return make_desk(local_address, "thread")


@pytest.fixture
def line(seaweed: SeaweedServer, s3_address: StoreAddress, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLine]:
    """A line in front of the server, through which `s3_address` leads from now on."""
    with SlowLine(seaweed.host, seaweed.port) as line:
        monkeypatch.setenv(ENDPOINT, line.endpoint_url)
        yield line
