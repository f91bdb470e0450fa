"""The notes of uploads that were given up: what the store still keeps of them is ended by the worker.

They lie in ``<spool>/abandoned/``, one part log for each save. A task that drops a save never waits for the store.
"""

from __future__ import annotations

import contextlib
import os

from ckpt_async.disk import durable
from ckpt_async.spool.part_log import PART_LOG_FILE

__all__ = ["abandoned_logs", "keep_notes"]

FOLDER = "abandoned"


def keep_notes(spool_folder: str, entry_folder: str) -> None:
    """Keep the part log of an entry that is about to be deleted without having been stored; nothing where there is none."""
    log = os.path.join(entry_folder, PART_LOG_FILE)
    if os.path.exists(log):
        kept = os.path.join(spool_folder, FOLDER)
        durable.make_private_folder(kept)
        with contextlib.suppress(FileNotFoundError):
            durable.rename(log, os.path.join(kept, f"{os.path.basename(entry_folder)}.log"), sync=False)


def abandoned_logs(spool_folder: str) -> list[str]:
    """Return the paths of the logs that were kept."""
    folder = os.path.join(spool_folder, FOLDER)
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".log")]
    except FileNotFoundError:
        return []
