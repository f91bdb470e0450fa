"""The commands against stores on Azure and Google Cloud Storage, and against one of which nothing is known."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from ckpt_async.stores.blobs.access import BlobsAccess
from ckpt_async.stores.contract import Body, Store
from ckpt_async.testing import access
from ckpt_async.words import keys
from tests.cli.conftest import PATHSPEC, Run
from tests.engine.desk import read_tree, write_tree
from tests.fixtures_clouds import AzurePlace, GcsPlace
from tests.stores.test_blobs import Shelf

T = TypeVar("T")

NOW = ("--older-than", "0s")


def act_on(place: AzurePlace | GcsPlace, act: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        async with place.store() as store:
            return await act(store)

    return anyio.run(run)


@pytest.fixture(params=["azure", "gcs"])
def place(request: pytest.FixtureRequest, azure_place: AzurePlace, gcs_place: GcsPlace) -> AzurePlace | GcsPlace:
    return azure_place if request.param == "azure" else gcs_place


def test_one_round_and_what_the_doctor_mends(
    run: Run, place: AzurePlace | GcsPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(place, AzurePlace):
        spec, variables = access.AZURE_ACCESS_SPEC, access.azure_access_variables(place.server.endpoint_url, place.server.authority)
    else:
        spec, variables = access.GCS_ACCESS_SPEC, access.gcs_access_variables(place.server.endpoint_url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = ("--store", place.url, "--access", spec)
    files = {"weights.bin": os.urandom(5 << 20), "sub/state.json": b"{}", "empty": b""}
    write_tree(tmp_path / "model", files)
    answer = run("push", "model", "--as", PATHSPEC, *options)
    assert answer.code == 0, answer.err
    (record,) = run("list", "--json", *options).json["checkpoints"]
    assert (record["pathspec"], record["latest"], record["url"]) == (PATHSPEC, True, f"{place.url}/{record['key']}")
    assert [line["status"] for line in run("verify", "--json", *options).lines] == ["verified"]
    assert run("pull", f"{PATHSPEC}:latest", "out", *options).code == 0
    assert read_tree(tmp_path / "out") == files
    answer = run("doctor", *NOW, *options)
    assert (answer.code, answer.out.splitlines()[0]) == (0, "Nothing is wrong.")

    upload_key = f"{record['key'].replace('.1000.', '.1001.')}/weights.bin"

    async def wound(store: Store) -> None:
        upload_id = await store.begin_multipart(upload_key)
        await store.put_part(upload_key, upload_id, 1, 0, Body.of(b"a part"))
        stored = await store.list("")
        assert all(info.stored_unix_s is not None for info in stored)
        await store.delete([info.key for info in stored if not info.key.endswith(f"/{keys.LATEST}")])

    act_on(place, wound)
    # Of the two, only the upload may be under way.
    assert [one["kind"] for one in run("doctor", *options, "--json").json["findings"]] == ["latest", "latest"]
    answer = run("doctor", *NOW, *options, "--fix", "--yes", "--json")
    assert (answer.code, {one["outcome"] for one in answer.json["findings"]}) == (0, {"fixed"}), answer.out
    assert [one["kind"] for one in answer.json["findings"]] == ["latest", "latest", "abandoned-upload"]
    upload = answer.json["findings"][2]
    assert (upload["on"], upload["what"].endswith("a week after the last one")) == (upload_key, isinstance(place, AzurePlace))
    assert act_on(place, lambda store: store.list("")) == act_on(place, lambda store: store.list_multipart("")) == []
    assert run("doctor", *NOW, *options).code == 0


def shelf_access(url: str) -> BlobsAccess:
    """Return the access to a folder of the working directory, by a class that has no ages and can't delete."""
    assert url == "blobs://shelf/x"
    return BlobsAccess(ShelfThatKeeps(Path("shelf")), "shelf")


class ShelfThatKeeps(Shelf):
    """As a storage class of Metaflow."""

    def delete(self, names: object) -> None:
        raise NotImplementedError


def test_a_store_of_which_nothing_is_known(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shelf").mkdir()
    monkeypatch.setenv("CKPT_ASYNC_STORE", "blobs://shelf/x")
    answer = run("list")
    assert (answer.code, "it names no access function" in answer.err) == (2, True), answer.err
    monkeypatch.setenv("CKPT_ASYNC_ACCESS", f"{__name__}:shelf_access")
    write_tree(tmp_path / "model", {"weights.bin": os.urandom(100_000)})
    for _ in range(2):
        assert run("push", "model", "--as", PATHSPEC).code == 0
    newest, _ = run("list", "--json").json["checkpoints"]
    assert (newest["attempt"], newest["latest"]) == (1001, True)
    assert [line["status"] for line in run("verify", "--json").lines] == ["verified", "verified"]

    answer = run("doctor", *NOW)
    assert answer.code == 0
    assert answer.out.splitlines()[-4:] == [
        "This store does not tell when something was stored: what was left behind can't be told from what is under way.",
        "This store does not tell of unfinished uploads in parts.",
        "Nothing wrong was found.",
        "2 checkpoints. Store: blobs://shelf/x",
    ]
    answer = run("delete", f"{PATHSPEC}:latest", "--yes")
    assert (answer.code, "a storage class of Metaflow can't delete" in answer.err) == (3, True), answer.err
    assert "Traceback" not in answer.err
