"""What a store in a folder does beyond the contract: links, modes, syncs, other processes, errors of the file system."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async.disk import durable
from ckpt_async.stores.contract import Body
from ckpt_async.stores.local import files as local_files, store as local, uploads as local_uploads
from ckpt_async.stores.local.errors import translate_os_error
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.words.errors import (
    InvalidArgument,
    StoreAccessDenied,
    StoreError,
    StoreMissing,
    StoreObjectMissing,
    StoreRejected,
    StoreUnavailable,
)

pytestmark = pytest.mark.anyio
TEMP = local_files.TEMP_FOLDER


def leftovers(root: Path) -> list[str]:
    folder = root / TEMP
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def test_no_temporary_file_stays(tmp_path: Path) -> None:
    async with LocalStore(str(tmp_path)) as store:
        await store.put("a/b", Body.of(b"x"))
        upload_id = await store.begin_multipart("m")
        part = await store.put_part("m", upload_id, 1, 0, Body.of(b"x"))
        await store.complete_multipart("m", upload_id, [part])
        given_up = await store.begin_multipart("n")
        await store.abort_multipart("n", given_up)
    assert leftovers(tmp_path) == []
    assert stat.S_IMODE((tmp_path / TEMP).stat().st_mode) == 0o700


async def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        async with LocalStore(str(tmp_path)) as store:
            await store.put("folder/k", Body.of(b"x"))
            upload_id = await store.begin_multipart("folder/m")
            part = await store.put_part("folder/m", upload_id, 1, 0, Body.of(b"x"))
            await store.complete_multipart("folder/m", upload_id, [part])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder/k").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder/m").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


async def test_the_temporary_folder_is_no_place_for_objects(tmp_path: Path) -> None:
    async with LocalStore(str(tmp_path)) as store:
        with pytest.raises(InvalidArgument):
            await store.put(f"{TEMP}/k", Body.of(b"x"))


async def test_a_missing_root_is_not_made(tmp_path: Path) -> None:
    root = tmp_path / "none"
    async with LocalStore(str(root)) as store:
        for call in (
            store.put("k", Body.of(b"x")),
            store.get("k"),
            store.head("k"),
            store.list(""),
            store.list("a/"),
            store.delete(["k"]),
            store.begin_multipart("k"),
        ):
            with pytest.raises(StoreMissing, match="none"):
                await call
        assert not root.exists()


async def test_the_root_vanishes_in_between(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    async with LocalStore(str(root)) as store:
        await store.put("a/k", Body.of(b"x"))
        shutil.rmtree(root)
        with pytest.raises(StoreMissing):
            await store.put("a/k", Body.of(b"x"))
        root.mkdir()
        # The folder for temporary files is gone with it: it is made again.
        await store.put("a/k", Body.of(b"y"))
        assert await store.get("a/k") == b"y"


async def test_links_that_lead_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "a/folder").symlink_to(outside)
    (root / "a/file").symlink_to(outside / "secret")
    async with LocalStore(str(root)) as store:
        for call in (
            store.get("a/folder/secret"),
            store.head("a/folder/secret"),
            store.get("a/file"),
            store.head("a/file"),
            store.put("a/folder/new", Body.of(b"x")),
            store.begin_multipart("a/folder/new"),
            store.delete(["a/folder/secret"]),
            store.list("a/folder/"),
        ):
            with pytest.raises(StoreRejected, match="leads out"):
                await call
        assert await store.list("") == []
        # An object in the place of the link replaces the link, not what it leads to.
        await store.put("a/file", Body.of(b"new"))
    assert not (root / "a/file").is_symlink()
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


async def test_links_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"content")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file").symlink_to("real/file")
    async with LocalStore(str(tmp_path)) as store:
        assert await store.get("folder/file") == b"content"
        assert await store.get("file") == b"content"
        assert [info.key for info in await store.list("")] == ["file", "real/file"]


async def test_a_folder_or_a_file_in_the_way(tmp_path: Path) -> None:
    async with LocalStore(str(tmp_path)) as store:
        await store.put("a/b", Body.of(b"x"))
        with pytest.raises(StoreRejected, match="folder of that name"):
            await store.put("a", Body.of(b"x"))
        with pytest.raises(StoreRejected, match="is a file"):
            await store.put("a/b/c", Body.of(b"x"))
        with pytest.raises(StoreRejected):
            await store.put("n" * 300, Body.of(b"x"))
        assert leftovers(tmp_path) == []


async def test_what_is_no_file_is_no_object(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    async with LocalStore(str(tmp_path)) as store:
        assert await store.head("fifo") is None
        assert await store.list("") == []
        with pytest.raises(StoreObjectMissing):
            await store.get("fifo")


async def test_everything_is_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    rename = os.rename

    def note_sync(descriptor: int) -> None:
        # By inode: the file has its final name later.
        steps.append(f"sync {os.fstat(descriptor).st_ino}")

    def note_rename(source: str, target: str, **more: int) -> None:
        rename(source, target, **more)  # type: ignore[arg-type]
        steps.append("rename")

    # Below what tells folders from files.
    monkeypatch.setattr(durable, "sync_descriptor", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    async with LocalStore(str(tmp_path)) as store:
        await store.put("a/b/k", Body.of(b"x"))
    inode = {name: (tmp_path / name).stat().st_ino for name in (".", "a", "a/b", "a/b/k")}
    assert steps == [
        f"sync {inode['a/b/k']}",
        f"sync {inode['.']}",
        f"sync {inode['a']}",
        "rename",
        f"sync {inode['a/b']}",
    ]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreUnavailable),
        (errno.EDQUOT, StoreUnavailable),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.EACCES, StoreAccessDenied),
        (errno.EROFS, StoreAccessDenied),
        (errno.ENAMETOOLONG, StoreRejected),
        (errno.ENOENT, StoreRejected),
        (errno.ELOOP, StoreRejected),
    ],
)
def test_errors_of_the_file_system(tmp_path: Path, number: int, kind: type[StoreError]) -> None:
    error = translate_os_error(OSError(number, os.strerror(number)), "store an object", "k", str(tmp_path))
    assert type(error) is kind
    assert os.strerror(number) in str(error)


async def test_a_full_disk_says_how_much_is_free_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with LocalStore(str(tmp_path)) as store:
        await store.put("k", Body.of(b"old"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(StoreUnavailable, match=r"\d+ bytes are free"):
                await store.put("k", Body.of(b"new"))
        assert await store.get("k") == b"old"
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
async def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    async with LocalStore(str(tmp_path)) as store:
        with pytest.raises(StoreAccessDenied, match="Permission denied"):
            await store.put("closed/k", Body.of(b"x"))


async def test_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / TEMP
    folder.mkdir(mode=0o700)
    days = {"put-old": 3, "put-new": 0.5, "upload-old.data": 30, "upload-new.data": 3}
    now_s = os.stat(folder).st_mtime
    for name, age in days.items():
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (now_s - age * 86400, now_s - age * 86400))
    async with LocalStore(str(tmp_path)) as store:
        await store.put("k", Body.of(b"x"))
    assert leftovers(tmp_path) == ["put-new", "upload-new.data"]


@pytest.fixture
def other_process() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


PART = 100_000
KILLED_WRITER = f"""
import anyio, os, signal, sys
from ckpt_async.stores.contract import Body
from ckpt_async.stores.local.store import LocalStore
async def main():
    async with LocalStore(sys.argv[1]) as store:
        upload = await store.begin_multipart("m")
        part = await store.put_part("m", upload, 2, {PART}, Body.of(b"b" * {PART}))
        print(upload, part.etag, part.crc32, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
anyio.run(main)
"""


@pytest.fixture
def killed_writer(tmp_path: Path) -> list[str]:
    """Upload id, etag and checksum of a part that a process stored before it was killed."""
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.decode().split()


@pytest.mark.parametrize("damaged", [False, True])
async def test_an_upload_survives_the_death_of_its_process(tmp_path: Path, killed_writer: list[str], damaged: bool) -> None:
    upload_id, etag, crc32 = killed_writer
    if damaged:
        # As after a crash of the machine that lost the data but kept the note.
        (data,) = (tmp_path / TEMP).glob("*.data")
        with data.open("r+b") as file:
            file.seek(PART + 5)
            file.write(b"\0\0\0")
    async with LocalStore(str(tmp_path)) as store:
        body = Body.of(b"a" * PART)
        first = await store.put_part("m", upload_id, 1, 0, body)
        second = local_uploads.Part(2, etag, PART, int(crc32))
        if damaged:
            with pytest.raises(StoreRejected, match="part 2 are damaged"):
                await store.complete_multipart("m", upload_id, [first, second])
        else:
            await store.complete_multipart("m", upload_id, [first, second])
            assert await store.get("m") == b"a" * PART + b"b" * PART


async def test_parts_that_do_not_fit_together(tmp_path: Path) -> None:
    async with LocalStore(str(tmp_path)) as store:
        upload_id = await store.begin_multipart("m")
        first = await store.put_part("m", upload_id, 1, 0, Body.of(b"12345"))
        second = await store.put_part("m", upload_id, 2, 6, Body.of(b"67890"))
        with pytest.raises(StoreRejected, match="starts at 6"):
            await store.complete_multipart("m", upload_id, [first, second])


RACER = """
import anyio, sys
from ckpt_async.stores.contract import Body
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.words.errors import StorePreconditionFailed
async def main():
    async with LocalStore(sys.argv[1]) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(50):
            try:
                await store.put(f"race/{number}", Body.of(sys.argv[2].encode()), if_absent=True)
                print(number, flush=True)
            except StorePreconditionFailed:
                pass
anyio.run(main)
"""


def test_races_between_processes_have_one_winner(tmp_path: Path, other_process: list[subprocess.Popen[bytes]]) -> None:
    for name in "abc":
        command = [sys.executable, "-c", RACER, str(tmp_path), name]
        other_process.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for process in other_process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in other_process:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    won = {name: process.communicate(timeout=60)[0].split() for name, process in zip("abc", other_process, strict=True)}
    assert sorted(int(number) for numbers in won.values() for number in numbers) == list(range(50))
    for name, numbers in won.items():
        for number in numbers:
            assert (tmp_path / "race" / number.decode()).read_text() == name


async def test_a_lock_that_another_process_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_files, "LOCK_TIMEOUT_S", 0.05)
    (tmp_path / "a").mkdir()
    # A second description of the folder is a stranger to the first, as in another process.
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        async with LocalStore(str(tmp_path)) as store:
            with pytest.raises(StoreUnavailable, match="held the lock"):
                await store.put("a/k", Body.of(b"x"))
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            await store.put("a/k", Body.of(b"x"))
    finally:
        os.close(descriptor)


async def test_a_file_system_that_cannot_lock_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock
    locked: list[bool] = []

    def as_on_nfs(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        locked.append(True)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    async with LocalStore(str(tmp_path)) as store:
        info = await store.put("a/k", Body.of(b"x"), if_absent=True)
        await store.put("a/k", Body.of(b"y"), if_match=info.etag)
        assert await store.get("a/k") == b"y"
    assert locked


@pytest.mark.anyio
async def test_pages_begin_where_the_one_before_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = sorted(["a", "a.b/x", "a.b/y", "ab", "c/1/k", "c/1/k.l", "c/1/k0", "c/2/a/k", "c/2/k", "d", "e.f", "e/k"])
    async with LocalStore(str(tmp_path)) as store:
        for key in keys:
            await store.put(key, Body.of(b"."), durable=False)
        for page_objects in (1, 2, 3, len(keys), len(keys) + 1):
            monkeypatch.setattr(local, "PAGE_OBJECTS", page_objects)
            pages, token = [], ""
            while True:
                page, token = await store.list_page("", token)
                pages.append([info.key for info in page])
                if not token:
                    break
            assert [key for page in pages for key in page] == keys
            assert all(len(page) <= page_objects for page in pages)
