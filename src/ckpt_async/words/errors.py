"""Every error of the project, in one hierarchy.

An error says what was attempted, on what, why it failed and what to do about it. It can cross a process boundary as plain
JSON (`to_wire`, `from_wire`), so a failure in the sidecar reaches the training process with its type and its words intact.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointNotFound",
    "CheckpointNotStored",
    "FilesChanged",
    "FlushTimeout",
    "InvalidArgument",
    "LoadTargetNotEmpty",
    "SaveRefused",
    "SnapshotFailed",
    "SpoolBusy",
    "SpoolDamaged",
    "StoreAccessDenied",
    "StoreBusy",
    "StoreError",
    "StoreMissing",
    "StoreObjectMissing",
    "StorePreconditionFailed",
    "StoreRejected",
    "StoreUnavailable",
    "UnsupportedStore",
    "WorkerDied",
    "from_wire",
]


class CheckpointError(Exception):
    """The base of all errors of ckpt-async.

    Parameters
    ----------
    attempted : str
        What was being done, for example ``"save checkpoint 'best'"``.
    on : str, optional
        The thing that it was done to: a path, a URL, a key.
    cause : str, optional
        Why it failed.
    hint : str, optional
        What the reader can do next.
    """

    #: True where the same call may succeed later without anybody changing anything.
    transient: ClassVar[bool] = False

    def __init__(self, attempted: str, *, on: str = "", cause: str = "", hint: str = "") -> None:
        self.attempted = attempted
        self.on = on
        self.cause = cause
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"could not {self.attempted}"
        if self.on:
            text += f" ({self.on})"
        if self.cause:
            text += f": {self.cause}"
        if self.hint:
            text += f". {self.hint}" if not text.endswith(".") else f" {self.hint}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self.attempted, self.on, self.cause, self.hint)

    def to_wire(self) -> dict[str, str]:
        """Return the error as a JSON object; `from_wire` makes it an error again."""
        return {
            "error": type(self).__name__,
            "attempted": self.attempted,
            "on": self.on,
            "cause": self.cause,
            "hint": self.hint,
        }


class InvalidArgument(CheckpointError, ValueError):
    """A value from the caller can't be used; nothing was done."""


class SnapshotFailed(CheckpointError):
    """The files could not be copied into the spool; nothing of the save remains."""


class FilesChanged(SnapshotFailed):
    """Files were written to between the look at them and the snapshot that was to hold what was seen; nothing of it remains."""


class SaveRefused(CheckpointError):
    """Admission refused a save: the spool is full, or the save could never fit."""


class SpoolBusy(CheckpointError):
    """Another live worker owns the spool."""


class SpoolDamaged(CheckpointError):
    """An entry of the spool can't be read back."""


class WorkerDied(CheckpointError):
    """The worker ended and could not be started again; what was saved is still in the spool."""


class FlushTimeout(CheckpointError, TimeoutError):
    """The time for a flush ran out; what was saved is still in the spool."""


class CheckpointNotStored(CheckpointError):
    """A saved checkpoint did not reach the store; the cause says whether it was dropped or failed."""


class CheckpointNotFound(CheckpointError, LookupError):
    """There is no checkpoint under that reference."""


class CheckpointDamaged(CheckpointError):
    """A stored checkpoint is not what was saved; the cause names the file, what was expected and what was found."""


class LoadTargetNotEmpty(CheckpointError, FileExistsError):
    """A checkpoint was to be loaded into a folder that holds files already."""


class StoreError(CheckpointError):
    """The base of what a store raises; foreign exceptions are translated into one of these at the store's boundary."""


class StoreUnavailable(StoreError):
    """No answer, a timeout, a reset, throttling, an internal error: the same call may succeed later."""

    transient = True


class StoreBusy(StoreUnavailable):
    """The store asks for fewer requests at a time."""


class StoreObjectMissing(StoreError):
    """There is no object under the key."""


class StoreMissing(StoreError):
    """The bucket or the root folder does not exist. Permanent."""


class StoreAccessDenied(StoreError):
    """Credentials are missing, wrong or expired, or lack a permission. Permanent."""


class StorePreconditionFailed(StoreError):
    """A conditional write met another state than the expected one; nothing was written."""


class StoreRejected(StoreError):
    """The store refused the request for another reason that a repetition won't change. Permanent."""


class UnsupportedStore(StoreError):
    """No store is known for the URL, or a package that it needs is not installed."""


def _all_types(base: type[CheckpointError]) -> dict[str, type[CheckpointError]]:
    found = {base.__name__: base}
    for child in base.__subclasses__():
        found.update(_all_types(child))
    return found


def _rebuild(name: str, attempted: str, on: str, cause: str, hint: str) -> CheckpointError:
    kind = _all_types(CheckpointError).get(name, CheckpointError)
    return kind(attempted, on=on, cause=cause, hint=hint)


def from_wire(data: dict[str, str]) -> CheckpointError:
    """Make an error again from what `CheckpointError.to_wire` returned; an unknown type becomes the base class."""
    return _rebuild(
        data.get("error", ""), data.get("attempted", ""), data.get("on", ""), data.get("cause", ""), data.get("hint", "")
    )
