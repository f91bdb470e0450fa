"""Where the checkpoints of a gang are kept: told in the metadata of its nodes, for readers that are given one of them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["kept_under", "node_fields"]

_FIELD = "checkpoint-kept-under"


def node_fields(control_pathspec: str) -> dict[str, str]:
    """Return the metadata of a node's task. How Metaflow calls such tasks differs from platform to platform, and tells nothing."""
    return {_FIELD: control_pathspec}


def kept_under(told: Mapping[str, str]) -> str | None:
    """Return the pathspec of the task under which a task's checkpoints are kept; None where that is the task itself."""
    return told.get(_FIELD)
