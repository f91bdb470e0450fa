"""Datastores of kinds that the engine does not know: reached through the storage class that some extension has registered with
Metaflow.

Runs in the process that uploads, the task's own or the sidecar.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from ckpt_async import BlobsAccess

__all__ = ["SCHEME", "StorageBlobs", "is_registered", "kind_and_root", "other_datastore_access", "url_of"]

SCHEME = "blobs"


def url_of(kind: str, root: str) -> str:
    """Return the address of such a datastore, which `kind_and_root` takes apart."""
    return f"{SCHEME}://{kind}/{root.rstrip('/')}"


def kind_and_root(url: str) -> tuple[str, str]:
    """Return Metaflow's name of the kind, and the root."""
    kind, _, root = url.removeprefix(f"{SCHEME}://").partition("/")
    return kind, root


def is_registered(kind: str) -> bool:
    """Whether Metaflow knows a storage class of this kind."""
    from metaflow.plugins import DATASTORES

    return any(kind == storage.TYPE for storage in DATASTORES)


def other_datastore_access(url: str) -> BlobsAccess:
    """Return the access to such a datastore.

    Raises
    ------
    ckpt_async.UnsupportedStore
        No extension in this process knows the kind.
    """
    # Where a storage class keeps temporary files, unless something is configured: a sidecar's working folder is not for that.
    if "metaflow" not in sys.modules:
        os.environ.setdefault("METAFLOW_ARTIFACT_LOCALROOT", tempfile.gettempdir())
    from metaflow.plugins import DATASTORES

    from ckpt_async import BlobsAccess, UnsupportedStore

    kind, root = kind_and_root(url)
    for storage in DATASTORES:
        if kind == storage.TYPE:
            return BlobsAccess(StorageBlobs(storage(root)), kind)
    raise UnsupportedStore(
        "reach the datastore",
        on=url,
        cause=f"no installed extension of Metaflow knows a datastore {kind!r}",
        hint="Install the one that does.",
    )


class StorageBlobs:
    """What the engine asks of a store, by a storage class of Metaflow.

    Parameters
    ----------
    storage : metaflow.datastore.datastore_storage.DataStoreStorage
        With the root.
    """

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def save(self, key: str, content: BinaryIO) -> None:
        """Store what a file holds."""
        self._storage.save_bytes(iter([(key, content)]), overwrite=True, len_hint=1)

    @contextlib.contextmanager
    def load(self, key: str) -> Iterator[str | None]:
        """Give the path of a local file with the content."""
        with self._storage.load_bytes([key]) as loaded:
            yield next((path for _, path, _ in loaded), None)

    def size(self, key: str) -> int | None:
        """Return the size."""
        # Some say it of a folder too, or raise where there is nothing.
        if not self._storage.is_file([key])[0]:
            return None
        size_bytes: int | None = self._storage.size_file(key)
        return size_bytes

    def entries(self, folder: str) -> Sequence[tuple[str, bool]]:
        """Return what is directly in a folder."""
        return [(path.strip("/"), is_file) for path, is_file in self._storage.list_content([folder])]

    def delete(self, keys: Sequence[str]) -> None:
        """Storage classes of Metaflow have no means for it."""
        raise NotImplementedError
