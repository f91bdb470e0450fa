"""What the integrations save with: `current.checkpoint` of Metaflow, or the engine's `Checkpointer` made into the same."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ckpt_async.words.errors import CheckpointError, InvalidArgument, SnapshotFailed
from ckpt_async.words.names import DEFAULT_NAME, SAVING_PREFIX

if TYPE_CHECKING:
    from ckpt_async.checkpointer import Checkpointer
    from ckpt_async.reference import CheckpointReference
    from ckpt_async.sources import Source

__all__ = ["EngineSaver", "Saver", "fresh_folder", "loaded_path"]


class Saver(Protocol):
    """Saves checkpoints, and knows which one was loaded before the training began: what `current.checkpoint` is."""

    @property
    def directory(self) -> str:
        """A folder on the filesystem of the saves; holds the files of what was loaded."""

    @property
    def is_loaded(self) -> bool:
        """Whether a checkpoint was loaded."""

    @property
    def info(self) -> Mapping[str, Any] | None:
        """The record of what was loaded, with its ``"metadata"``; None where nothing was."""

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = DEFAULT_NAME,
        metadata: dict[str, Any] | None = None,
        latest: bool = True,
        group: bool = False,
    ) -> CheckpointReference:
        """Save a folder or a file; see `ckpt_async.Checkpointer.save`."""

    def load(self, reference: object, path: str) -> object:
        """Load a checkpoint into a missing or empty folder."""

    def add_source(self, source: Source) -> None:
        """See `ckpt_async.Checkpointer.add_source`."""


class EngineSaver:
    """A saver for those who use the engine without Metaflow. What the policy allows is loaded when it is made.

    Parameters
    ----------
    checkpointer : Checkpointer
        Which the caller closes.
    directory : str or path-like
        A folder that is missing or empty; best on the filesystem of the spool. The caller removes it.
    load_policy : str
        As `Checkpointer.resume` takes it: ``"fresh"``, ``"eager"`` or ``"none"``.
    strict : bool
        Whether a damaged checkpoint is raised, in place of loading an older one.
    """

    def __init__(
        self, checkpointer: Checkpointer, directory: str | os.PathLike[str], *, load_policy: str = "fresh", strict: bool = False
    ) -> None:
        self._checkpointer = checkpointer
        self._directory = os.path.abspath(os.fspath(directory))
        try:
            os.makedirs(self._directory, exist_ok=True)
        except OSError as error:
            cause = error.strerror or str(error)
            raise InvalidArgument("make the checkpoint directory", on=self._directory, cause=cause) from error
        record = None if load_policy == "none" else checkpointer.resume(load_policy, self._directory, strict=strict)
        self._info = None if record is None else record.to_dict()

    @property
    def directory(self) -> str:
        return self._directory

    @property
    def is_loaded(self) -> bool:
        return self._info is not None

    @property
    def info(self) -> Mapping[str, Any] | None:
        return self._info

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = DEFAULT_NAME,
        metadata: dict[str, Any] | None = None,
        latest: bool = True,
        group: bool = False,
    ) -> CheckpointReference:
        return self._checkpointer.save(path, name=name, metadata=metadata, latest=latest, group=group)

    def load(self, reference: object, path: str) -> object:
        return self._checkpointer.load(reference, path)

    def add_source(self, source: Source) -> None:
        self._checkpointer.add_source(source)


@contextmanager
def fresh_folder(saver: Saver) -> Iterator[str]:
    """Yield an empty folder for the files of one save, and remove it afterwards.

    It stands in the checkpoint directory, so that a save can link the files; and since none is ever written to again, no save
    has to be copied because of the next. A save of the directory itself, also one that watching takes, leaves it out.

    Raises
    ------
    SnapshotFailed
        It can't be made, or what is done with it meets an error of the operating system.
    """
    try:
        folder = tempfile.mkdtemp(prefix=SAVING_PREFIX, dir=saver.directory)
    except OSError as error:
        hint = "The checkpoint directory must stay where it is while the training runs."
        raise _not_written("make a folder for the files of a save", saver.directory, error, hint) from error
    try:
        yield folder
    except CheckpointError:
        raise  # Some are an OSError too.
    except OSError as error:
        raise _not_written("write the files of a save", error.filename or folder, error) from error
    finally:
        # What can't be removed now goes with the checkpoint directory.
        shutil.rmtree(folder, ignore_errors=True)


def _not_written(attempted: str, on: str, error: OSError, hint: str = "") -> SnapshotFailed:
    return SnapshotFailed(attempted, on=on, cause=error.strerror or str(error), hint=hint)


def loaded_path(saver: Saver, file: str, *, saved_by: str) -> str | None:
    """Return the path of a file of the checkpoint that was loaded; None where none was.

    Parameters
    ----------
    saver : Saver
        That knows.
    file : str
        Relative to the checkpoint.
    saved_by : str
        What saves checkpoints with such a file, for the error.

    Raises
    ------
    InvalidArgument
        A checkpoint was loaded, and has no such file: to begin anew instead would lose what it holds.
    """
    if not saver.is_loaded:
        return None
    path = os.path.join(saver.directory, file)
    if os.path.exists(path):
        return path
    key = "" if saver.info is None else saver.info["key"]
    raise InvalidArgument(
        "go on from a checkpoint",
        on=key,
        cause=f"there is no {file} in {saver.directory}",
        hint=f"{saved_by} saves one with each checkpoint. This one was saved by something else, or the folder was changed since it "
        "was loaded.",
    )
