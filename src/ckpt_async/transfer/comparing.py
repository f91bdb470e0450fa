"""What differs between two checkpoints: from their manifests, or, where another program saved one, from the sizes of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckpt_async.stores.contract import Store
from ckpt_async.transfer.browsing import each_object
from ckpt_async.transfer.download import listed_manifest
from ckpt_async.words.records import CheckpointRecord

__all__ = ["ADDED", "CHANGED", "Contents", "Difference", "FileFacts", "REMOVED", "compare", "contents_of"]

ADDED, REMOVED, CHANGED = "added", "removed", "changed"


@dataclass(frozen=True)
class FileFacts:
    """What is known of a stored file; `digest` is empty where that is not."""

    size_bytes: int
    digest: str


@dataclass(frozen=True)
class Contents:
    """The files of a checkpoint by path.

    Attributes
    ----------
    files : mapping of str to FileFacts
        Of an archive without a manifest, only the archive itself is known: it has the path ``""``.
    from_manifest : bool
        Whether digests are known, and not only sizes.
    """

    files: Mapping[str, FileFacts]
    from_manifest: bool


@dataclass(frozen=True)
class Difference:
    """A file that is not the same in both.

    Attributes
    ----------
    path : str
        Relative to what was saved.
    kind : str
        ``"added"``, ``"removed"`` or ``"changed"``.
    before_bytes, after_bytes : int or None
        Its sizes; None where it is not there.
    """

    path: str
    kind: str
    before_bytes: int | None
    after_bytes: int | None


async def contents_of(store: Store, record: CheckpointRecord) -> Contents:
    """Read what a checkpoint is made of.

    Raises
    ------
    CheckpointDamaged
        Its manifest is missing or can't be read.
    StoreError
        The store does not answer, or refuses.
    """
    if record.manifest:
        manifest = await listed_manifest(store, record)
        return Contents({file.path: FileFacts(file.size_bytes, file.digest) for file in manifest.files}, True)
    if record.storage_format == "tar":
        return Contents({"": FileFacts(record.size_bytes, "")}, False)
    below = f"{record.key}/"
    return Contents(
        {info.key.removeprefix(below): FileFacts(info.size_bytes, "") async for info in each_object(store, below)}, False
    )


def compare(before: Contents, after: Contents) -> tuple[Difference, ...]:
    """Return what differs, sorted by path. Where a digest is not known, files of one size count as the same."""
    found = []
    for path in sorted({*before.files, *after.files}):
        old, new = before.files.get(path), after.files.get(path)
        if old is None and new is not None:
            found.append(Difference(path, ADDED, None, new.size_bytes))
        elif old is not None and new is None:
            found.append(Difference(path, REMOVED, old.size_bytes, None))
        elif old is not None and new is not None and _differ(old, new):
            found.append(Difference(path, CHANGED, old.size_bytes, new.size_bytes))
    return tuple(found)


def _differ(old: FileFacts, new: FileFacts) -> bool:
    return old.size_bytes != new.size_bytes or bool(old.digest and new.digest and old.digest != new.digest)
