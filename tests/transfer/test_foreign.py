"""Checkpoints that metaflow-checkpoint saved, built by hand as its layout says."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.transfer.catalog import latest_of, list_scope, list_task, resolve
from ckpt_async.transfer.commit import advance_pointer
from ckpt_async.transfer.download import download
from ckpt_async.words.errors import CheckpointDamaged
from ckpt_async.words.records import CheckpointRecord
from tests.transfer.parts import content_of, record_of

pytestmark = pytest.mark.anyio

ROOT = "mf.checkpoints/checkpoints"
FAMILY = "PF/start/bfa8ee162568/a92ae9615600"
FILES = {"a": b"hi", "sub/b": b"x" * 10, "empty": b"", "ünï code": b"1"}


def peer_record(storage_format: str, size_bytes: int, *, name: str = "mfchckpt", version: int = 0) -> dict[str, object]:
    key = f"{ROOT}/artifacts/{FAMILY}/9e9ad1b1.0.{name}.{version}"
    return {
        "size": size_bytes,
        "pathspec": "PF/17/start/1",
        "pathspec_hash": "9e9ad1b1",
        "attempt": 0,
        "key": key,
        "type": "checkpoint",
        "url": f"/data/.metaflow/{key}",
        "name": name,
        "created_on": "2026-11-23T13:20:02.973592",
        "metadata": {"e": 1},
        "storage_format": storage_format,
        "creation_context": "task",
        "version_id": version,
    }


def add_record(objects: MemoryObjects, data: dict[str, object]) -> CheckpointRecord:
    text = json.dumps(data).encode()
    leaf = f"{data['attempt']}.{data['name']}.{data['version_id']}.metadata"
    for key in (
        f"{ROOT}/artifact_metadata/{FAMILY}/9e9ad1b1.{leaf}",
        f"{ROOT}/artifact_metadata/{FAMILY}/latest",
        f"{ROOT}/metadata/PF/17/start/1/{leaf}",
        f"{ROOT}/metadata/PF/17/start/1/latest",
    ):
        objects.write(key, text)
    return CheckpointRecord.from_json(text, source="peer")


def tar_of(add: Callable[[tarfile.TarFile], None], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        add(tar)
    return buffer.getvalue()


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object) -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return lambda tar: tar.addfile(info, io.BytesIO(content))


def peer_tar(folder: Path, form: int = tarfile.GNU_FORMAT) -> bytes:
    """As the peer packs: the folder itself first, under an empty name."""
    folder.mkdir()
    for path, content in FILES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "sub" / "hollow").mkdir()
    (folder / ("n" * 200)).write_bytes(b"long")
    return tar_of(lambda tar: tar.add(folder, arcname=""), form)


async def test_files_of_the_peer_are_listed_and_loaded(tmp_path: Path) -> None:
    objects = MemoryObjects()
    record = add_record(objects, peer_record("files", sum(map(len, FILES.values()))))
    for path, content in FILES.items():
        objects.write(f"{record.key}/{path}", content)
    store = MemoryStore(objects)
    assert (await list_task(store, "PF/17/start/1")).records == (record,)
    assert (await list_scope(store, f"{ROOT}/artifact_metadata/{FAMILY}/")).records == (record,)
    assert await latest_of(store, f"{ROOT}/metadata/PF/17/start/1/latest") == record
    assert await resolve(store, record.to_dict()) == record
    await download(store, record, str(tmp_path / "target"))
    assert content_of(tmp_path / "target") == FILES


async def test_files_of_the_peer_in_a_local_store_are_not_aliased(tmp_path: Path) -> None:
    record = CheckpointRecord.from_dict(peer_record("files", 2), source="")
    (tmp_path / "store" / record.key).mkdir(parents=True)
    (tmp_path / "store" / record.key / "a").write_bytes(b"hi")
    async with LocalStore(str(tmp_path / "store")) as store:
        await download(store, record, str(tmp_path / "target"))
    (tmp_path / "target" / "a").write_bytes(b"changed")
    assert (tmp_path / "store" / record.key / "a").read_bytes() == b"hi"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_a_tar_of_the_peer_is_loaded(tmp_path: Path, form: int) -> None:
    text = peer_tar(tmp_path / "source", form)
    objects = MemoryObjects()
    record = add_record(objects, peer_record("tar", len(text), name="model.v1", version=4))
    objects.write(record.key, text)
    await download(MemoryStore(objects), record, str(tmp_path / "target"))
    assert content_of(tmp_path / "target") == {**FILES, "n" * 200: b"long"}
    assert (tmp_path / "target" / "sub" / "hollow").is_dir()
    listing = await list_task(MemoryStore(objects), "PF/17/start/1", name="model.v1")
    assert [found.version_id for found in listing.records] == [4]


async def test_our_pointer_moves_past_that_of_the_peer() -> None:
    objects = MemoryObjects()
    add_record(objects, peer_record("files", 2))
    pointer = f"{ROOT}/artifact_metadata/{FAMILY}/latest"
    assert not await advance_pointer(MemoryStore(objects), pointer, record_of(0, now_unix_ns=1))
    assert await advance_pointer(MemoryStore(objects), pointer, record_of(0, now_unix_ns=2**62))


@pytest.mark.parametrize("change", ["missing", "short", "all gone", "more"])
async def test_where_sizes_do_not_add_up_nothing_appears(tmp_path: Path, change: str) -> None:
    objects = MemoryObjects()
    record = add_record(objects, peer_record("files", sum(map(len, FILES.values()))))
    for path, content in FILES.items():
        objects.write(f"{record.key}/{path}", content)
    if change == "missing":
        del objects.contents[f"{record.key}/sub/b"]
    elif change == "short":
        objects.write(f"{record.key}/sub/b", b"x")
    elif change == "more":
        objects.write(f"{record.key}/another", b"x")
    else:
        for path in FILES:
            del objects.contents[f"{record.key}/{path}"]
    with pytest.raises(CheckpointDamaged, match="bytes together"):
        await download(MemoryStore(objects), record, str(tmp_path / "target"))
    assert os.listdir(tmp_path / "target") == []


def both(*adds: Callable[[tarfile.TarFile], None]) -> bytes:
    return tar_of(lambda tar: [add(tar) for add in adds] and None, tarfile.PAX_FORMAT)


GOOD = both(member("a", b"hi" * 400), member("b", b"there"))


def with_zeroed_header() -> bytes:
    second = GOOD.index(b"b\0\0\0")
    return GOOD[: second + 20] + b"\xff" * 40 + GOOD[second + 60 :]


HOSTILE: dict[str, bytes] = {
    "upwards": both(member("../outside", b"x")),
    "upwards inside": both(member("a/../../outside", b"x")),
    "absolute": both(member("/outside-of-it", b"x")),
    "symbolic link": both(member("link", kind=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "through a link": both(member("link", kind=tarfile.SYMTYPE, linkname=".."), member("link/outside-of-it", b"x")),
    "link to nothing": both(member("link", kind=tarfile.LNKTYPE, linkname="nowhere")),
    "hard link": both(member("a", b"x"), member("link", kind=tarfile.LNKTYPE, linkname="a")),
    "fifo": both(member("fifo", kind=tarfile.FIFOTYPE)),
    "device": both(member("device", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "sparse": both(member("holes", b"x" * 512, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**60)})),
    "twice": both(member("a", b"x"), member("a", b"y")),
    "file and folder": both(member("a", b"x"), member("a/b", b"y")),
    "folder and file": both(member("a", kind=tarfile.DIRTYPE), member("a", b"y")),
    "no name": both(member("", b"x")),
    "endless time": both(member("a", b"x", pax_headers={"mtime": "1e400"})),
    "no time": both(member("a", b"x", pax_headers={"mtime": "nan"})),
    "damaged header": with_zeroed_header(),
    "cut in a file": GOOD[:700],
    "cut in a header": GOOD[:1700],
    "cut between files": GOOD[:1536],
    "not a tar": b"\x80\x02}q\x00." * 2000,
    "empty": b"",
    "compressed": __import__("gzip").compress(GOOD),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_or_damaged_tar_is_damage_and_nothing_appears(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    objects = MemoryObjects()
    record = add_record(objects, peer_record("tar", len(text)))
    objects.write(record.key, text)
    with pytest.raises(CheckpointDamaged):
        await download(MemoryStore(objects), record, str(tmp_path / "target"))
    assert os.listdir(tmp_path / "target") == [] and os.listdir(tmp_path) == ["target"]


async def test_a_tar_that_is_missing_or_of_another_size_is_damage(tmp_path: Path) -> None:
    objects = MemoryObjects()
    record = add_record(objects, peer_record("tar", len(GOOD)))
    with pytest.raises(CheckpointDamaged, match="missing"):
        await download(MemoryStore(objects), record, str(tmp_path / "target"))
    objects.write(record.key, GOOD[:-512])
    with pytest.raises(CheckpointDamaged, match="bytes"):
        await download(MemoryStore(objects), record, str(tmp_path / "target"))
    assert os.listdir(tmp_path / "target") == []


async def test_a_program_in_a_tar_gets_no_special_rights(tmp_path: Path) -> None:
    text = both(member("a", b"x", mode=0o6755), member(".archive", b"y", mode=0))
    objects = MemoryObjects()
    record = add_record(objects, peer_record("tar", len(text)))
    objects.write(record.key, text)
    await download(MemoryStore(objects), record, str(tmp_path / "target"))
    assert (tmp_path / "target" / "a").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "target" / ".archive").read_bytes() == b"y"


async def test_keys_of_a_peer_do_not_lead_out_of_the_target(tmp_path: Path) -> None:
    objects = MemoryObjects()
    record = add_record(objects, peer_record("files", 1))
    objects.write(f"{record.key}/../../outside", b"x")
    with pytest.raises(CheckpointDamaged, match="plain relative"):
        await download(MemoryStore(objects), record, str(tmp_path / "target"))
    assert os.listdir(tmp_path) == ["target"] and os.listdir(tmp_path / "target") == []
