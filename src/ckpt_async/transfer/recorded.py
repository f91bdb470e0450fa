"""What a manifest says of the files of an upload, and of the larger objects, so that a worker of another process, attempt or run
can have them copied.

No key stands there: each follows from the key of the checkpoint and the path of the file, so that no text in a store can name
anything else as the source of a copy. Nor do the guard's names for contents, which mean nothing in another process.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from ckpt_async.disk.digests import format_digest
from ckpt_async.stores.contract import CopySource
from ckpt_async.transfer.notes import UploadNotes
from ckpt_async.transfer.plan import SourceFile, UploadPlan
from ckpt_async.transfer.reading import digest_of_pieces
from ckpt_async.transfer.unchanged import StoredPart, md5_in
from ckpt_async.words.errors import CheckpointDamaged, SpoolDamaged
from ckpt_async.words.manifest import Manifest, ManifestFile
from ckpt_async.words.records import CheckpointRecord

__all__ = ["from_manifest", "manifest_of", "to_manifest"]

#: In place of a file's index: the archive.
ARCHIVE = -1

_SUMS = re.compile(r"([0-9a-f]{8})([0-9a-f]{32})?")
#: It is sent in a header.
_ETAG = re.compile(r"[\x21-\x7e]{1,256}")


def to_manifest(key: str, paths: Sequence[str], parts: Sequence[StoredPart], part_bytes: int) -> dict[str, Any] | None:
    """Return what stands of objects in the manifest of the checkpoint `key`; None where there is nothing to say.

    Parameters
    ----------
    paths : sequence of str
        Of its files, in the manifest's order.
    parts : sequence of StoredPart
        Object by object, each in order.
    part_bytes : int
        The size of all but the last of an object.
    """
    if not parts:
        return None
    indexes = {f"{key}/{path}": index for index, path in enumerate(paths)} | {key: ARCHIVE}
    objects = []
    for source_key, group in itertools.groupby(parts, lambda part: part.source.key):
        of_object = list(group)
        last = of_object[-1].source
        # With thousands of objects, each stored by one request, it makes a difference not to say their MD5 twice.
        said = md5_in(last.etag) if of_object[0].whole else ""
        sums = [f"{part.source.crc32:08x}{part.md5 if part.md5 != said else ''}" for part in of_object]
        objects.append([indexes[source_key], last.offset + last.size_bytes, last.etag, sums])
    return {"part_bytes": part_bytes, "objects": objects}


def from_manifest(manifest: Manifest) -> tuple[tuple[StoredPart, ...], int]:
    """Return the parts that a manifest tells of, and their size; none where it tells of none.

    Raises
    ------
    CheckpointDamaged
        It is not what `to_manifest` wrote.
    """
    if manifest.stored is None:
        return (), 0
    try:
        part_bytes = _number(manifest.stored["part_bytes"])
        if not part_bytes:
            raise ValueError("parts of 0 bytes")
        return tuple(part for row in manifest.stored["objects"] for part in _parts_of(row, manifest, part_bytes)), part_bytes
    except (KeyError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise CheckpointDamaged("read what a manifest says of stored objects", on=manifest.key, cause=cause) from error


def _parts_of(row: Any, manifest: Manifest, part_bytes: int) -> list[StoredPart]:
    index, size_bytes, etag, sums = row
    key, size_bytes = _key_of(index, manifest), _number(size_bytes)
    if not isinstance(etag, str) or not _ETAG.fullmatch(etag):
        raise ValueError(f"{etag!r} is no etag")
    if not isinstance(sums, list) or len(sums) != -(-size_bytes // part_bytes):
        raise ValueError(f"not the sums of {size_bytes} bytes in parts of {part_bytes}")
    whole = len(sums) == 1
    said = md5_in(etag) if whole else ""
    found = []
    for number, text in enumerate(sums):
        known = _SUMS.fullmatch(text)
        if known is None:
            raise ValueError(f"{text!r} is no sum")
        offset = number * part_bytes
        source = CopySource(key, etag, offset, min(part_bytes, size_bytes - offset), int(known[1], 16))
        found.append(StoredPart(source, whole, known[2] or said, ""))
    return found


def _key_of(index: Any, manifest: Manifest) -> str:
    if manifest.storage_format == "tar":
        if index != ARCHIVE:
            raise ValueError(f"{index!r} is not the archive")
        return manifest.key
    if _number(index) >= len(manifest.files):
        raise ValueError(f"there is no file {index}")
    return f"{manifest.key}/{manifest.files[index].path}"


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or value.bit_length() > 63:
        raise TypeError(f"{value!r} is not a number of 0 or more, of 63 bits")
    return value


def manifest_of(
    record: CheckpointRecord, files: Sequence[SourceFile], directories: tuple[str, ...], plan: UploadPlan, notes: UploadNotes
) -> Manifest:
    """Return the manifest of an upload of which all parts are noted.

    Raises
    ------
    SpoolDamaged
        The notes do not cover a file.
    """
    pieces = notes.all_pieces()
    described = []
    for index, (file, tar_offset) in enumerate(zip(files, plan.tar_offsets, strict=True)):
        crc32 = digest_of_pieces(pieces.get(index, []), file.size_bytes)
        if crc32 is None:
            raise SpoolDamaged(
                "upload a checkpoint",
                on=record.key,
                cause=f"the notes of {file.path!r} do not cover the file",
                hint="Save again.",
            )
        described.append(ManifestFile(file.path, file.size_bytes, format_digest(crc32), file.mode, file.mtime_ns, tar_offset))
    return Manifest(record.key, record.storage_format, tuple(described), directories)
