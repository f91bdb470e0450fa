"""What the exit status of a command says. `docs/cli.md` has the table."""

from __future__ import annotations

from ckpt_async.words.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointNotFound,
    InvalidArgument,
    LoadTargetNotEmpty,
    StoreError,
    UnsupportedStore,
)

__all__ = ["BROKEN_PIPE", "FOUND", "INTERRUPTED", "LOCAL", "NOT_DONE", "NOT_FOUND", "OK", "STORE", "USAGE", "exit_code_of"]

#: All is well, and what was asked for is done.
OK = 0
#: Something was found: damage, a difference, something for the doctor. Nothing is wrong with the command itself.
FOUND = 1
#: The arguments can't be used. Nothing was done.
USAGE = 2
#: The store can't be reached, or refuses.
STORE = 3
#: There is no such checkpoint.
NOT_FOUND = 4
#: Something on this machine: files that can't be read or written, a spool that another process owns.
LOCAL = 5
#: It was not done: the answer to the question was no, or there was nobody to answer it.
NOT_DONE = 6
#: Ctrl-C. What was begun is as if it had not been, or can be taken up again.
INTERRUPTED = 130
#: Whoever reads the output has closed it, as ``head`` does.
BROKEN_PIPE = 141


def exit_code_of(error: CheckpointError) -> int:
    """Return the exit status for an error that a command ended with."""
    if isinstance(error, (InvalidArgument, LoadTargetNotEmpty, UnsupportedStore)):
        return USAGE
    if isinstance(error, CheckpointNotFound):
        return NOT_FOUND
    if isinstance(error, CheckpointDamaged):
        return FOUND
    return STORE if isinstance(error, StoreError) else LOCAL
