"""How a store is reached of which nobody here knows anything but that it keeps files under names. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

__all__ = ["Blobs", "BlobsAccess"]


class Blobs(Protocol):
    """What is asked of such a store. Blocks; each call may come from another thread, several at once.

    It raises what it likes: anything but a StoreError counts as a failure that passes.
    """

    def save(self, key: str, content: BinaryIO) -> None:
        """Store what a file holds, whole or not at all; what is there already is replaced."""

    def load(self, key: str) -> AbstractContextManager[str | None]:
        """Return the path of a local file with the content, which is there inside the context; None where there is nothing."""

    def size(self, key: str) -> int | None:
        """Return the size in bytes; None where there is nothing."""

    def entries(self, folder: str) -> Sequence[tuple[str, bool]]:
        """Return what is directly in a folder (``""``: the root): the key of each entry, and whether it holds content, or is a
        folder.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Delete; what is missing counts as deleted. One that can't delete raises NotImplementedError."""


@dataclass(frozen=True)
class BlobsAccess:
    """How such a store is reached.

    Attributes
    ----------
    blobs : Blobs
        The store's own means.
    name : str
        What it is called, for users.
    """

    blobs: Blobs = field(repr=False)
    name: str
