"""What of an upload is in the store already: kept in memory, and in a log where a later worker finds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ckpt_async.stores.contract import Part
from ckpt_async.transfer.plan import UploadPlan
from ckpt_async.transfer.reading import FilePiece

__all__ = ["NoteLog", "UploadNotes", "noted_part_bytes", "unfinished_uploads"]


class NoteLog(Protocol):
    """Where notes are kept. Each call returns after the note has left this process."""

    def read(self) -> list[dict[str, Any]]:
        """Return all notes, oldest first."""

    def append(self, note: dict[str, Any]) -> None:
        """Keep one more."""

    def restart(self) -> None:
        """Forget all."""


def noted_part_bytes(notes: Sequence[dict[str, Any]], store_url: str) -> int | None:
    """Return the size of parts of the upload that was begun, where these notes are of one to that store."""
    plan = notes[0].get("plan") if notes else None
    return plan[1] if plan and plan[0] == store_url else None


def unfinished_uploads(notes: Iterable[dict[str, Any]], store_url: str) -> list[tuple[str, str]]:
    """Return the (key, upload id) pairs of the multipart uploads to that store that were begun, and neither joined nor ended."""
    notes = list(notes)
    if noted_part_bytes(notes, store_url) is None:
        return []
    open_uploads: dict[int, tuple[str, str]] = {}
    for note in notes[1:]:
        if "upload" in note and "key" in note:
            open_uploads[note["object"]] = (note["key"], note["upload"])
        elif note.get("complete") or note.get("forget"):
            open_uploads.pop(note["object"], None)
    return list(open_uploads.values())


class UploadNotes:
    """The state of one upload, by the index of the object in the plan.

    Parameters
    ----------
    log : NoteLog
        Of this upload.
    plan : UploadPlan
        Notes of another plan (another part size, another store) are not used.
    store_url : str
        Of the store that the notes are about.
    """

    def __init__(self, log: NoteLog, plan: UploadPlan, store_url: str) -> None:
        self._log = log
        self._head = {"plan": [store_url, plan.part_bytes, len(plan.objects), plan.total_bytes]}
        self.upload_ids: dict[int, str] = {}
        self.parts: dict[int, dict[int, Part]] = {}
        self.complete: set[int] = set()
        #: Of the objects that were joined from parts.
        self.etags: dict[int, str] = {}
        #: By object and part, where they were computed.
        self.md5s: dict[tuple[int, int], str] = {}
        #: The objects in which a part was copied inside the store.
        self.copied: set[int] = set()
        #: Of each object, by file and offset: an archive has one for every file in it, so a list would be searched too long.
        self.pieces: dict[int, dict[tuple[int, int], FilePiece]] = {}
        #: Multipart uploads that a changed plan left behind: (object index, upload id). They are ended before anything is sent.
        self.abandoned: list[tuple[int, str]] = []
        #: Of all noted parts and objects.
        self.noted_bytes = 0
        self._replay(log.read(), plan)

    def _replay(self, notes: Iterable[dict[str, Any]], plan: UploadPlan) -> None:
        notes, objects = list(notes), len(plan.objects)
        if not notes or notes[0] != self._head:
            if notes:
                self.abandoned = [
                    (note["object"], note["upload"]) for note in notes if "upload" in note and note["object"] < objects
                ]
                self._log.restart()
            self._log.append(self._head)
            return
        for note in notes[1:]:
            if note.get("forget"):
                self._forget(note["object"])
            else:
                self._take(note)
        # The worker died while it noted an object that had been copied as a whole: there is no upload that could go on.
        for index in list(self.parts):
            if len(plan.objects[index].parts) > 1 and index not in self.complete and index not in self.upload_ids:
                self.forget(index)

    def _take(self, note: dict[str, Any]) -> None:
        index = note["object"]
        if "upload" in note:
            self.upload_ids[index] = note["upload"]
        if "part" in note:
            number, etag, size_bytes, crc32 = note["part"]
            if number not in self.parts.setdefault(index, {}):
                self.noted_bytes += size_bytes
            self.parts[index][number] = Part(number, etag, size_bytes, crc32)
        if "pieces" in note:
            for file_index, offset, size_bytes, crc32 in note["pieces"]:
                # A part that was sent twice was read twice; the later read is what the store has.
                known = self.pieces.setdefault(index, {})
                known[file_index, offset] = FilePiece(file_index, offset, size_bytes, crc32)
        if "md5" in note:
            self.md5s[index, note["part"][0]] = note["md5"]
        if note.get("copied"):
            self.copied.add(index)
        if "etag" in note:
            self.etags[index] = note["etag"]
        if note.get("complete"):
            self.complete.add(index)

    def _forget(self, index: int) -> None:
        self.upload_ids.pop(index, None)
        self.noted_bytes -= sum(part.size_bytes for part in self.parts.pop(index, {}).values())
        self.pieces.pop(index, None)
        self.complete.discard(index)
        self.etags.pop(index, None)
        self.copied.discard(index)
        self.md5s = {part: md5 for part, md5 in self.md5s.items() if part[0] != index}

    def _add(self, note: dict[str, Any]) -> None:
        self._take(note)
        self._log.append(note)

    def began(self, index: int, upload_id: str, key: str) -> None:
        """A multipart upload was begun."""
        self._add({"object": index, "upload": upload_id, "key": key})

    def stored(
        self, index: int, part: Part, pieces: Iterable[FilePiece], *, complete: bool = False, md5: str = "", copied: bool = False
    ) -> None:
        """A part is in the store; with `complete`, it was the whole object. `md5` is empty where it was not computed."""
        self._add(
            {
                "object": index,
                "part": [part.number, part.etag, part.size_bytes, part.crc32],
                "pieces": [[piece.file_index, piece.offset, piece.size_bytes, piece.crc32] for piece in pieces],
                "complete": complete,
                **({"md5": md5} if md5 else {}),
                **({"copied": True} if copied else {}),
            }
        )

    def completed(self, index: int, etag: str) -> None:
        """The parts were joined into an object with this etag."""
        self._add({"object": index, "complete": True, "etag": etag})

    def forget(self, index: int) -> None:
        """What was sent of an object is gone from the store."""
        self._forget(index)
        self._log.append({"object": index, "forget": True})

    def restart(self) -> None:
        """Forget all: a later upload begins anew."""
        self._log.restart()

    def all_pieces(self) -> dict[int, list[FilePiece]]:
        """Return the pieces of every file, by the index of the file."""
        by_file: dict[int, list[FilePiece]] = {}
        for pieces in self.pieces.values():
            for piece in pieces.values():
                by_file.setdefault(piece.file_index, []).append(piece)
        return by_file
