"""Looking at what is to be saved: every file below a path, with what can't be saved refused before anything is copied."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ckpt_async.words.errors import InvalidArgument, SnapshotFailed

__all__ = ["Problem", "ScannedFile", "ScannedTree", "problems_error", "scan"]

_PROBLEMS_NAMED = 10
_ATTEMPTED = "save the files"

_HINT_KIND = "Move it out of the folder, or save() another path."
_HINT_LINK = "Remove the link, or make it point at a file or folder outside of the one that holds it."
_HINT_RIGHTS = "Give this user the right to read it (chmod u+r, for a folder u+rx), or move it out of the folder."
_HINT_NAME = "Rename it: a checkpoint's paths are stored as UTF-8."


@dataclass(frozen=True)
class ScannedFile:
    """A file that was seen and not yet read.

    Attributes
    ----------
    path : str
        Relative to the scanned folder, parts joined by ``/``.
    absolute : str
        Where it is read.
    size_bytes : int
        Its length at the scan.
    mode : int
        Permission bits without set-user-id, set-group-id and sticky: a load must not make a privileged program.
    mtime_ns : int
        Nanoseconds since 1970.
    inode : int
        Its number.
    may_grow : bool
        Whether something may be appended while it is taken: then what it held in the beginning is enough. For logs, which have a
        writer all the time.
    """

    path: str
    absolute: str
    size_bytes: int
    mode: int
    mtime_ns: int
    inode: int = 0
    may_grow: bool = False


@dataclass(frozen=True)
class ScannedTree:
    """What a scan found.

    Attributes
    ----------
    root : str
        The absolute path that was scanned.
    files : tuple of ScannedFile
        Sorted by path.
    directories : tuple of str
        Every folder below the root, relative, sorted; empty ones too.
    """

    root: str
    files: tuple[ScannedFile, ...]
    directories: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class Problem:
    """Something that can't be saved: its relative path, what is wrong with it, what to do."""

    path: str
    what: str
    hint: str


def unreadable(path: str, error: OSError) -> Problem:
    """Return the problem of a file or folder that could not be opened or looked at."""
    return Problem(path, f"can't be read ({error.strerror or error})", _HINT_RIGHTS)


