"""Guarded hard links: taking a file into a snapshot without copying it.

The task makes the link; a guard in another process takes a lease on it, so that the bytes under the link can't be changed unless
the guard has made a private copy of them first. A link that is not guarded is worth nothing, and is removed again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Union

from ckpt_async.disk.clone import CloneMethod, clone_stable
from ckpt_async.disk.scan import ScannedFile, printable
from ckpt_async.words.errors import SnapshotFailed

__all__ = [
    "LINK_MIN_BYTES",
    "FileState",
    "Guarded",
    "LinkGuard",
    "LinkResult",
    "link_files",
    "link_is_intact",
    "make_private",
    "may_be_shared",
]

#: Smaller files are packed even where they could be linked. µs a file, linked and guarded against packed (ext4): 45 against
#: 20 at 10 KiB, 30 at 64 KiB, 85 at 256 KiB, 300 at 1 MiB. And a link costs a descriptor, and a copy when it is overwritten.
LINK_MIN_BYTES = 256 * 1024

#: What a copy brings; a guard that is still starting is waited for about as long as the copy would take, see `link_files`.
_COPY_BYTES_PER_S = 1e9
_MAX_PATIENCE_S = 1.0

#: How exactly copies of a spool keep a file's time: archives and some file systems leave out the end of it.
_COPIED_TIME_UNITS_NS = (1, 100, 1_000, 1_000_000_000)


@dataclass(frozen=True)
class FileState:
    """What the file system says of a file. Writing to it, linking it, and setting its rights or times move its ctime."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        """Return the state in the answer of the system."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class Guarded:
    """A link that a guard holds, with the state of its file, which can't change any more.

    Attributes
    ----------
    inode : int
        Its number, by which a link that was made private later is told from one that was not.
    content : str
        A name for the file's bytes: links with one name hold the same.
    """

    inode: int
    size_bytes: int
    mode: int
    mtime_ns: int
    content: str


class LinkGuard(Protocol):
    """Takes links into its care. Its methods never raise, and never take long: what does not answer is no guard."""

    def guard(self, folder: str, links: Mapping[str, FileState], *, patience_s: float) -> Mapping[str, Union[Guarded, str]]:
        """Guard links in a folder of the spool.

        Parameters
        ----------
        folder : str
            An entry's, still in ``staging``.
        links : mapping of str to FileState
            By the names of links in it: the states of their files before they were linked, which changes a file's ctime. A name
            that is refused without an answer from the guard itself must not be used again.
        patience_s : float
            How long to wait for a guard that is still starting.

        Returns
        -------
        mapping of str to Guarded or str
            For each name: guarded, or why not.
        """

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the guard holds what lay in its spool when it started; returns whether it does, and takes more."""

    def being_written(self, paths: Sequence[str]) -> list[str] | None:
        """Return which of these files some program has open for writing, or mapped so; None where that can't be told.

        A file that a program is about to open counts as one that it has open.
        """

    def holds(self, folder: str) -> bool:
        """Return whether all that was guarded in a folder is guarded at this moment. Only the folder's name counts: it moves on."""


@dataclass
class LinkResult:
    """What became of files that were to be linked.

    Attributes
    ----------
    linked : dict of str to (str, Guarded)
        By relative path: the name of the link, and the state of the file.
    refused : dict of str to str
        By relative path: why not.
    names_used : int
        So many of ``f000001``, ``f000002``, ... were tried, and none of them is free any more.
    """

    linked: dict[str, tuple[str, Guarded]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    names_used: int = 0


def link_files(files: Sequence[ScannedFile], folder: str, guard: LinkGuard) -> LinkResult:
    """Link files into a folder and have them guarded. What is refused leaves nothing behind; the caller copies it.

    Parameters
    ----------
    files : sequence of ScannedFile
        Symbolic links are followed: the file itself is linked.
    folder : str
        An entry's, in ``staging``; empty.
    guard : LinkGuard
        Of the spool that the folder belongs to.
    """
    result = LinkResult()
    named: dict[str, ScannedFile] = {}
    states: dict[str, FileState] = {}
    target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for file in files:
            result.names_used += 1
            name = f"f{result.names_used:06d}"
            try:
                states[name] = FileState.of(os.stat(file.absolute))
                # With a folder's descriptor Python asks for the target of a symbolic link; without one it links the link itself.
                os.link(file.absolute, name, dst_dir_fd=target, follow_symlinks=True)
            except OSError as error:
                # Another file system, another user's file (protected_hardlinks), too many links: each of them can be copied.
                result.refused[file.path] = f"it can't be linked ({error.strerror})"
            else:
                named[name] = file
        if not named:
            return result
        size_bytes = sum(file.size_bytes for file in named.values())
        patience_s = min(_MAX_PATIENCE_S, size_bytes / _COPY_BYTES_PER_S)
        answers = guard.guard(folder, {name: states[name] for name in named}, patience_s=patience_s)
        for name, file in named.items():
            answer = answers.get(name, "the guard has not answered")
            if isinstance(answer, Guarded):
                result.linked[file.path] = (name, answer)
            else:
                result.refused[file.path] = answer
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=target)
    finally:
        os.close(target)
    return result


def link_is_intact(found: os.stat_result, *, inode: int, size_bytes: int, mtime_ns: int) -> bool:
    """Return whether a file that was linked still is what it was, by what the file system says of it.

    Nobody needs this while a guard holds the lease; it is for the time after a guard was killed. The inode's own time of change is
    no help: the link itself changes it, and so does whoever removes or renames the original.

    Parameters
    ----------
    found : os.stat_result
        Of the file under the link's name. Another inode than `inode` is a copy with the same times: a guard's private one, or the
        whole spool was copied to another disk.
    inode, size_bytes, mtime_ns : int
        As recorded when the lease was granted.
    """
    if found.st_size != size_bytes:
        return False
    if found.st_ino == inode:
        return found.st_mtime_ns == mtime_ns
    return any(found.st_mtime_ns == mtime_ns // unit_ns * unit_ns for unit_ns in _COPIED_TIME_UNITS_NS)


def may_be_shared(found: os.stat_result, inode: int) -> bool:
    """Return whether what stands under a link's name may still be the original, or another name of its copy on another disk."""
    return found.st_ino == inode or found.st_nlink > 1


def make_private(folder: str, name: str, *, inode: int, size_bytes: int, mtime_ns: int) -> None:
    """Put a private copy in the place of a link that nobody guards.

    Raises
    ------
    SnapshotFailed
        The file is not what it was any more, or it can't be copied. The link is as it was.
    """
    path = os.path.join(folder, name)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.private")  # Another thread, or process, may be at it.
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return  # stored, and removed, in this moment
    if not may_be_shared(found, inode):
        return  # a guard has done it
    if not link_is_intact(found, inode=inode, size_bytes=size_bytes, mtime_ns=mtime_ns):
        raise SnapshotFailed("keep a saved file", on=printable(path), cause="it was changed while nobody guarded it")
    clone_stable(path, temporary, CloneMethod.REFLINK)
    os.utime(temporary, ns=(mtime_ns, mtime_ns))
    if not link_is_intact(os.stat(path), inode=inode, size_bytes=size_bytes, mtime_ns=mtime_ns):
        os.unlink(temporary)
        raise SnapshotFailed("keep a saved file", on=printable(path), cause="it was changed while nobody guarded it")
    os.rename(temporary, path)
