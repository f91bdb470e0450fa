"""Loading what another program saved in the same layout: no manifest, so sizes are all that can be checked."""

from __future__ import annotations

import os
import secrets
import tarfile

import anyio.to_thread

from ckpt_async.stores.contract import Store
from ckpt_async.transfer.fetch import OnFetched, fetch_files, untold
from ckpt_async.transfer.ranges import WantedFile
from ckpt_async.words.errors import CheckpointDamaged
from ckpt_async.words.manifest import check_relative_path
from ckpt_async.words.records import CheckpointRecord

__all__ = ["fetch"]


async def fetch(store: Store, record: CheckpointRecord, partial: str, *, on_fetched: OnFetched = untold) -> None:
    """Load a checkpoint without a manifest into the empty folder `partial`.

    Raises
    ------
    CheckpointDamaged
        Data is missing, the sizes don't add up, or a path leads out of the folder.
    """
    if record.storage_format == "tar":
        await _fetch_tar(store, record, partial, on_fetched)
    else:
        await _fetch_files(store, record, partial, on_fetched)


async def _fetch_files(store: Store, record: CheckpointRecord, partial: str, on_fetched: OnFetched) -> None:
    objects = await store.list(record.key + "/")
    size_bytes = sum(info.size_bytes for info in objects)
    if size_bytes != record.size_bytes:
        raise CheckpointDamaged(
            "load a checkpoint",
            on=record.key,
            cause=f"its files should have {record.size_bytes} bytes together, {len(objects)} files with {size_bytes} are there",
            hint="Load an earlier one; list() shows them.",
        )
    wanted = []
    for info in objects:
        path = check_relative_path(info.key.removeprefix(record.key + "/"), record.key)
        wanted.append(WantedFile(path, info.size_bytes, info.key, 0, "", None, None))
    await fetch_files(store, wanted, partial, on=record.key, on_fetched=on_fetched)


async def _fetch_tar(store: Store, record: CheckpointRecord, partial: str, on_fetched: OnFetched) -> None:
    info = await store.head(record.key)
    if info is None or info.size_bytes != record.size_bytes:
        found = "is missing" if info is None else f"has {info.size_bytes} bytes"
        raise CheckpointDamaged(
            "load a checkpoint", on=record.key, cause=f"its archive should have {record.size_bytes} bytes, it {found}"
        )
    # No name that can also stand in the archive.
    archive = f".archive-{secrets.token_hex(8)}"
    whole = [WantedFile(archive, info.size_bytes, record.key, 0, "", None, None)]
    await fetch_files(store, whole, partial, on=record.key, on_fetched=lambda size_bytes, _: on_fetched(size_bytes, 0))
    on_fetched(0, await anyio.to_thread.run_sync(_unpack, os.path.join(partial, archive), partial, record))


def _unpack(archive: str, partial: str, record: CheckpointRecord) -> int:
    """Unpack plain files and folders, and return how many files; whatever else an archive can hold has no place in a checkpoint."""
    files = 0
    try:
        with open(archive, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            for member in tar:
                _unpack_member(tar, member, partial, record)
                files += member.isreg()
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            # The module takes a damaged header for the end. The true end is an empty block.
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"it breaks off, or is damaged, at byte {end}")
    except (tarfile.TarError, ValueError, OverflowError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointDamaged("load a checkpoint", on=record.key, cause=f"its archive can't be read: {error}") from error
    os.unlink(archive)
    return files


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, partial: str, record: CheckpointRecord) -> None:
    if member.name.strip("/") in ("", ".") and member.isdir():
        return
    path = os.path.join(partial, check_relative_path(member.name.removeprefix("./").rstrip("/"), record.key))
    if member.isdir():
        os.makedirs(path, exist_ok=True)
        return
    # The kind first: to extract a link is to follow it. A file with holes may claim any size.
    content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise CheckpointDamaged(
            "load a checkpoint", on=record.key, cause=f"{member.name!r} in its archive is a link or a device, not a plain file"
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        while chunk := content.read(1024 * 1024):
            file.write(chunk)
    os.chmod(path, member.mode & 0o777 | 0o600)
    os.utime(path, (member.mtime, member.mtime))
