"""What the task has loaded, noted for the worker: its first save is probably much like it, and need not be sent whole.

A hint and no more: without it nothing is lost but time, so it is not synced, and what can't be read counts as none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from ckpt_async.disk import durable
from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import CheckpointDamaged
from ckpt_async.words.records import CheckpointRecord

__all__ = ["note_loaded", "read_loaded"]

LOADED_FILE = "loaded"


def note_loaded(spool: Spool, record: CheckpointRecord, say: Callable[[str], None]) -> None:
    """Note which checkpoint the task has loaded, in place of the one that was noted before. That it can't be noted is said."""
    try:
        durable.write_file(os.path.join(spool.folder, LOADED_FILE), record.to_json(), sync=False)
    except OSError as error:
        cause = error.strerror or str(error)
        say(f"What was loaded could not be noted ({cause}): the first save may send again what has not changed.")


def read_loaded(spool: Spool) -> CheckpointRecord | None:
    """Return the checkpoint that was noted; None where there is none."""
    path = os.path.join(spool.folder, LOADED_FILE)
    with contextlib.suppress(OSError, CheckpointDamaged), open(path, "rb") as file:
        return CheckpointRecord.from_json(file.read(), source=path)
    return None
