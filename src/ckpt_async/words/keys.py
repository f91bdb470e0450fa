"""Where everything lies in the store: pure functions from an identity to keys, and back. `docs/layout.md` has the table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.identity import TaskIdentity, check_pathspec
from ckpt_async.words.names import decode_name, encode_name

__all__ = [
    "ALL_DATA",
    "ALL_DELETIONS",
    "ALL_GROUPS",
    "ALL_MANIFESTS",
    "ALL_RECORDS",
    "ALL_TASK_RECORDS",
    "DataKey",
    "ROOT",
    "check_pathspec",
    "data_key",
    "deletion_key",
    "deletions_prefix_of",
    "manifest_key",
    "parse_data_key",
    "pin_key",
    "pins_prefix_of",
    "record_key",
    "scope_latest_key",
    "scope_records_prefix",
    "scope_records_prefix_of",
    "task_latest_key",
    "task_record_key",
    "task_record_key_of",
    "task_records_prefix",
]

ROOT = "mf.checkpoints/checkpoints"
_DATA = f"{ROOT}/artifacts/"

#: The prefixes of everything of one kind.
ALL_DATA = _DATA
ALL_MANIFESTS = f"{ROOT}/manifests/"
ALL_DELETIONS = f"{ROOT}/deletions/"
ALL_RECORDS = f"{ROOT}/artifact_metadata/"
ALL_TASK_RECORDS = f"{ROOT}/metadata/"
ALL_GROUPS = f"{ROOT}/groups/"

RECORD_SUFFIX = ".metadata"
LATEST = "latest"

_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class DataKey:
    """The parts of a data key, as `parse_data_key` reads them.

    `names` are those that it may stand for: the one that ours writes so, and the one that another program has put there as typed.
    """

    flow: str
    step: str
    scope: str
    task_identifier: str
    pathspec_hash: str
    attempt: int
    name: str
    version: int
    names: tuple[str, str]


def _family(identity: TaskIdentity) -> str:
    return f"{identity.flow}/{identity.step}/{identity.scope}/{identity.task_identifier}"


def _leaf(identity: TaskIdentity, name: str, version: int) -> str:
    return f"{identity.pathspec_hash}.{identity.attempt}.{encode_name(name)}.{version}"


def data_key(identity: TaskIdentity, name: str, version: int) -> str:
    """The key of a checkpoint's data: a prefix for ``files``, an object for ``tar``. Also what a reference names."""
    return f"{_DATA}{_family(identity)}/{_leaf(identity, name, version)}"


def manifest_key(key: str) -> str:
    """The key of the manifest that belongs to the data key `key`."""
    return f"{ROOT}/manifests/{key.removeprefix(_DATA)}.json"


def deletion_key(key: str) -> str:
    """The key of the mark that stands while the checkpoint with the data key `key` is being deleted."""
    return f"{ROOT}/deletions/{key.removeprefix(_DATA)}.json"


def deletions_prefix_of(key: str) -> str:
    """The prefix of the marks of the scope and task identifier that the data key `key` belongs to."""
    return deletion_key(key).rpartition("/")[0] + "/"


def pin_key(key: str) -> str:
    """The key of the pin of the checkpoint with the data key `key`: while it stands, no rule deletes that checkpoint."""
    return f"{ROOT}/pins/{key.removeprefix(_DATA)}.json"


def pins_prefix_of(key: str) -> str:
    """The prefix of the pins of the scope and task identifier that the data key `key` belongs to."""
    return pin_key(key).rpartition("/")[0] + "/"


def record_key(key: str) -> str:
    """The key of the record by key that belongs to the data key `key`."""
    return f"{ROOT}/artifact_metadata/{key.removeprefix(_DATA)}{RECORD_SUFFIX}"


def scope_records_prefix(identity: TaskIdentity) -> str:
    """The prefix of all records of the scope and task identifier."""
    return f"{ROOT}/artifact_metadata/{_family(identity)}/"


def scope_records_prefix_of(key: str) -> str:
    """Likewise, of the scope and task identifier that the data key `key` belongs to."""
    return record_key(key).rpartition("/")[0] + "/"


def scope_latest_key(identity: TaskIdentity) -> str:
    """The key of the pointer to the newest checkpoint of the scope and task identifier."""
    return scope_records_prefix(identity) + LATEST


def task_records_prefix(pathspec: str) -> str:
    """The prefix of all records of one task."""
    return f"{ROOT}/metadata/{pathspec}/"


def task_record_key(identity: TaskIdentity, name: str, version: int) -> str:
    """The key of the record by task."""
    return f"{task_records_prefix(identity.pathspec)}{identity.attempt}.{encode_name(name)}.{version}{RECORD_SUFFIX}"


def task_record_key_of(key: str, pathspec: str) -> str:
    """The key of the record by task that belongs to the data key `key`, of the task `pathspec`."""
    _, _, of_attempt = key.rpartition("/")[2].partition(".")
    return f"{task_records_prefix(pathspec)}{of_attempt}{RECORD_SUFFIX}"


def task_latest_key(pathspec: str) -> str:
    """The key of the pointer to the newest checkpoint of the task."""
    return task_records_prefix(pathspec) + LATEST


def parse_data_key(key: str) -> DataKey:
    """Take a data key apart.

    Raises
    ------
    InvalidArgument
        `key` is not the key of a checkpoint.
    """
    parts = key.removeprefix(_DATA).split("/")
    if key.startswith(_DATA) and len(parts) == 5 and all(parts):
        flow, step, scope, task_identifier, leaf = parts
        fields = leaf.split(".")
        # A name written by another program may hold dots: the first two fields and the last one are fixed.
        if len(fields) >= 4 and _NUMBER.fullmatch(fields[1]) and _NUMBER.fullmatch(fields[-1]) and not {".", ".."} & set(parts):
            name = ".".join(fields[2:-1])
            decoded = decode_name(name)
            names = (decoded, name)
            return DataKey(flow, step, scope, task_identifier, fields[0], int(fields[1]), decoded, int(fields[-1]), names)
    raise InvalidArgument(
        "read a checkpoint's key",
        on=repr(key),
        cause="it has not the form of one",
        hint=f"A key looks like {_DATA}FLOW/STEP/SCOPE/TASK/HASH.ATTEMPT.NAME.VERSION, as in the 'key' of a reference.",
    )
