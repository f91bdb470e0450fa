"""Unfinished uploads in parts of a local store. Blocks, so it runs in threads.

An upload is two temporary files: the data, each part at its place, and a list of what was stored, one line of JSON each, the
first of which names the key. Both outlive the process, so another one can go on.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckpt_async.disk.digests import crc32
from ckpt_async.stores.contract import Body, ObjectInfo, Part, UnfinishedUpload
from ckpt_async.stores.local.files import UPLOAD_MARK, LocalFiles
from ckpt_async.words.errors import StoreObjectMissing, StoreRejected

__all__ = ["LocalUploads", "write_body"]

READ_BYTES = 1 << 20
_ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True)
class _Receipt:
    part: Part
    offset: int
    writer: str


def write_body(descriptor: int, offset: int, body: Body) -> None:
    """Write a body into a file, from `offset` on."""
    for chunk in body.chunks:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(descriptor, view, offset)
            offset += written
            view = view[written:]


class LocalUploads:
    """The unfinished uploads of one store.

    Parameters
    ----------
    files : LocalFiles
        Where the finished object goes.
    """

    def __init__(self, files: LocalFiles) -> None:
        self._files = files
        # Parts that this instance wrote need no second look: the page cache holds them, or the sync at the end fails.
        self._writer = secrets.token_hex(8)

    def begin(self, key: str) -> str:
        """Begin an upload; return its id."""
        self._files.path(key)
        upload_id = secrets.token_hex(12)
        data_path, list_path = self._paths(upload_id)
        for path, mode, content in ((data_path, 0o666, b""), (list_path, 0o600, json.dumps({"key": key}).encode() + b"\n")):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                _write_whole(descriptor, content)
            finally:
                os.close(descriptor)
        return upload_id

    def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        """Write a part to its place, then note it."""
        return self.write_part(
            key, upload_id, number, offset, body.size_bytes, body.crc32, lambda data: write_body(data, offset, body)
        )

    def write_part(
        self, key: str, upload_id: str, number: int, offset: int, size_bytes: int, crc32: int, write: Callable[[int], None]
    ) -> Part:
        """Have `write` put a part to its place in the file whose descriptor it is given, then note it."""
        data_path, list_path = self._find("store a part", key, upload_id)
        if number < 1 or offset < 0:
            raise StoreRejected("store a part", on=key, cause=f"number {number}, offset {offset}: they count from 1 and 0")
        part = Part(number, f"{crc32:08x}-{size_bytes:x}-{secrets.token_hex(4)}", size_bytes, crc32)
        line = {
            "number": number,
            "etag": part.etag,
            "size_bytes": part.size_bytes,
            "crc32": part.crc32,
            "offset": offset,
            "writer": self._writer,
        }
        try:
            data = os.open(data_path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                write(data)
            finally:
                os.close(data)
            notes = os.open(list_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                # The line before may have been cut off by a full disk: a new one begins with an end of line, too.
                _write_whole(notes, b"\n" + json.dumps(line).encode() + b"\n")
            finally:
                os.close(notes)
        except FileNotFoundError:
            # Completed or given up meanwhile.
            raise self._unknown("store a part", key) from None
        return part

    def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        """Check that the named parts are there and fit together, then make the file visible under its key."""
        data_path, list_path = self._find("complete an upload", key, upload_id)
        receipts = self._receipts(list_path)
        try:
            descriptor = os.open(data_path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._unknown("complete an upload", key) from None
        try:
            end = 0
            for part in sorted(parts, key=lambda part: part.number):
                receipt = receipts.get(part.number)
                if receipt is None or receipt.part != part:
                    raise StoreRejected("complete an upload", on=key, cause=f"part {part.number} is missing or another one")
                if receipt.offset != end:
                    cause = f"part {part.number} starts at {receipt.offset}, the parts before it end at {end}"
                    raise StoreRejected("complete an upload", on=key, cause=cause)
                # Another process wrote it, perhaps before the machine itself went down: its note may have reached the disk
                # without it.
                if receipt.writer != self._writer and _crc32_at(descriptor, end, part.size_bytes) != part.crc32:
                    raise StoreRejected("complete an upload", on=key, cause=f"the bytes of part {part.number} are damaged")
                end += part.size_bytes
            os.ftruncate(descriptor, end)
            try:
                info = self._files.publish(descriptor, data_path, key)
            except FileNotFoundError:
                if os.path.exists(data_path):
                    raise
                raise self._unknown("complete an upload", key) from None
        finally:
            os.close(descriptor)
        _unlink(list_path)
        return info

    def abort(self, key: str, upload_id: str) -> None:
        """Remove the files of an upload."""
        try:
            data_path, list_path = self._find("give an upload up", key, upload_id)
        except StoreObjectMissing:
            return
        _unlink(data_path)
        _unlink(list_path)

    def unfinished(self, prefix: str) -> list[UnfinishedUpload]:
        """Return the uploads of this user that were begun and neither completed nor given up."""
        found = []
        for folder in self._files.temp_folders():
            with os.scandir(folder) as entries:
                for entry in entries:
                    upload_id = entry.name.removeprefix(UPLOAD_MARK).removesuffix(".parts")
                    if not (_ID.fullmatch(upload_id) and entry.name == f"{UPLOAD_MARK}{upload_id}.parts"):
                        continue
                    try:
                        with open(entry.path, "rb") as notes:
                            key = str(json.loads(notes.readline())["key"])
                        since_unix_s = entry.stat().st_mtime
                    except (FileNotFoundError, ValueError, KeyError):
                        continue  # Completed or given up meanwhile, or cut off by a crash: nothing could go on with it.
                    if key.startswith(prefix):
                        found.append(UnfinishedUpload(key, upload_id, since_unix_s))
        return found

    def _paths(self, upload_id: str) -> tuple[str, str]:
        base = os.path.join(self._files.temp_folder(), UPLOAD_MARK + upload_id)
        return base + ".data", base + ".parts"

    def _find(self, attempted: str, key: str, upload_id: str) -> tuple[str, str]:
        self._files.path(key)
        # The id becomes part of a path.
        if not _ID.fullmatch(upload_id):
            raise self._unknown(attempted, key)
        data_path, list_path = self._paths(upload_id)
        try:
            with open(list_path, "rb") as notes:
                known = json.loads(notes.readline())["key"]
        except (FileNotFoundError, ValueError, KeyError):
            raise self._unknown(attempted, key) from None
        if known != key:
            raise self._unknown(attempted, key)
        return data_path, list_path

    @staticmethod
    def _receipts(list_path: str) -> dict[int, _Receipt]:
        found: dict[int, _Receipt] = {}
        with open(list_path, "rb") as notes:
            for line in notes.readlines()[1:]:
                try:
                    note = json.loads(line)
                    part = Part(note["number"], note["etag"], note["size_bytes"], note["crc32"])
                    found[part.number] = _Receipt(part, note["offset"], note["writer"])
                except (ValueError, KeyError, TypeError):
                    # Cut off by a crash: the part is not noted, so it counts as missing.
                    continue
        return found

    @staticmethod
    def _unknown(attempted: str, key: str) -> StoreObjectMissing:
        return StoreObjectMissing(attempted, on=key, cause="the upload is not known (any more)")


def _crc32_at(descriptor: int, offset: int, size_bytes: int) -> int:
    crc = 0
    while size_bytes:
        piece = os.pread(descriptor, min(READ_BYTES, size_bytes), offset)
        if not piece:
            return -1
        crc = crc32(piece, crc)
        offset += len(piece)
        size_bytes -= len(piece)
    return crc


def _write_whole(descriptor: int, content: bytes) -> None:
    """A disk that becomes full takes the beginning of a write, says how much, and refuses only the next one."""
    while content:
        content = content[os.write(descriptor, content) :]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