def printable(path: str) -> str:
    """Return a path for an error's text; bytes that are no UTF-8 are shown escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def problems_error(root: str, problems: Sequence[Problem]) -> SnapshotFailed:
    """Return the error that names the problems: the first ten by path, then how many more there are."""
    ordered = sorted(problems, key=lambda problem: problem.path)
    named = [f"'{printable(problem.path)}' {problem.what}" for problem in ordered[:_PROBLEMS_NAMED]]
    if len(ordered) > _PROBLEMS_NAMED:
        named.append(f"and {len(ordered) - _PROBLEMS_NAMED} more")
    hints = dict.fromkeys(problem.hint for problem in ordered)
    return SnapshotFailed(_ATTEMPTED, on=printable(root), cause="; ".join(named), hint=" ".join(hints))


def scan(path: str | os.PathLike[str], *, leave_out: Callable[[str], bool] | None = None) -> ScannedTree:
    """Look at a folder with all that is below it, or at a single file. Reads no content and changes nothing.

    Symbolic links are followed, to files and to folders; a folder that is linked twice is listed twice. What disappears during
    the scan counts as not there.

    Parameters
    ----------
    path : str or os.PathLike
        A folder (it may be empty), or a file, which is then listed alone under its base name.
    leave_out : callable, optional
        Told the relative path of each thing in a folder; what it returns True for, with all below it, counts as not there.

    Returns
    -------
    ScannedTree
        Every file with its size and times.

    Raises
    ------
    InvalidArgument
        `path` is missing or can't hold a checkpoint.
    SnapshotFailed
        Something below it can't be saved: a socket, fifo or device, a link that dangles or leads back to a folder around it,
        something unreadable (as far as the rights tell; the copy finds the rest), a name that is no UTF-8. All of them are
        found in one pass.
    """
    given = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(given, str) or not given or "\0" in given:
        raise InvalidArgument(_ATTEMPTED, on=repr(path), cause="it is not the path of a folder or file")
    root = os.path.abspath(given)
    try:
        found = os.stat(root)
    except OSError as error:
        if error.errno == errno.ENOENT:
            cause = "the symbolic link points at nothing" if os.path.islink(root) else "there is nothing at this path"
        else:
            cause = error.strerror or str(error)
        raise InvalidArgument(
            _ATTEMPTED, on=printable(root), cause=cause, hint="Write the files first, then call save() with their folder."
        ) from error
    scanning = _Scanning(leave_out=leave_out)
    if stat.S_ISDIR(found.st_mode):
        scanning.walk(root, found)
    elif stat.S_ISREG(found.st_mode):
        scanning.add_file(os.path.basename(root), root, found)
    else:
        kind = _kind_of(found.st_mode)
        hint = "save() takes a folder or a regular file."
        raise InvalidArgument(_ATTEMPTED, on=printable(root), cause=f"it is {kind}", hint=hint)
    if scanning.problems:
        raise problems_error(root, scanning.problems)
    scanning.files.sort(key=lambda file: file.path)
    return ScannedTree(root, tuple(scanning.files), tuple(sorted(scanning.directories)))


def _kind_of(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISFIFO(mode):
        return "a fifo (named pipe)"
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        return "a device"
    return "neither a file nor a folder"


@dataclass(frozen=True)
class _Folder:
    """A folder still to be read, with the identities of itself and of the folders around it: one that comes back is a loop."""

    path: str
    absolute: str
    ancestry: frozenset[tuple[int, int]]


@dataclass
class _Scanning:
    """A scan under way: what it has found."""

    files: list[ScannedFile] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    leave_out: Callable[[str], bool] | None = None
    # Root may read everything that the file system lets it: there the question would cost time and tell nothing.
    ask_rights: bool = field(default_factory=lambda: os.geteuid() != 0 and os.access in os.supports_effective_ids)

    def refuse(self, path: str, what: str, hint: str) -> None:
        self.problems.append(Problem(path, what, hint))

    def walk(self, root: str, found: os.stat_result) -> None:
        # A stack of our own: the depth of a tree is the user's, that of Python's calls is not.
        waiting = [_Folder("", root, frozenset({(found.st_dev, found.st_ino)}))]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(folder.absolute) as entries:
                    for entry in entries:
                        self._look_at(entry, folder, waiting)
            except FileNotFoundError:
                if not folder.path:
                    raise InvalidArgument(_ATTEMPTED, on=printable(root), cause="the folder was removed meanwhile") from None
            except OSError as error:
                self.problems.append(unreadable(folder.path or ".", error))

    def _look_at(self, entry: os.DirEntry[str], folder: _Folder, waiting: list[_Folder]) -> None:
        path = f"{folder.path}/{entry.name}" if folder.path else entry.name
        if self.leave_out is not None and self.leave_out(path):
            return
        try:
            found = entry.stat()
        except OSError as error:
            if error.errno == errno.ELOOP:
                self.refuse(path, "is a link that leads back to itself", _HINT_LINK)
            elif error.errno != errno.ENOENT:
                self.problems.append(unreadable(path, error))
            elif entry.is_symlink():
                self.refuse(path, f"is a link to nothing{_link_target(entry.path)}", _HINT_LINK)
            # Else it was removed since the folder was read: the state is the one without it.
            return
        if stat.S_ISREG(found.st_mode):
            self.add_file(path, entry.path, found)
        elif not stat.S_ISDIR(found.st_mode):
            self.refuse(path, f"is {_kind_of(found.st_mode)}", _HINT_KIND)
        elif (found.st_dev, found.st_ino) in folder.ancestry:
            self.refuse(path, f"leads back, through a link, to a folder that holds it{_link_target(entry.path)}", _HINT_LINK)
        elif self._name_is_fine(path):
            self.directories.append(path)
            waiting.append(_Folder(path, entry.path, folder.ancestry | {(found.st_dev, found.st_ino)}))

    def add_file(self, path: str, absolute: str, found: os.stat_result) -> None:
        if not self._name_is_fine(path):
            return
        if self.ask_rights and not os.access(absolute, os.R_OK, effective_ids=True):
            self.problems.append(unreadable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES))))
            return
        self.files.append(ScannedFile(path, absolute, found.st_size, found.st_mode & 0o777, found.st_mtime_ns, found.st_ino))

    def _name_is_fine(self, path: str) -> bool:
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            self.refuse(path, "has a name that is not UTF-8", _HINT_NAME)
            return False
        return True


def _link_target(path: str) -> str:
    try:
        return f" ('{printable(os.readlink(path))}')"
    except OSError:
        return ""  # replaced meanwhile: the sentence stands without it
