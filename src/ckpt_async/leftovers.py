"""What becomes of a flush where something that earlier attempts, or child processes, left could not be stored."""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_async.spool.neighbours import attempt_of, is_of_child
from ckpt_async.words.errors import CheckpointError, StoreError

__all__ = ["refusal", "refused_attempt", "whose"]


def refused_attempt(left: Mapping[str, CheckpointError], *, superseded: bool) -> str | None:
    """Choose what a flush raises: the store's refusal of what the newest attempt left; None where it only tells.

    Parameters
    ----------
    left : mapping of str to CheckpointError
        Why something is left, by the names of the spools. Damage is only told: no new try could mend it.
    superseded : bool
        Whether something newer of the task is in the store, so that a retry loses no progress.
    """
    refused = [name for name, error in left.items() if isinstance(error, StoreError)]
    return max(refused) if refused and not superseded else None


def refusal(error: CheckpointError, spool_name: str, folder: str) -> CheckpointError:
    """Return the error to raise for one that the store gave when it refused what lies in `folder`."""
    what = f"what {whose(spool_name)} left is not in the store, and nothing newer of the task is"
    return type(error)(
        error.attempted,
        on=error.on,
        cause=f"{error.cause} ({what})",
        hint=f"{error.hint} It is kept in {folder}; the next flush(), or the next attempt, tries again.".strip(),
    )


def whose(spool_name: str) -> str:
    """Return words for the one whose spool has this name."""
    child = "a child process of " if is_of_child(spool_name) else ""
    return f"{child}attempt {attempt_of(spool_name)}"
