"""One save as it lies in the spool, and the file that describes it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ckpt_async.disk.snapshot import Snapshot
from ckpt_async.words.errors import CheckpointDamaged, SpoolDamaged
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord

__all__ = ["Entry"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A save in the spool.

    Attributes
    ----------
    id : str
        See `ckpt_async.spool.states.entry_id`.
    identity : TaskIdentity
        Whose it is.
    record : CheckpointRecord
        What will make it visible in the store, complete already.
    snapshot : Snapshot
        The frozen files.
    """

    id: str
    identity: TaskIdentity
    record: CheckpointRecord
    snapshot: Snapshot

    def to_json(self) -> bytes:
        """Return the text of the entry's description."""
        return json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "identity": dataclasses.asdict(self.identity),
                "record": self.record.to_dict(),
                "snapshot": self.snapshot.to_dict(),
            }
        ).encode()

    @classmethod
    def from_json(cls, name: str, text: bytes, *, source: str) -> Entry:
        """Read a description.

        Raises
        ------
        SpoolDamaged
            It is not what `to_json` wrote.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data["format_version"] != FORMAT_VERSION:
                raise SpoolDamaged(
                    "read a saved checkpoint",
                    on=source,
                    cause=f"it is of format {data['format_version']!r}, this version reads {FORMAT_VERSION}",
                    hint="Upload it with the version of ckpt-async that saved it.",
                )
            return cls(
                id=name,
                identity=TaskIdentity(**data["identity"]),
                record=CheckpointRecord.from_dict(data["record"], source=source),
                snapshot=Snapshot.from_dict(data["snapshot"], source),
            )
        except (ValueError, KeyError, TypeError, CheckpointDamaged) as error:
            raise SpoolDamaged("read a saved checkpoint", on=source, cause=f"{type(error).__name__}: {error}") from error
