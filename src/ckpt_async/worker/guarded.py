"""The links that a guard holds: leases, what to do when one is broken, and what an earlier guard has left.

Not thread-safe: all of it belongs to the guard's thread. Copies are made by other threads, which get a descriptor and a path.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ckpt_async.disk import durable
from ckpt_async.disk.lease import LEASING_FILE_SYSTEMS, Lease, LeaseRefused, break_time_s
from ckpt_async.disk.linking import FileState, Guarded, may_be_shared
from ckpt_async.disk.mapped import may_be_mapped, writable_mappings
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.states import EntryState, version_of
from ckpt_async.spool.torn import mark_torn, torn_error
from ckpt_async.words.errors import SpoolDamaged
from ckpt_async.worker.held import GuardedFile, GuardedFolder, Held
from ckpt_async.worker.rescue import CopyJob, log

__all__ = ["GuardedLinks"]

#: A file is linked only where a copy of it at this rate ends before the kernel lets its writer through. Slow disks reach it; the
#: rate of the last copy of at least `MEASURED_FROM_BYTES`, halved, takes its place.
RESCUE_BYTES_PER_S = 200e6
MEASURED_FROM_BYTES = 64 * 1024 * 1024

#: What must stay free on the disk, beyond the room for a copy of everything that is linked.
RESERVE_BYTES = 64 * 1024 * 1024


class GuardedLinks:
    """Everything that one guard holds.

    Parameters
    ----------
    max_leases : int
        How many files at most; each takes a descriptor.
    max_links : int
        How many links of those files at most: each has its lease deposited.
    start_copy : callable
        Has `copy_aside` run for a job in another thread, and `copied` called in this one afterwards.

    Attributes
    ----------
    held : Held
        What it holds at the moment.
    """

    def __init__(self, max_leases: int, start_copy: Callable[[CopyJob], None], *, max_links: int = sys.maxsize) -> None:
        self._max_leases = max_leases
        self._max_links = max_links
        self._start_copy = start_copy
        self._break_time_s = break_time_s()
        self._rescue_bytes_per_s = RESCUE_BYTES_PER_S
        self.held = Held()
        self._jobs: dict[CopyJob, tuple[GuardedFile, float]] = {}
        self._copies = 0
        self._token = secrets.token_hex(4)

    @property
    def count(self) -> int:
        """How many files are held."""
        return len(self.held.files)

    @property
    def busy(self) -> bool:
        """Whether copies are being made."""
        return bool(self._jobs)

    # Taking links

    def take(self, spool: Spool, entry: str, links: Mapping[str, FileState]) -> dict[str, Guarded | str]:
        """Guard links of an entry that is being staged; see `ckpt_async.disk.linking.LinkGuard.guard`."""
        self.held.sweep()
        try:
            folder = self.held.folder(spool, entry, os.path.join(spool.folder, EntryState.STAGING, entry))
        except OSError as error:
            return dict.fromkeys(links, f"its folder can't be opened ({error.strerror})")
        if refusal := self._refuse_folder(folder):
            return dict.fromkeys(links, refusal)
        folder.deposited = True
        answers: dict[str, Guarded | str] = {}
        room = self._max_links - self.held.links
        for name, before in links.items():
            if room <= 0:
                answers[name] = f"{self._max_links} links are guarded already; the training's limit of open files allows no more"
                continue
            answers[name] = self._take(folder, name, before)
            room -= isinstance(answers[name], Guarded)
        if self.held.kind(folder) == "overlay":
            # After the leases: from then on nobody can make a new mapping that writes.
            self._let_go_of_mapped(folder, answers)
        return answers

    def _refuse_folder(self, folder: GuardedFolder) -> str:
        kind = self.held.kind(folder)
        if kind not in LEASING_FILE_SYSTEMS:
            return f"leases have not been tried on this file system ({kind or 'unknown'})"
        return ""

    def _take(self, folder: GuardedFolder, name: str, before: FileState) -> Guarded | str:
        try:
            found = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
            if refusal := self._refuse_size(folder, found):
                return refusal
            file = self.held.files.get((found.st_dev, found.st_ino))
            if file is not None and (file.copying or file.broken):
                return "a program is about to write to it"
            if file is None:
                lease = Lease.take(name, folder=folder.descriptor)
                if isinstance(lease, LeaseRefused):
                    return lease.reason
                file = self.held.add(lease, self.held.contents.of(lease.found, before), self.held.kind(folder))
        except OSError as error:
            return f"it can't be opened ({error.strerror})"
        file.links.append((folder, name))
        state = file.lease.found
        return Guarded(state.st_ino, state.st_size, state.st_mode & 0o777, state.st_mtime_ns, file.content)

    def _refuse_size(self, folder: GuardedFolder, found: os.stat_result) -> str:
        if found.st_size > self._rescue_bytes_per_s * self._break_time_s:
            return f"a copy of it might take longer than a writer can be held back ({self._break_time_s:.0f} s)"
        if (found.st_dev, found.st_ino) in self.held.files:
            return ""
        if len(self.held.files) >= self._max_leases:
            return f"{len(self.held.files)} files are guarded already; the limit of open files allows no more"
        room = os.fstatvfs(folder.descriptor)
        if room.f_bavail * room.f_frsize < self.held.size_bytes + found.st_size + RESERVE_BYTES:
            return "the disk has no room for a copy of everything that is linked"
        return ""

    def _let_go_of_mapped(self, folder: GuardedFolder, answers: dict[str, Guarded | str]) -> None:
        mappings = writable_mappings()
        if not mappings:
            return
        files = self.held.files_in(folder)
        for name, answer in answers.items():
            if isinstance(answer, Guarded) and may_be_mapped(files[name].lease.found, mappings):
                self.held.let_go_of(files[name], folder, name)
                answers[name] = "a program has it mapped for writing, or another file of which that can't be told apart"

    def holds(self, spool: Spool, entry: str) -> bool:
        """Return whether nothing of what was guarded for an entry has been lost."""
        folder = self.held.folders.get((spool.folder, entry))
        return folder is not None and not folder.torn

    def copy_all(self, spool: Spool, entry: str) -> None:
        """Make all links of an entry private, as if somebody had written to them."""
        for file in list(self.held.files.values()):
            if not file.copying and any((folder.spool, folder.entry) == (spool, entry) for folder, _ in file.links):
                self._make_private(file)

    # What earlier guards have left

    def inherit(self, deposits: Sequence[tuple[Spool, str, Sequence[int]]]) -> None:
        """Answer for the leases of a guard that was killed. Copies are made of what writers are waiting for since.

        Parameters
        ----------
        deposits : sequence of (Spool, str, sequence of int)
            Entries, and the descriptors that the task had of their leases. They belong to this object from now on.
        """
        for _, _, descriptors in deposits:
            for descriptor in descriptors:
                self.held.inherit(descriptor)
        for spool, entry in {(spool, entry) for spool, entry, _ in deposits}:
            try:
                self._find_links(spool, entry)
            except FileNotFoundError:
                continue  # stored, or given up, since
        for file in list(self.held.files.values()):
            if not file.links:
                self.held.release(file)
        self.broken(None)

    def _find_links(self, spool: Spool, entry: str) -> None:
        staging = os.path.join(spool.folder, EntryState.STAGING, entry)
        try:
            folder = self.held.folder(spool, entry, staging)
        except FileNotFoundError:
            folder = self.held.folder(spool, entry, spool.entry_folder(entry))
        folder.deposited = True
        for name in os.listdir(folder.descriptor):
            try:
                found = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue  # what somebody was about to rename
            file = self.held.files.get((found.st_dev, found.st_ino))
            if file is not None:
                file.file_system = self.held.kind(folder)
                file.links.append((folder, name))

    def adopt(self, spool: Spool, *, owned: bool) -> None:
        """Guard every link that lies in a spool. What was written to meanwhile is marked; what can't be guarded is copied.

        Parameters
        ----------
        owned : bool
            This process has the spool's worker lock: copies that a killed guard has not finished are nobody's.
        """
        if owned and os.path.isdir(spool.private_folder):
            for name in os.listdir(spool.private_folder):
                if not name.startswith(self._token):
                    durable.remove_tree(os.path.join(spool.private_folder, name))
        for entry in spool.waiting():
            try:
                self._adopt_entry(spool, entry)
            except (FileNotFoundError, SpoolDamaged):
                continue  # stored or dropped in this moment; or damaged, which the uploader says
            except OSError as error:
                # The uploader compares what it sends with what was saved; this is the case for which it does.
                log(f"{entry} can't be guarded: {error}")

    def _adopt_entry(self, spool: Spool, entry: str) -> None:
        links = spool.read(entry).snapshot.links
        if not links:
            return
        folder = self.held.folder(spool, entry, spool.entry_folder(entry))
        folder.torn = torn_error(folder.path, entry) is not None
        for link in links if not folder.torn else ():
            found = os.stat(link.stored_in, dir_fd=folder.descriptor, follow_symlinks=False)
            if not link.is_intact(found):
                self._tear([(folder, link.stored_in)], f"{link.path!r} was written to while nobody guarded it")
                return
            if may_be_shared(found, link.inode):
                self._adopt_link(folder, link.stored_in, found)

    def _adopt_link(self, folder: GuardedFolder, name: str, found: os.stat_result) -> None:
        file = self.held.files.get((found.st_dev, found.st_ino))
        if file is not None and (folder, name) in file.links:
            return
        if file is None:
            lease = Lease.take(name, folder=folder.descriptor)
            if isinstance(lease, LeaseRefused):
                # A writer has come in already, or there are no leases for this process: copy now, and see whether it held still.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                lease = Lease(os.open(name, flags, dir_fd=folder.descriptor), found)
                file = self.held.add(lease, self.held.contents.new(), self.held.kind(folder))
                file.links.append((folder, name))
                self._copy(file)
                return
            file = self.held.add(lease, self.held.contents.new(), self.held.kind(folder))
        file.links.append((folder, name))

    # Letting go

    def broken(self, descriptors: Iterable[int] | None) -> None:
        """Make the files private whose leases were broken; with None, look at all of them."""
        for descriptor in list(self.held.by_descriptor) if descriptors is None else descriptors:
            file = self.held.by_descriptor.get(descriptor)
            if file is not None and not file.copying and file.broken:
                self._make_private(file)

    def _make_private(self, file: GuardedFile) -> None:
        file.links = [link for link in file.links if not link[0].torn and file.stands(*link)]
        if file.links:
            self._copy(file)
        else:
            self.held.release(file)

    def _copy(self, file: GuardedFile) -> None:
        self._copies += 1
        home = file.links[0][0].spool.private_folder
        target = os.path.join(home, f"{self._token}-{self._copies}")
        # A save that was promised to survive a crash of the machine must not wait for a sync after its link was replaced.
        sync = any(folder.spool.syncs_moves for folder, _ in file.links)
        job = CopyJob(file.lease.descriptor, file.lease.found, target, sync)
        file.copying = True
        self._jobs[job] = (file, time.monotonic())
        self._start_copy(job)

    def copied(self, job: CopyJob, failure: str) -> None:
        """Put a finished copy in the place of the links, then let the writer go on."""
        file, started_s = self._jobs.pop(job)
        file.copying = False
        took_s = time.monotonic() - started_s
        if job.found.st_size >= MEASURED_FROM_BYTES and took_s > 0 and not failure:
            self._rescue_bytes_per_s = job.found.st_size / took_s / 2
        links = [link for link in file.links if file.stands(*link)]
        lost = links if failure else []
        while links and not failure:
            replaced = self._replace(job, *links[0])
            if replaced is None:
                # The spool has got an owner meanwhile, who took the copy for what a dead guard had left.
                file.links = links
                self._copy(file)
                break
            lost += links[:1] if not replaced else []
            del links[0]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(job.target)
        # After that: on a full disk the half copy is what takes the room for the mark.
        self._tear(lost, failure or "its private copy could not be put in its place")
        if not file.copying:
            self.held.release(file)

    def _replace(self, job: CopyJob, folder: GuardedFolder, name: str) -> bool | None:
        """Return whether the copy stands in the place of the link, or need not; None where there is no copy any more."""
        # The token: what a killed guard left under this name must not stand in the way.
        temporary = f".{name}.{self._token}"
        try:
            # By a second link: several saves may have the same file.
            os.link(job.target, temporary, dst_dir_fd=folder.descriptor)
            os.rename(temporary, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
            if folder.spool.syncs_moves:
                # Before the writer goes on: after a crash the name must not stand for the file that it has written to.
                durable.sync_descriptor(folder.descriptor)
        except FileNotFoundError:
            return True if folder.removed else None if not os.path.exists(job.target) else False
        except OSError as error:
            log(f"{folder.entry}/{name}: {error}")
            return False
        return True

    def _tear(self, links: Iterable[tuple[GuardedFolder, str]], cause: str) -> None:
        for folder, name in links:
            folder.torn = True
            log(f"save {version_of(folder.entry)} is lost, {name}: {cause}")
            try:
                mark_torn(folder.path, cause)
            except OSError as error:
                # Not even room for a mark: without the file nobody takes the entry for whole.
                log(f"save {version_of(folder.entry)} can't be marked: {error}")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder.descriptor)

    def settle(self) -> None:
        """Begin to copy what others could still write to: this process ends, and entries are left."""
        self.held.sweep()
        for file in list(self.held.files.values()):
            if not file.copying and os.fstat(file.lease.descriptor).st_nlink > len(file.links):
                self._make_private(file)
