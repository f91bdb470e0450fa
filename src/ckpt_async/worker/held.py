"""What a guard holds: files under lease, and the folders of the entries whose links they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from ckpt_async.disk.lease import Lease, file_system_of
from ckpt_async.spool.kept import is_kept
from ckpt_async.spool.spool import Spool
from ckpt_async.worker.contents import ContentNames

__all__ = ["GuardedFile", "GuardedFolder", "Held"]


@dataclass(eq=False)
class GuardedFolder:
    """An entry's folder, by a descriptor that follows it from state to state.

    `deposited` tells whether the task has the leases of its links too.
    """

    spool: Spool
    entry: str
    descriptor: int
    torn: bool = False
    deposited: bool = False

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"

    @property
    def removed(self) -> bool:
        return os.fstat(self.descriptor).st_nlink == 0

    @property
    def stored(self) -> bool:
        """Whether the store has it: what is kept nevertheless is not worth a copy when somebody overwrites it."""
        return self.removed or is_kept(self.spool, self.entry)


@dataclass(eq=False)
class GuardedFile:
    """A file with at least one link in the spool. One lease serves all links.

    `inherited` are further leases on it, from the deposits of a dead guard.
    """

    lease: Lease
    content: str
    file_system: str
    links: list[tuple[GuardedFolder, str]] = field(default_factory=list)
    copying: bool = False
    inherited: list[Lease] = field(default_factory=list)

    def stands(self, folder: GuardedFolder, name: str) -> bool:
        """Whether the link is still there. A task that did not wait for our answer has removed its own."""
        try:
            found = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (self.lease.found.st_dev, self.lease.found.st_ino)

    @property
    def leases(self) -> list[Lease]:
        """All of them."""
        return [self.lease, *self.inherited]

    @property
    def broken(self) -> bool:
        """Whether somebody waits to write to it, or the kernel has let somebody through."""
        return any(lease.broken for lease in self.leases)


class Held:
    """The files and folders that one guard holds, with nothing decided about them."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], GuardedFile] = {}
        self.by_descriptor: dict[int, GuardedFile] = {}
        self.folders: dict[tuple[str, str], GuardedFolder] = {}
        self.contents = ContentNames()
        self.size_bytes = 0
        self._kinds: dict[str, str] = {}

    def kind(self, folder: GuardedFolder) -> str:
        """Return the kind of the file system that a folder is on."""
        spool = folder.spool.folder
        if spool not in self._kinds:
            self._kinds[spool] = file_system_of(folder.descriptor)
        return self._kinds[spool]

    def folder(self, spool: Spool, entry: str, path: str) -> GuardedFolder:
        """Return an entry's folder, opened by its path where it is not held yet; raises OSError."""
        key = (spool.folder, entry)
        if key not in self.folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self.folders[key] = GuardedFolder(spool, entry, os.open(path, flags))
        return self.folders[key]

    def add(self, lease: Lease, content: str, file_system: str) -> GuardedFile:
        """Hold one more file."""
        file = GuardedFile(lease, content, file_system)
        self.files[lease.found.st_dev, lease.found.st_ino] = file
        self.by_descriptor[lease.descriptor] = file
        self.size_bytes += lease.found.st_size
        return file

    def inherit(self, descriptor: int) -> None:
        """Hold a lease of a guard that was killed; the links are still to be found. The descriptor belongs to this object then."""
        found = os.fstat(descriptor)
        file = self.files.get((found.st_dev, found.st_ino))
        if file is None:
            self.add(Lease.inherit(descriptor), self.contents.new(), "")
        elif any(lease.is_of(descriptor) for lease in file.leases):
            os.close(descriptor)  # Several saves have deposited it.
        else:
            lease = Lease.inherit(descriptor)
            file.inherited.append(lease)
            self.by_descriptor[lease.descriptor] = file

    @property
    def links(self) -> int:
        """How many links there are, each of which has been deposited with the task."""
        return sum(len(file.links) for file in self.files.values())

    def files_in(self, folder: GuardedFolder) -> dict[str, GuardedFile]:
        """Return the files by the names of their links in a folder."""
        return {name: file for file in self.files.values() for where, name in file.links if where is folder}

    def let_go_of(self, file: GuardedFile, folder: GuardedFolder, name: str) -> None:
        """Forget one link, and the file with the last of its links."""
        file.links.remove((folder, name))
        if not file.links:
            self.release(file)

    def release(self, file: GuardedFile) -> None:
        """Forget a file, and let whoever waits for it go on."""
        self.contents.let_go(file.lease, file.content, file.file_system)
        self.size_bytes -= file.lease.found.st_size
        del self.files[file.lease.found.st_dev, file.lease.found.st_ino]
        for lease in file.leases:
            del self.by_descriptor[lease.descriptor]
            lease.release()

    def sweep(self) -> None:
        """Let go of what has left the spool."""
        removed = {folder for folder in self.folders.values() if folder.stored}
        if not removed:
            return
        for file in list(self.files.values()):
            file.links = [link for link in file.links if link[0] not in removed]
            if not file.links and not file.copying:
                self.release(file)
        for folder in removed:
            del self.folders[folder.spool.folder, folder.entry]
            os.close(folder.descriptor)

    def close(self) -> None:
        """Let go of everything."""
        for file in list(self.files.values()):
            self.release(file)
        for folder in self.folders.values():
            os.close(folder.descriptor)
        self.folders.clear()

    # What the task gets to keep

    def leases(self, spool: Spool, entry: str, names: Iterable[str]) -> list[int]:
        """Return the descriptors of the leases of links that are held."""
        folder = self.folders.get((spool.folder, entry))
        files = self.files_in(folder) if folder is not None else {}
        return [files[name].lease.descriptor for name in names]

    def put_back(self, spool: Spool, entry: str, names: Iterable[str]) -> None:
        """Let go of links after all."""
        folder = self.folders[spool.folder, entry]
        files = self.files_in(folder)
        for name in names:
            self.let_go_of(files[name], folder, name)

    def not_deposited(self) -> list[tuple[Spool, str, list[int]]]:
        """Return spool, entry and descriptors of the leases that the task has not, as if it had them from now on."""
        leases: dict[GuardedFolder, list[int]] = {}
        for file in self.files.values():
            for folder in {folder for folder, _ in file.links if not folder.deposited} if not file.copying else ():
                leases.setdefault(folder, []).append(file.lease.descriptor)
        for folder in leases:
            folder.deposited = True
        return [(folder.spool, folder.entry, descriptors) for folder, descriptors in leases.items()]
