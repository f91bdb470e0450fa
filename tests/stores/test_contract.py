"""Every store, bare and wrapped, against the one contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_async.stores.azure import client as azure_client
from ckpt_async.stores.contract import Store
from ckpt_async.stores.gcs import client as gcs_client
from ckpt_async.stores.limiting import Limiting
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.stores.retrying import Retrying
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.testing.store_contract import MakeStore, StoreContract
from tests.fixtures_clouds import AzurePlace, GcsPlace
from tests.fixtures_s3 import S3Place


def wrapped(store: Store) -> Store:
    return Retrying(Limiting(store, 5), on_trouble=lambda failures, error: None, give_up_after_s=60)


class TestMemory(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects = MemoryObjects()
        return lambda: MemoryStore(objects)


class TestLocal(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: LocalStore(str(tmp_path))


class TestLocalBehindALink(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        roots = iter([tmp_path / "link"] + [tmp_path / "real"] * 9)
        return lambda: LocalStore(str(next(roots)))


@pytest.mark.usefixtures("each_library")
class TestS3(StoreContract):
    @pytest.fixture
    def make_store(self, s3_place: S3Place) -> MakeStore:
        return s3_place.store


class TestGcs(StoreContract):
    many = 130

    @pytest.fixture
    def make_store(self, gcs_place: GcsPlace, monkeypatch: pytest.MonkeyPatch) -> MakeStore:
        monkeypatch.setattr(gcs_client, "PAGE_KEYS", 50)
        return gcs_place.store


class TestAzure(StoreContract):
    many = 300

    @pytest.fixture
    def make_store(self, azure_place: AzurePlace, monkeypatch: pytest.MonkeyPatch) -> MakeStore:
        monkeypatch.setattr(azure_client, "PAGE_KEYS", 50)
        return azure_place.store


class TestMemoryWrapped(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects = MemoryObjects()
        return lambda: wrapped(MemoryStore(objects))


class TestMemoryWithFaults(StoreContract):
    """The first call of each kind, and each fifth one, fails before it does anything."""

    @pytest.fixture
    def make_store(self) -> MakeStore:
        objects = MemoryObjects()

        def make() -> Store:
            operations = (
                "put", "copy", "get", "head", "list", "delete", "begin_multipart", "put_part", "copy_part", "complete_multipart",
                "abort_multipart",
            )  # fmt: skip
            faulty = FaultyStore(MemoryStore(objects), [Fault(name, calls=range(1, 100_000, 5)) for name in operations])

            async def no_wait(delay_s: float) -> None:
                assert 0 <= delay_s <= 20

            return Retrying(Limiting(faulty, 5), on_trouble=lambda failures, error: None, sleep=no_wait)

        return make


class TestLocalWrapped(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: wrapped(LocalStore(str(tmp_path)))
