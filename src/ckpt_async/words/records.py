"""The record: the small JSON text that makes a checkpoint visible, and which of two is the later one."""

from __future__ import annotations

import copy
import json
import re
import time
import zlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, TypeGuard

from ckpt_async.words import groups, keys
from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument
from ckpt_async.words.identity import TaskIdentity

__all__ = ["STORAGE_FORMATS", "CheckpointRecord", "freeze_metadata", "supersedes"]

STORAGE_FORMATS = ("files", "tar")

#: The version of the fields that this package adds to the record.
FORMAT_VERSION = 1

_DIGITS = re.compile(r"[0-9]{1,18}")

_REQUIRED: dict[str, type] = {
    "pathspec": str,
    "pathspec_hash": str,
    "attempt": int,
    "key": str,
    "name": str,
    "storage_format": str,
    "version_id": int,
    "created_on": str,
    "size": int,
}


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint as a reader sees it.

    Attributes
    ----------
    key : str
        The data key; a reference by text is this.
    url : str
        The full address of the data.
    pathspec, pathspec_hash : str
        The task that saved it.
    attempt : int
        The attempt of the task that saved it.
    name : str
        As the user typed it.
    version_id : int
        The save number: counts the saves of the attempt from 0.
    size_bytes : int
        The sum of the files' sizes; with ``tar``, the size of the archive.
    created_on : str
        When ``save()`` was called: ISO, local time, without a zone.
    metadata : dict
        The user's.
    storage_format : str
        ``"files"`` or ``"tar"``.
    manifest : str
        The key of the manifest; empty where another program saved the checkpoint, which then can't be verified.
    saved_at_unix_ns : int
        When ``save()`` was called, in nanoseconds since 1970, UTC.
    latest : bool
        Whether a retry may resume from it; of what another program saved it may.
    num_nodes : int
        Of the gang that it was saved in; 1 outside of one.
    node_index : int
        Of the node that saved it; -1: all of them did, each a part.
    group : bool
        Whether it is a group's, or a part of one.
    """

    key: str
    url: str
    pathspec: str
    pathspec_hash: str
    attempt: int
    name: str
    version_id: int
    size_bytes: int
    created_on: str
    storage_format: str
    metadata: dict[str, Any] = field(default_factory=dict)
    manifest: str = ""
    saved_at_unix_ns: int = 0
    latest: bool = True
    num_nodes: int = 1
    node_index: int = 0
    group: bool = False

    @classmethod
    def of_save(
        cls,
        identity: TaskIdentity,
        *,
        name: str,
        version: int,
        size_bytes: int,
        metadata: dict[str, Any],
        storage_format: str,
        store_url: str,
        latest: bool = True,
        now_unix_ns: int | None = None,
        num_nodes: int = 1,
        node_index: int = 0,
        group: bool = False,
    ) -> CheckpointRecord:
        """Return the record of a save that is being made now; of a group save, that of the node's part."""
        saved_at_unix_ns = time.time_ns() if now_unix_ns is None else now_unix_ns
        key = keys.data_key(identity, name, version)
        return cls(
            key=key,
            url=f"{store_url.rstrip('/')}/{key}",
            pathspec=identity.pathspec,
            pathspec_hash=identity.pathspec_hash,
            attempt=identity.attempt,
            name=name,
            version_id=version,
            size_bytes=size_bytes,
            created_on=datetime.fromtimestamp(saved_at_unix_ns / 1e9).isoformat(),
            storage_format=storage_format,
            metadata=metadata,
            manifest=keys.manifest_key(key),
            saved_at_unix_ns=saved_at_unix_ns,
            latest=latest,
            num_nodes=num_nodes,
            node_index=node_index,
            group=group,
        )

    @property
    def group_folder(self) -> str:
        """The prefix of what is noted of a group save."""
        return groups.group_folder(self.pathspec, self.attempt, self.name, self.version_id)

    def part(self, node_index: int) -> CheckpointRecord:
        """Return the part of one node as if it were a checkpoint of its own: for its upload, and for a load of it alone. No such
        record is ever stored.
        """
        folder = groups.node_folder(node_index)
        return replace(
            self,
            key=f"{self.key}/{folder}",
            url=f"{self.url}/{folder}",
            manifest=groups.part_key(self.group_folder, node_index),
            node_index=node_index,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as the dict that is stored, and that ``save()`` hands out."""
        data: dict[str, Any] = {
            "size": self.size_bytes,
            "pathspec": self.pathspec,
            "pathspec_hash": self.pathspec_hash,
            "attempt": self.attempt,
            "key": self.key,
            "type": "checkpoint",
            "url": self.url,
            "name": self.name,
            "created_on": self.created_on,
            "metadata": self.metadata,
            "storage_format": self.storage_format,
            "creation_context": "task",
            "version_id": self.version_id,
        }
        if self.manifest:
            data |= {
                "manifest": self.manifest,
                "save_number": self.version_id,
                "saved_at_unix_ns": self.saved_at_unix_ns,
                "latest": self.latest,
                "format_version": FORMAT_VERSION,
            }
        if self.num_nodes > 1:
            data |= {"num_nodes": self.num_nodes, "node_index": self.node_index, "group": self.group}
        return data

    def to_json(self) -> bytes:
        """Return the text that is stored, the same in all places. It carries a sum of its own, so that damage to it is seen."""
        data = self.to_dict()
        return json.dumps({**data, "crc32": _sum_of(data)}).encode()

    @classmethod
    def from_dict(cls, data: object, *, source: str) -> CheckpointRecord:
        """Read a record; fields that are not known are passed by.

        Raises
        ------
        CheckpointDamaged
            A field is missing or is of the wrong kind; `source` is named.
        """
        if not isinstance(data, dict):
            raise CheckpointDamaged("read a checkpoint's record", on=source, cause=f"it is a {type(data).__name__}, not an object")
        # A child process of a task of metaflow-checkpoint writes them as text.
        data = {**data, **{name: int(data[name]) for name in ("attempt", "version_id") if _is_number_in_text(data.get(name))}}
        for name, kind in _REQUIRED.items():
            value = data.get(name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise CheckpointDamaged(
                    "read a checkpoint's record", on=source, cause=f"{name!r} should be of type {kind.__name__}, it is {value!r}"
                )
            if isinstance(value, int) and not _is_count(value):
                raise CheckpointDamaged(
                    "read a checkpoint's record", on=source, cause=f"{name!r} is no number of 0 or more, of 63 bits"
                )
        if data["storage_format"] not in STORAGE_FORMATS:
            raise CheckpointDamaged("read a checkpoint's record", on=source, cause=f"storage_format is {data['storage_format']!r}")
        try:
            said = keys.parse_data_key(data["key"])
            keys.check_pathspec(data["pathspec"])
        except InvalidArgument as error:
            raise CheckpointDamaged("read a checkpoint's record", on=source, cause=str(error)) from error
        if (said.attempt, said.version) != (data["attempt"], data["version_id"]) or data["name"] not in said.names:
            cause = f"its name and numbers ({data['name']!r}, {data['attempt']}, {data['version_id']}) are not those of its key"
            raise CheckpointDamaged("read a checkpoint's record", on=source, cause=cause)
        manifest = data.get("manifest", "")
        if manifest and manifest != keys.manifest_key(data["key"]):
            raise CheckpointDamaged("read a checkpoint's record", on=source, cause=f"its manifest is {manifest!r}, not its own")
        node = data.get("node_index", 0), data.get("num_nodes", 1)
        if any(type(number) is not int for number in node) or not -1 <= node[0] < node[1]:
            raise CheckpointDamaged("read a checkpoint's record", on=source, cause=f"it is of node {node[0]!r} of {node[1]!r}")
        metadata = data.get("metadata")
        saved_at = data.get("saved_at_unix_ns")
        return cls(
            key=data["key"],
            url=str(data.get("url", "")),
            pathspec=data["pathspec"],
            pathspec_hash=data["pathspec_hash"],
            attempt=data["attempt"],
            name=data["name"],
            version_id=data["version_id"],
            size_bytes=data["size"],
            created_on=data["created_on"],
            storage_format=data["storage_format"],
            metadata=metadata if isinstance(metadata, dict) else {},
            manifest=manifest,
            saved_at_unix_ns=saved_at if _is_count(saved_at) else _unix_ns_of_local(data["created_on"]),
            latest=data.get("latest") is not False,
            num_nodes=node[1],
            node_index=node[0],
            group=data.get("group") is True,
        )

    @classmethod
    def from_json(cls, text: bytes, *, source: str) -> CheckpointRecord:
        """Read the stored text of a record; see `from_dict`. What another program wrote has no sum that could be checked."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointDamaged("read a checkpoint's record", on=source, cause=f"it is not JSON: {error}") from error
        if isinstance(data, dict) and "crc32" in data:
            expected = data.pop("crc32")
            if expected != (found := _sum_of(data)):
                raise CheckpointDamaged(
                    "read a checkpoint's record", on=source, cause=f"its checksum should be {expected}, it is {found}"
                )
        return cls.from_dict(data, source=source)

    @property
    def order(self) -> tuple[int, int]:
        """The place among the checkpoints of one task: attempt, then save number."""
        return self.attempt, self.version_id


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number_in_text(value: object) -> bool:
    return isinstance(value, str) and bool(_DIGITS.fullmatch(value))


def _sum_of(data: object) -> str:
    return f"{zlib.crc32(json.dumps(data, sort_keys=True).encode()):08x}"


def _unix_ns_of_local(created_on: str) -> int:
    """Return the time of a record that another program wrote: naive local time; unreadable counts as the oldest."""
    try:
        return int(datetime.fromisoformat(created_on).astimezone(timezone.utc).timestamp() * 1e9)
    except (ValueError, OverflowError, OSError):
        return 0


def supersedes(new: CheckpointRecord, old: CheckpointRecord) -> bool:
    """Tell whether a `latest` pointer moves from `old` to `new`: never backwards.

    Within a task the attempt counts, then the save number; between tasks (two runs of one scope) the time of the save.
    """
    if new.pathspec == old.pathspec:
        return new.order > old.order
    # The key only so that two of one moment end the same way in whatever order they come.
    return (new.saved_at_unix_ns, new.key) > (old.saved_at_unix_ns, old.key)


def freeze_metadata(metadata: object) -> dict[str, Any]:
    """Return a copy of the user's metadata as JSON can hold it; what JSON can't hold is turned into text.

    Raises
    ------
    InvalidArgument
        `metadata` is not a dict, or it holds itself.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidArgument(
            "save a checkpoint",
            on="metadata",
            cause=f"it is a {type(metadata).__name__}, not a dict",
            hint="Pass metadata={'epoch': 3}.",
        )
    try:
        frozen = json.loads(json.dumps(_with_text_keys(copy.copy(metadata)), default=str))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("save a checkpoint", on="metadata", cause=f"it can't be written as JSON: {error}") from error
    assert isinstance(frozen, dict)
    return frozen


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_text_keys(item) for item in value]
    return value
