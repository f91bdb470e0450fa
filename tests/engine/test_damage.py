"""Damage in the store: every kind is named, passed by where an older checkpoint is whole, and refused where that is wanted."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable

import anyio
import pytest

from ckpt_async import CheckpointDamaged, CheckpointRecord, StoreAddress
from ckpt_async.stores.contract import Body
from ckpt_async.stores.opening import open_store
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words import keys
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, identity_of, read_tree

FILES = {"model.bin": os.urandom(300_000), "sub/small": b"0123456789"}


@pytest.fixture(params=["local", "s3"])
def desk(request: pytest.FixtureRequest, seaweed: SeaweedServer, make_desk: MakeDesk) -> Desk:
    return make_desk(request.getfixturevalue(f"{request.param}_address"), "thread")


def change(address: StoreAddress, key: str, how: Callable[[bytes], bytes | None]) -> Callable[[], None]:
    """Damage an object; returns what mends it."""

    async def act(how: Callable[[bytes], bytes | None]) -> bytes:
        async with open_store(address) as store:
            before = await store.get(key)
            after = how(before)
            await store.delete([key])
            if after is not None:
                await store.put(key, Body.of(after))
            return before

    before = anyio.run(act, how)

    def mend() -> None:
        async def put() -> None:
            async with open_store(address) as store:
                await store.put(key, Body.of(before))

        anyio.run(put)

    return mend


def flip(position: int) -> Callable[[bytes], bytes]:
    return lambda text: text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]


def inside(text: bytes) -> Callable[[bytes], bytes]:
    """Change a byte so that what was JSON still is."""
    return lambda whole: whole.replace(text, text[:-1] + b"X", 1)


def damages(record: CheckpointRecord) -> dict[str, tuple[str, Callable[[bytes], bytes | None], str]]:
    """By name: the object, what is done to it, and what must be told when the checkpoint is loaded."""
    model, record_key = f"{record.key}/model.bin", keys.record_key(record.key)
    return {
        "flipped": (model, flip(150_000), r"file 'model.bin' should have the digest [0-9a-f]{8}, it has [0-9a-f]{8}"),
        "short": (f"{record.key}/sub/small", lambda text: text[:4], r"file 'sub/small' should have 10 bytes, it ends at 4"),
        "missing": (model, lambda text: None, r"file 'model.bin' \(300000 bytes\) is missing"),
        "manifest": (record.manifest, inside(b"crc3"), r"checksum"),
        "no manifest": (record.manifest, lambda text: None, r"its manifest .* is missing"),
        "record": (record_key, inside(b"the newest"), r"its checksum should be [0-9a-f]{8}, it is [0-9a-f]{8}"),
        "cut record": (record_key, lambda text: text[:-30], r"it is not JSON"),
    }


def test_every_damage_is_named_passed_by_and_refused_where_wanted(desk: Desk) -> None:
    first = desk.open()
    for step in ("the oldest", "the newest"):
        newest = first.save(desk.tree({**FILES, "step": step.encode()}), metadata={"step": step}).record
    first.close(timeout_s=DEADLINE_S)
    later = desk.open(1)
    leaf = newest.key.rpartition("/")[2]
    resumed = functools.partial(later.resume, "fresh")
    for name, (key, how, told) in damages(newest).items():
        mend = change(desk.address, key, how)
        with pytest.raises(CheckpointDamaged) as caught:
            desk.load(newest)
        assert re.search(told, str(caught.value)) and leaf in str(caught.value), name
        # An automatic load goes by `latest`, which has the record too.
        if key != keys.record_key(newest.key):
            desk.said.clear()
            target = desk.target()
            assert resumed(str(target)) is not None and read_tree(target)["step"] == b"the oldest", name
            assert [line for line in desk.said if "damaged" in line and leaf in line], name
            with pytest.raises(CheckpointDamaged, match=told):
                resumed(str(desk.target()), strict=True)
        mend()
    target = desk.target()
    assert resumed(str(target), strict=True) == newest and read_tree(target) == {**FILES, "step": b"the newest"}
    later.close(timeout_s=DEADLINE_S)


@pytest.mark.parametrize("how", [inside(b"the newest"), lambda text: b"", lambda text: text[:-7]])
def test_a_damaged_pointer_or_record_is_not_taken_for_none(desk: Desk, how: Callable[[bytes], bytes | None]) -> None:
    first = desk.open()
    records = [first.save(desk.tree({"step": step.encode()}), metadata={"step": step}).record for step in ("old", "the newest")]
    first.close(timeout_s=DEADLINE_S)
    pathspec = identity_of().pathspec
    later = desk.open(1)
    change(desk.address, keys.task_latest_key(pathspec), how)
    assert later.resume("fresh", str(desk.target())) == records[1]
    with pytest.raises(CheckpointDamaged, match="latest"):
        later.resume("fresh", str(desk.target()), strict=True)
    # Without any pointer the list is read; a record in it that is damaged is told of too.
    change(desk.address, keys.task_latest_key(pathspec), lambda text: None)
    change(desk.address, keys.task_record_key(identity_of(), "mfchckpt", 1), how)
    assert later.resume("fresh", str(desk.target())) == records[0]
    assert any("damaged checkpoint record is left out" in line for line in desk.said)
    with pytest.raises(CheckpointDamaged, match=r"0\.mfchckpt\.1\.metadata"):
        later.resume("fresh", str(desk.target()), strict=True)
    assert [record.key for record in desk.records()] == [records[0].key]
    with pytest.raises(CheckpointDamaged):
        desk.records(strict=True)
    later.close(timeout_s=DEADLINE_S)
