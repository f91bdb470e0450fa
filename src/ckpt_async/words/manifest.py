"""The manifest: the files of one checkpoint with their sizes and digests, as it stands in the store.

A file is described twice on its way: by a `SnapshotFile` while it lies in the spool (no digest yet: nothing has read it), and by a
`ManifestFile` once the read that sent it has computed its digest. The type tells the stage.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ckpt_async.words.errors import CheckpointDamaged

__all__ = ["DIGEST_ALGORITHM", "Manifest", "ManifestFile", "check_relative_path"]

#: The digest of a file: CRC-32 as in zlib, 8 hexadecimal digits. In the standard library, and S3 verifies the same sum.
DIGEST_ALGORITHM = "crc32"

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ManifestFile:
    """A stored file.

    Attributes
    ----------
    path : str
        Relative to the saved folder, parts joined by ``/``.
    size_bytes : int
        Its length.
    digest : str
        In the manifest's algorithm.
    mode : int
        The permission bits.
    mtime_ns : int
        Nanoseconds since 1970.
    tar_offset : int
        Where the content starts inside the archive; -1 where the file is an object of its own.
    """

    path: str
    size_bytes: int
    digest: str
    mode: int
    mtime_ns: int
    tar_offset: int = -1


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is made of.

    Attributes
    ----------
    key : str
        The data key of the checkpoint.
    storage_format : str
        ``"files"`` or ``"tar"``.
    files : tuple of ManifestFile
        Sorted by path.
    directories : tuple of str
        Every folder below the saved one, empty ones too.
    algorithm : str
        Of the digests.
    stored : dict, optional
        What later uploads may have copied, as it stands in the text; `ckpt_async.transfer.recorded` reads it. A load does not look
        at it: whatever it holds, the checkpoint can be loaded.
    """

    key: str
    storage_format: str
    files: tuple[ManifestFile, ...]
    directories: tuple[str, ...] = ()
    algorithm: str = DIGEST_ALGORITHM
    stored: dict[str, Any] | None = None

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> bytes:
        """Return the text that is stored. It carries a sum of its own, so that damage to it is seen."""
        body: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "key": self.key,
            "storage_format": self.storage_format,
            "algorithm": self.algorithm,
            "directories": list(self.directories),
            "files": [[f.path, f.size_bytes, f.digest, f.mode, f.mtime_ns, f.tar_offset] for f in self.files],
        }
        if self.stored is not None:
            body["stored"] = self.stored
        return json.dumps({"manifest": body, "crc32": _sum_of(body)}).encode()

    @classmethod
    def from_json(cls, text: bytes, *, source: str) -> Manifest:
        """Read a stored manifest.

        Raises
        ------
        CheckpointDamaged
            It is not what `to_json` wrote, or a path in it leads out of the folder.
        """
        try:
            outer = json.loads(text)
            body = outer["manifest"]
            if outer["crc32"] != _sum_of(body):
                raise CheckpointDamaged("read a manifest", on=source, cause="its checksum does not match its content")
            if body["format_version"] != FORMAT_VERSION:
                raise CheckpointDamaged(
                    "read a manifest",
                    on=source,
                    cause=f"it is of format {body['format_version']!r}, this version reads {FORMAT_VERSION}",
                    hint="Install a newer ckpt-async.",
                )
            files = tuple(_file_of(row, source) for row in body["files"])
            directories = tuple(check_relative_path(path, source) for path in body["directories"])
            _check_tree([file.path for file in files], directories)
            stored = body.get("stored")
            return cls(
                str(body["key"]),
                str(body["storage_format"]),
                files,
                directories,
                str(body["algorithm"]),
                stored if isinstance(stored, dict) else None,
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointDamaged("read a manifest", on=source, cause=f"{type(error).__name__}: {error}") from error


def _sum_of(body: object) -> str:
    return f"{zlib.crc32(json.dumps(body, sort_keys=True).encode()):08x}"


def _check_tree(files: list[str], directories: tuple[str, ...]) -> None:
    """Raise ValueError where these can't stand side by side in one folder."""
    paths = set(files)
    if len(paths) != len(files):
        raise ValueError("a file is there twice")
    folders = set(directories)
    for path in (*files, *directories):
        while (path := path.rpartition("/")[0]) and path not in folders:
            folders.add(path)
    if not paths.isdisjoint(folders):
        raise ValueError(f"{min(paths & folders)!r} is a file and a folder")


def _file_of(row: Any, source: str) -> ManifestFile:
    path, size_bytes, digest, mode, mtime_ns, tar_offset = row
    for number in (size_bytes, mode, mtime_ns, tar_offset):
        if not isinstance(number, int) or isinstance(number, bool) or number.bit_length() > 63:
            raise TypeError(f"{number!r} is not an integer of 64 bits")
    if size_bytes < 0 or not isinstance(digest, str):
        raise ValueError(f"size {size_bytes}, digest {digest!r}")
    return ManifestFile(check_relative_path(path, source), size_bytes, digest, mode & 0o7777, mtime_ns, tar_offset)


def check_relative_path(path: object, source: str) -> str:
    """Return `path` where it stays inside the folder that it is relative to.

    Raises
    ------
    CheckpointDamaged
        It is absolute, empty, not text that UTF-8 can hold, or leads upwards: written into a folder it could end anywhere.
    """
    if isinstance(path, str) and path and "\0" not in path:
        pure = PurePosixPath(path)
        if not pure.is_absolute() and ".." not in pure.parts and str(pure) == path and path != "." and _is_utf8(path):
            return path
    raise CheckpointDamaged("read a manifest", on=source, cause=f"the path {path!r} is not a plain relative one")


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
