"""The part log: an append-only file beside an entry, with what of it is in the store already.

A line is written after the store has acknowledged a part, so a line that is missing costs a repetition and nothing else; a
last line that was cut off by a crash is passed by. The log is never synced: losing it costs time, not data. For the same reason
a full disk does not end an upload, which is what will free the disk: the log then stops, and holds a beginning of the notes.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any

__all__ = ["PART_LOG_FILE", "PartLog", "read_notes"]

PART_LOG_FILE = "parts.log"

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def read_notes(path: str) -> list[dict[str, Any]]:
    """Return the notes of a part log in the order of writing; none where there is no file."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    notes = []
    for line in lines[:-1]:
        try:
            note = json.loads(line)
        except ValueError:
            break  # Cut off by a crash, and continued by a later worker: what follows can't be trusted to be in order.
        if isinstance(note, dict):
            notes.append(note)
    return notes


class PartLog:
    """Notes of one entry's upload. Used by one worker at a time.

    Parameters
    ----------
    folder : str
        The entry's.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, PART_LOG_FILE)
        self._descriptor = -1
        self._stopped = False

    def read(self) -> list[dict[str, Any]]:
        """Return the notes in the order of writing."""
        return read_notes(self._path)

    def append(self, note: dict[str, Any]) -> None:
        """Write one note; it survives the death of this process, unless the disk is full: then this one and all later ones are
        left out.
        """
        if self._stopped:
            return
        line = json.dumps(note).encode() + b"\n"
        try:
            self._open()
            # A note behind one that is missing, or cut off, could name an upload that nobody has heard of.
            self._stopped = os.write(self._descriptor, line) < len(line)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._stopped = True

    def _open(self) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            size_bytes = os.fstat(self._descriptor).st_size
            if size_bytes and os.pread(self._descriptor, 1, size_bytes - 1) != b"\n":
                # The last line was cut off: without this it would swallow the next one.
                os.ftruncate(self._descriptor, self._end_of_last_line(size_bytes))

    def _end_of_last_line(self, size_bytes: int) -> int:
        content = os.pread(self._descriptor, size_bytes, 0)
        return content.rfind(b"\n") + 1

    def restart(self) -> None:
        """Forget all notes."""
        self.close()
        self._stopped = False
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
