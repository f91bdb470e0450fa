"""Checkpoints that the nodes of a gang save together: how they are numbered, and where what belongs to them lies.

The nodes agree on a number without a word: each counts its group saves. Save numbers below `GROUP_STRIDE` are those before a node's
first group save; the first group has the number `GROUP_STRIDE`, and what a node saves by itself after that counts on from there, up
to the second group. So a later save has a higher number on every node, and no two saves ever have the same.
"""

from __future__ import annotations

from ckpt_async.words import keys
from ckpt_async.words.names import encode_name

__all__ = [
    "GROUP_STRIDE",
    "group_after",
    "group_folder",
    "groups_folder",
    "is_group_number",
    "node_folder",
    "part_key",
    "resume_key",
]

#: Between the numbers of two groups. A thousand nodes have a million numbers each in between.
GROUP_STRIDE = 10**9


def group_after(version_to_come: int) -> int:
    """Return the number of a node's next group save, `version_to_come` being that of its next save by itself."""
    return (version_to_come // GROUP_STRIDE + 1) * GROUP_STRIDE


def is_group_number(version: int) -> bool:
    """Return whether, in a gang, this is the number of a group save."""
    return version >= GROUP_STRIDE and version % GROUP_STRIDE == 0


def node_folder(node_index: int) -> str:
    """Return the folder inside a group's checkpoint in which the files of a node lie."""
    return f"node-{node_index}"


def groups_folder(pathspec: str) -> str:
    """Return the prefix of what is noted of a task's group saves."""
    return f"{keys.ROOT}/groups/{pathspec}/"


def group_folder(pathspec: str, attempt: int, name: str, version: int) -> str:
    """Return the prefix of what is noted of one group save."""
    return f"{groups_folder(pathspec)}{attempt}.{encode_name(name)}.{version}/"


def part_key(folder: str, node_index: int) -> str:
    """Return the key under which a node notes that its part is stored. `folder`: as `group_folder` returns it."""
    return f"{folder}{node_index:06d}.json"


def resume_key(pathspec: str, attempt: int) -> str:
    """Return the key under which the nodes of an attempt agree on the group that they go on from."""
    return f"{groups_folder(pathspec)}{attempt}.resume"
