"""Checkpoints that the nodes of a gang save together: how they are numbered, and where what belongs to them lies.

The nodes agree on a number without a word: each counts its group saves. Save numbers below `GROUP_STRIDE` are those before a node's
first group save; the first group has the number `GROUP_STRIDE`, and what a node saves by itself after that counts on from there, up
to the second group. So a later save has a higher number on every node, and no two saves ever have the same.
"""

from __future__ import annotations

import re

from ckpt_async.words import keys
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.names import decode_name, encode_name

__all__ = [
    "COMMITTED",
    "DELETED",
    "GIVEN_UP",
    "GROUP_STRIDE",
    "damaged_key",
    "group_after",
    "group_folder",
    "group_leaf",
    "groups_folder",
    "has_group_number",
    "is_group_number",
    "node_folder",
    "parse_group_leaf",
    "part_key",
    "resume_key",
    "verdict_key",
]

#: Between the numbers of two groups. A thousand nodes have a million numbers each in between.
GROUP_STRIDE = 10**9

#: What can be decided of a group save: that it becomes visible, that it never does, that it was and is no more.
COMMITTED = b"committed"
GIVEN_UP = b"given up"
DELETED = b"deleted"

_LEAF = re.compile(r"([0-9]{1,18})\.([A-Za-z0-9_~-]+)\.([0-9]{1,18})")


def group_after(version_to_come: int) -> int:
    """Return the number of a node's next group save, `version_to_come` being that of its next save by itself."""
    return (version_to_come // GROUP_STRIDE + 1) * GROUP_STRIDE


def is_group_number(version: int) -> bool:
    """Return whether, in a gang, this is the number of a group save."""
    return version >= GROUP_STRIDE and version % GROUP_STRIDE == 0


def has_group_number(key: str) -> bool:
    """Return whether the key of a checkpoint's data, or the end of one, has the number of a group save."""
    number = key.rpartition(".")[2]
    return number.isdecimal() and is_group_number(int(number))


def node_folder(node_index: int) -> str:
    """Return the folder inside a group's checkpoint in which the files of a node lie."""
    return f"node-{node_index}"


def groups_folder(pathspec: str) -> str:
    """Return the prefix of what is noted of a task's group saves."""
    return f"{keys.ROOT}/groups/{pathspec}/"


def group_folder(pathspec: str, attempt: int, name: str, version: int) -> str:
    """Return the prefix of what is noted of one group save."""
    return f"{groups_folder(pathspec)}{group_leaf(attempt, name, version)}/"


def group_leaf(attempt: int, name: str, version: int) -> str:
    """Return what a group save is called below `groups_folder`."""
    return f"{attempt}.{encode_name(name)}.{version}"


def parse_group_leaf(leaf: str) -> tuple[int, str, int] | None:
    """Return the attempt, name and version that `group_leaf` made `leaf` of; None where it has made it of none."""
    fields = _LEAF.fullmatch(leaf)
    if fields is None:
        return None
    try:
        parsed = int(fields[1]), decode_name(fields[2]), int(fields[3])
    except InvalidArgument:
        return None
    return parsed if group_leaf(*parsed) == leaf else None


def part_key(folder: str, node_index: int) -> str:
    """Return the key under which a node notes that its part is stored. `folder`: as `group_folder` returns it."""
    return f"{folder}{node_index:06d}.json"


def verdict_key(folder: str) -> str:
    """Return the key under which is decided what becomes of a group save. `folder`: as `group_folder` returns it."""
    return f"{folder}verdict"


def damaged_key(folder: str) -> str:
    """Return the key of the mark that a node could not load its part of a group save. `folder`: as `group_folder` returns it."""
    return f"{folder}damaged"


def resume_key(pathspec: str, attempt: int) -> str:
    """Return the key under which the nodes of an attempt agree on the group that they go on from."""
    return f"{groups_folder(pathspec)}{attempt}.resume"
